"""Policies: BackendTLSPolicy and XBackendTrafficPolicy at backends, XTelemetryPolicy at Gateways; who wins, and status."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import (
    ancestors,
    ask,
    clusters,
    gateway,
    graph,
    http,
    parent,
    pool,
    ref,
    route,
    rule,
    service,
    status,
    thing,
)
from tests.xds_server.test_resolve_tls import BUNDLE, A, B, authority, config_map
from xds_server.model.graph import Backend, Forward, Graph, Reply, RetryBudget
from xds_server.model.objects import ClusterState, Object
from xds_server.resolve.context import Context
from xds_server.resolve.tracing import gateway_tracing

GOOD = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}
CONFLICTED = {"Accepted": ("False", "Conflicted"), "ResolvedRefs": ("True", "ResolvedRefs")}
TWO_PORTS = [{"name": "one", "port": 80}, {"name": "two", "port": 81}]


def policy(
    name: str = "p", *refs: Any, to: str = "s", port: str = "", hostname: str = "s.example.com", **more: Any
) -> Object:
    target = {"group": "", "kind": "Service", "name": to, **({"sectionName": port} if port else {})}
    validation: dict[str, Any] = {"hostname": hostname, **more.pop("validation", {})}
    if "wellKnownCACertificates" not in validation:
        validation["caCertificateRefs"] = list(refs) or [config_map()]
    return thing("BackendTLSPolicy", name, {"targetRefs": [target], "validation": validation}, **more)


def only(found: Graph, path: str = "/") -> Backend:
    action = ask(found, "a", path).action  # type: ignore[union-attr]
    assert isinstance(action, Forward)
    backend = action.backends[0].backend
    assert backend is not None
    return backend


class TestBackendTLS:
    def test_a_whole_service(self) -> None:
        found = graph(gateway(), route("r"), service(), authority(), policy())
        tls = only(found).tls
        assert tls is not None
        assert tls.hostname == "s.example.com"
        assert tls.authorities is not None
        assert tls.authorities.pem.decode() == A
        assert tls.verify
        assert ancestors(found, "BackendTLSPolicy", "p") == {"gw": GOOD}
        assert not found.problems

    def test_the_name_of_a_cluster_is_what_is_checked(self) -> None:
        def cluster(*objects: Object) -> str:
            return only(graph(gateway(), route("r"), service(), authority(), authority("b", B), *objects)).cluster

        names = [
            cluster(),
            cluster(policy()),
            cluster(policy(hostname="t.example.com")),
            cluster(policy("p", config_map("b"))),
            cluster(policy(validation={"wellKnownCACertificates": "System"})),
            cluster(policy(validation={"subjectAltNames": [{"type": "Hostname", "hostname": "x.example.com"}]})),
        ]
        assert len(set(names)) == len(names)
        assert {name.partition("~")[0] for name in names} == {"service/d/s/80"}
        assert cluster(policy()) == cluster(policy("another"))

    @pytest.mark.parametrize("port", [80, 81])
    def test_a_port_beats_the_service_whatever_their_age(self, port: int) -> None:
        found = graph(
            gateway(),
            route("r", rule(to=[{"name": "s", "port": port}])),
            service(service_ports=TWO_PORTS),
            authority(),
            policy("old", created="2020-01-01T00:00:00Z"),
            policy("young", port="two", hostname="two.example.com", created="2021-01-01T00:00:00Z"),
        )
        tls = only(found).tls
        assert tls is not None
        assert tls.hostname == ("two.example.com" if port == 81 else "s.example.com")
        assert ancestors(found, "BackendTLSPolicy", "old") == {"gw": GOOD}
        # A policy of a port that no route uses reaches nobody.
        assert ancestors(found, "BackendTLSPolicy", "young") == ({"gw": GOOD} if port == 81 else {})

    def test_the_oldest_of_two_wins_then_the_name(self) -> None:
        held = [gateway(), route("r"), service(), authority()]
        young, old = policy("a", created="2021-01-01T00:00:00Z"), policy("b", created="2020-01-01T00:00:00Z")
        found = graph(*held, young, old)
        assert ancestors(found, "BackendTLSPolicy", "a") == {"gw": CONFLICTED}
        assert ancestors(found, "BackendTLSPolicy", "b") == {"gw": GOOD}
        assert "older BackendTLSPolicy d/b" in status(found, "BackendTLSPolicy", "a").ancestors[0].conditions[0].message
        found = graph(*held, policy("a"), policy("b"))
        assert ancestors(found, "BackendTLSPolicy", "b") == {"gw": CONFLICTED}

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            (config_map("none"), "InvalidCACertificateRef"),
            ({"group": "x.io", "kind": "Thing", "name": "ca"}, "InvalidKind"),
            (BUNDLE, "InvalidCACertificateRef"),
        ],
    )
    def test_nobody_to_trust_is_500_and_never_plaintext(self, target: Any, reason: str) -> None:
        found = graph(gateway(), route("r"), service(), authority(), policy("p", target))
        assert ask(found, "a").action == Reply(500)  # type: ignore[union-attr]
        assert parent(found, "r") == GOOD
        assert ancestors(found, "BackendTLSPolicy", "p") == {
            "gw": {"Accepted": ("False", "NoValidCACertificate"), "ResolvedRefs": ("False", reason)}
        }
        assert found.problems
        assert not found.backends

    def test_of_several_authorities_those_that_hold_count(self) -> None:
        found = graph(gateway(), route("r"), service(), authority(), policy("p", config_map("none"), config_map()))
        assert only(found).tls
        said = ancestors(found, "BackendTLSPolicy", "p")["gw"]
        assert said == {**GOOD, "ResolvedRefs": ("False", "InvalidCACertificateRef")}

    def test_well_known_authorities(self) -> None:
        held = [gateway(), route("r"), service()]
        system = only(graph(*held, policy(validation={"wellKnownCACertificates": "System"}))).tls
        assert system is not None
        assert system.authorities is None
        assert system.verify
        other = graph(*held, policy(validation={"wellKnownCACertificates": "x.io/ours"}))
        assert ask(other, "a").action == Reply(500)  # type: ignore[union-attr]
        assert ancestors(other, "BackendTLSPolicy", "p")["gw"]["Accepted"] == ("False", "Invalid")

    def test_a_share_that_cannot_be_kept_costs_its_share(self) -> None:
        to = [{"name": "s", "port": 80}, {"name": "t", "port": 80}]
        found = graph(
            gateway(), route("r", rule(to=to)), service(), service("t"), policy("p", config_map("none"), to="t")
        )
        assert clusters(ask(found, "a")) == ["service/d/s/80", ""]
        assert parent(found, "r") == GOOD

    def test_mirrors_too(self) -> None:
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "t", "port": 80}}}
        found = graph(
            gateway(), route("r", rule(filters=[mirror])), service(), service("t"), authority(), policy(to="t")
        )
        assert [name.partition("~")[0] for name in found.backends] == ["service/d/s/80", "service/d/t/80"]
        assert found.backends[list(found.backends)[1]].tls
        assert ancestors(found, "BackendTLSPolicy", "p") == {"gw": GOOD}

    def test_wss_needs_a_policy(self) -> None:
        secure = service(service_ports=[{"port": 80, "appProtocol": "kubernetes.io/wss"}])
        held = [gateway(), route("r"), secure, authority()]
        assert parent(graph(*held), "r")["ResolvedRefs"] == ("False", "UnsupportedProtocol")
        assert only(graph(*held, policy())).tls
        assert only(graph(*held[:2], service(service_ports=[{"port": 80, "appProtocol": "kubernetes.io/ws"}])))


class TestAncestors:
    def test_every_gateway_that_reaches_it_and_no_other(self) -> None:
        parents = [{"name": "one"}, {"name": "two", "sectionName": "none"}, {"name": "elsewhere"}]
        gateways = [gateway("one"), gateway("two", http(port=81)), gateway("three", http(port=82))]
        found = graph(*gateways, route("r", parents=parents), service(), authority(), policy())
        assert ancestors(found, "BackendTLSPolicy", "p") == {"one": GOOD}

    def test_nobody(self) -> None:
        found = graph(gateway(), policy())
        assert status(found, "BackendTLSPolicy", "p").ancestors == ()
        assert {each.reason for each in found.problems} == {
            "NoValidCACertificate",
            "InvalidCACertificateRef",
        }

    def test_a_target_that_is_not_there(self) -> None:
        found = graph(gateway(), route("r"), authority(), policy())
        assert ancestors(found, "BackendTLSPolicy", "p")["gw"]["Accepted"] == ("False", "TargetNotFound")
        other = graph(gateway(), route("r"), service(), authority(), policy(port="none"))
        assert [each.reason for each in other.problems] == ["TargetNotFound"]

    def test_a_reference_that_is_not_permitted_reaches_nobody(self) -> None:
        to = [{"name": "s", "namespace": "other", "port": 80}]
        found = graph(gateway(), route("r", rule(to=to)), service(ns="other"), policy(ns="other"))
        assert status(found, "BackendTLSPolicy", "p", "other").ancestors == ()

    def test_at_most_16(self) -> None:
        gateways = [gateway(f"g{at}", http(port=1000 + at)) for at in range(20)]
        parents = [{"name": f"g{at}"} for at in range(20)]
        found = graph(*gateways, route("r", parents=parents), service(), authority(), policy())
        assert len(ancestors(found, "BackendTLSPolicy", "p")) == 16


def traffic(name: str = "t", to: str = "s", **spec: Any) -> Object:
    return thing("XBackendTrafficPolicy", name, {"targetRefs": [{"group": "", "kind": "Service", "name": to}], **spec})


class TestTraffic:
    def test_a_budget(self) -> None:
        constraint = {
            "budget": {"percent": 30, "interval": "20s"},
            "minRetryRate": {"count": 120, "interval": "1m"},
        }
        found = graph(gateway(), route("r"), service(), traffic(retryConstraint=constraint))
        assert only(found).budget == RetryBudget(30, 20.0, 2)
        assert only(found).cluster == "service/d/s/80"
        assert ancestors(found, "XBackendTrafficPolicy", "t") == {"gw": {"Accepted": ("True", "Accepted")}}

    def test_none(self) -> None:
        assert only(graph(gateway(), route("r"), service(), traffic())).budget is None

    def test_the_oldest_wins(self) -> None:
        one, two = (traffic(name, retryConstraint={"budget": {"percent": at}}) for at, name in ((1, "a"), (2, "b")))
        found = graph(gateway(), route("r"), service(), two, one)
        budget = only(found).budget
        assert budget is not None
        assert budget.percent == 1
        assert ancestors(found, "XBackendTrafficPolicy", "b")["gw"]["Accepted"] == ("False", "Conflicted")


def telemetry(name: str = "t", to: str = "gw", mode: str = "Enabled", **target: Any) -> Object:
    provider = {"provider": {"backendRef": {"name": "s", "port": 80, **target}}} if mode == "Enabled" else {}
    targets = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": to}]
    return thing("XTelemetryPolicy", name, {"targetRefs": targets, "tracing": {"mode": mode, **provider}})


class TestTelemetry:
    def test_the_collector_speaks_grpc(self) -> None:
        objects = [gateway(), service(), telemetry()]
        found = gateway_tracing(ref("Gateway", "gw"), Context(ClusterState.of(objects)))
        assert found is not None
        assert found.collector is not None
        assert (found.collector.cluster, found.collector.protocol) == ("service/d/s/80/h2c", "h2c")
        assert ancestors(graph(*objects), "XTelemetryPolicy", "t") == {"gw": GOOD}

    def test_a_collector_that_is_not_there(self) -> None:
        objects = [gateway(), telemetry()]
        assert gateway_tracing(ref("Gateway", "gw"), Context(ClusterState.of(objects))) is None
        said = ancestors(graph(*objects), "XTelemetryPolicy", "t")["gw"]
        assert said == {**GOOD, "ResolvedRefs": ("False", "BackendNotFound")}

    def test_a_pool_collects_nothing(self) -> None:
        wrong = telemetry(group="inference.networking.k8s.io", kind="InferencePool")
        spec = {"appProtocol": "kubernetes.io/h2c"}
        said = ancestors(graph(gateway(), pool("s", spec=spec), wrong), "XTelemetryPolicy", "t")["gw"]
        assert said["ResolvedRefs"] == ("False", "InvalidKind")

    def test_off_is_said_too(self) -> None:
        found = gateway_tracing(ref("Gateway", "gw"), Context(ClusterState.of([telemetry(mode="Disabled")])))
        assert found is not None
        assert (found.policy.mode, found.collector) == ("Disabled", None)

    def test_one_policy_a_gateway_and_only_ours(self) -> None:
        other = gateway("other", http(port=81), spec={"gatewayClassName": "another"})
        objects = [gateway(), other, service(), telemetry("a"), telemetry("b"), telemetry("c", to="other")]
        found = graph(*objects)
        assert ancestors(found, "XTelemetryPolicy", "a") == {"gw": GOOD}
        assert ancestors(found, "XTelemetryPolicy", "b")["gw"]["Accepted"] == ("False", "Conflicted")
        assert ancestors(found, "XTelemetryPolicy", "c") == {}
