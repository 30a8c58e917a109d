"""`penstock controller`: what its options and the pod's environment come to."""

import pytest

from penstock import controller
from penstock.cli import parser
from penstock.settings import Autoscaling


def settings(*arguments: str) -> controller.Settings:
    return controller.settings(parser().parse_args(["controller", *arguments]))


def test_in_a_pod_it_needs_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("POD_NAME", "penstock-1"), ("POD_NAMESPACE", "gateways"), ("POD_IP", "10.0.0.7")):
        monkeypatch.setenv(name, value)
    found = settings()
    assert found.kubernetes
    assert (found.kubernetes.namespace, found.kubernetes.address) == ("gateways", "10.0.0.7")
    assert found.kubernetes.identity.startswith("penstock-1_")
    again = settings().kubernetes
    assert again and again.identity != found.kubernetes.identity  # a container that restarts is another candidate
    assert found.kubernetes.provision
    assert not found.proxy.start


def test_what_is_made_for_gateways_is_the_operators_choice() -> None:
    found = settings("--envoy-replicas", "3", "--service-type", "ClusterIP", "--watch-namespace", "a", "--no-provision")
    assert found.kubernetes
    made = found.kubernetes.infrastructure
    assert (made.replicas, made.service_type) == (3, "ClusterIP")
    assert (found.kubernetes.watch, found.kubernetes.provision) == (("a",), False)


def test_autoscalers_are_served_where_the_operator_says() -> None:
    assert settings().autoscaling == Autoscaling()
    found = settings("--external-metrics", "0.0.0.0:6443", "--scaler", "0.0.0.0:9095", "--scaler-tls").autoscaling
    assert found == Autoscaling("0.0.0.0:6443", "0.0.0.0:9095", scaler_tls=True)
    assert found.addresses == "0.0.0.0:9095, 0.0.0.0:6443"
