"""What is made for a Gateway: names, identity, hardening, addresses. That it runs is seen in a cluster: docs say how."""

import json
import re
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from xds_server.identity import Account
from xds_server.infrastructure import (
    HASH,
    Infrastructure,
    fleet_of,
    label_value,
    manifests,
    ours,
    owners,
    resource_name,
)
from xds_server.model.objects import GATEWAY_GROUP, Gateway, Listener, Meta, ObjectRef

SETTINGS = Infrastructure("penstock.sys.svc:18000", "penstock.sys.svc", "-----BEGIN CERTIFICATE-----")
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # RFC 1035, which Services ask for
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def gateway(name: str = "web", gateway_class: str = "penstock", created: str = "", **fields: Any) -> Gateway:
    meta = Meta(ObjectRef(GATEWAY_GROUP, "Gateway", "prod", name), created=created)
    return Gateway(meta, gateway_class, (Listener("http", 80, "HTTP"),), **fields)


def by_kind(made: Gateway, *ports: Any, settings: Infrastructure = SETTINGS, **options: Any) -> dict[str, Any]:
    return {each["kind"]: each for each in manifests(made, ports or [(80, "TCP")], settings, **options)}


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,200}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_every_name_is_valid_and_belongs_to_one(name: str, other: str) -> None:
    made, label = resource_name(gateway(name)), label_value(name)
    assert DNS_LABEL.fullmatch(made) and len(made) <= 63
    assert LABEL_VALUE.fullmatch(label) and len(label) <= 63
    assert (resource_name(gateway(other)) == made) == (name == other)


def test_a_short_name_is_the_one_of_gep_1762() -> None:
    assert resource_name(gateway("web")) == "web-penstock"
    assert resource_name(gateway("a.b")) != resource_name(gateway("a-b")) == "a-b-penstock"
    assert label_value("a.b") == "a.b"


def test_of_two_gateways_with_one_name_the_older_has_it() -> None:
    old, young = gateway("a", "b-c", "2025"), gateway("a-b", "c", "2026")
    assert resource_name(old) == resource_name(young)
    owned = owners([young, old])
    assert list(owned.values()) == [old]
    find = fleet_of(owned)
    assert find(Account("prod", "a-b-c")) == "prod/a"
    assert find(Account("other", "a-b-c")) is None
    assert find(Account("prod", "default")) is None


def test_everything_is_labelled_owned_and_in_the_namespace() -> None:
    made = gateway(
        infrastructure_labels={"team": "a", "app.kubernetes.io/managed-by": "me"}, infrastructure_annotations={"k": "v"}
    )
    found = by_kind(made, uid="u-1")
    assert list(found) == ["ServiceAccount", "ConfigMap", "Service", "Deployment", "PodDisruptionBudget"]
    for each in [*found.values(), found["Deployment"]["spec"]["template"]]:
        meta = each["metadata"]
        assert meta["labels"] == {
            "team": "a",
            "app.kubernetes.io/managed-by": "penstock",
            "gateway.networking.k8s.io/gateway-name": "web",
            "gateway.networking.k8s.io/gateway-class-name": "penstock",
        }
        assert meta["annotations"]["k"] == "v"
        if each.get("kind"):
            assert meta["namespace"] == "prod" and meta["ownerReferences"][0]["uid"] == "u-1"
            assert ours(each, "u-1") and not ours(each, "u-2") and not ours({"metadata": {}}, "")


def test_the_pod_has_no_right_that_it_does_not_need() -> None:
    pod = by_kind(gateway())["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True and security["capabilities"] == {"drop": ["ALL"]}
    assert "hostNetwork" not in pod and "command" not in container
    (token,) = [
        each["projected"]["sources"][0]["serviceAccountToken"] for each in pod["volumes"] if "projected" in each
    ]
    assert token["audience"] == "penstock.dev"
    assert pod["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"]
    (quick,) = by_kind(gateway(), settings=replace(SETTINGS, drain=0))["Deployment"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert "lifecycle" not in quick


def test_ports_are_as_written_and_the_status_port_gives_way() -> None:
    found = by_kind(gateway(), (443, "UDP"), (443, "TCP"), (19003, "TCP"), (443, "TCP"))
    ports = found["Service"]["spec"]["ports"]
    assert [(each["name"], each["port"], each["targetPort"], each["protocol"]) for each in ports] == [
        ("tcp-443", 443, 443, "TCP"),
        ("udp-443", 443, 443, "UDP"),
        ("tcp-19003", 19003, 19003, "TCP"),
    ]
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "status", "containerPort": 19004, "protocol": "TCP"} in container["ports"]
    listener = json.loads(found["ConfigMap"]["data"]["bootstrap.json"])["static_resources"]["listeners"][0]
    assert listener["address"]["socket_address"]["port_value"] == 19004


def test_without_ports_there_is_no_service_yet() -> None:
    assert "Service" not in {each["kind"] for each in manifests(gateway(), [], SETTINGS)}


@pytest.mark.parametrize(
    ("kind", "allowed", "found"),
    [
        ("LoadBalancer", False, {"loadBalancerIP": "10.0.0.1"}),
        ("LoadBalancer", True, {"loadBalancerIP": "10.0.0.1", "externalIPs": ["10.0.0.2"]}),
        ("ClusterIP", False, {}),  # a Gateway's author must not take other people's traffic
        ("ClusterIP", True, {"externalIPs": ["10.0.0.1", "10.0.0.2"]}),
    ],
)
def test_addresses(kind: Any, allowed: bool, found: dict[str, Any]) -> None:
    nowhere = (("Hostname", "x"), ("IPAddress", ""), ("IPAddress", "192.0.2.1"), ("IPAddress", "127.0.0.1"))
    addresses = (*nowhere, ("IPAddress", "10.0.0.1"), ("IPAddress", "10.0.0.2"))
    settings = replace(SETTINGS, service_type=kind, external_ips=allowed)
    spec = by_kind(gateway(addresses=addresses), settings=settings)["Service"]["spec"]
    assert {key: spec[key] for key in ("loadBalancerIP", "externalIPs") if key in spec} == found
    assert spec["type"] == kind


def test_equal_inputs_give_equal_manifests_and_a_change_another_hash() -> None:
    def hashes(**changes: Any) -> dict[str, str]:
        made = by_kind(gateway(), settings=replace(SETTINGS, **changes))
        return {kind: each["metadata"]["annotations"][HASH] for kind, each in made.items()}

    same = hashes()
    assert hashes() == same
    changed = hashes(authority="another")
    assert {kind for kind in same if same[kind] != changed[kind]} == {
        "ConfigMap",
        "Deployment",
    }  # the pods are rolled out
    assert {kind for kind in same if same[kind] != hashes(image="x")[kind]} == {"Deployment"}
    ports = [
        manifests(gateway(), order, SETTINGS) for order in ([(80, "TCP"), (81, "TCP")], [(81, "TCP"), (80, "TCP")])
    ]
    assert ports[0] == ports[1]


def test_one_replica_needs_no_budget() -> None:
    assert "PodDisruptionBudget" not in by_kind(gateway(), settings=replace(SETTINGS, replicas=1))
