"""Backends beyond Service and pool: XBackend, gRPC, UDP; and what a rule asks of them: auth, CORS, sessions."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.xds_server.resolve_world import (
    ancestors,
    ask,
    clusters,
    gateway,
    graph,
    parent,
    pod,
    pool,
    ref,
    route,
    rule,
    service,
    thing,
)
from tests.xds_server.test_resolve_gateways import secret
from tests.xds_server.test_resolve_policies import only, policy, traffic
from tests.xds_server.test_resolve_tls import authority, config_map
from xds_server.model.graph import CORS, Forward, Graph, Persistence, Redirect, Reply, Route
from xds_server.model.objects import (
    BackendRef,
    ClusterState,
    ExternalAuthFilter,
    HTTPRoute,
    Listener,
    Object,
    UnknownFilter,
)
from xds_server.resolve.auth import listener_auth
from xds_server.resolve.backends import backend_endpoints, resolve_backend
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied, Ok

X_GROUP = "gateway.networking.x-k8s.io"
TO_X = [{"group": X_GROUP, "kind": "XBackend", "name": "x"}]
TRUSTED = {"caCertificateRefs": [config_map()], "hostname": "in.example.com"}


def external(**spec: Any) -> Object:
    where = {"type": "ExternalHostname", "externalHostname": {"hostname": "api.example.com"}}
    return thing("XBackend", "x", {**where, "port": {"number": 443}, **spec})


def selecting(**spec: Any) -> Object:
    where = {"type": "EndpointSelector", "endpointSelector": {"matchLabels": {"app": "p"}}}
    return thing("XBackend", "x", {**where, "port": {"number": 8000}, **spec})


def routed(*objects: Object) -> Graph:
    return graph(gateway(), route("r", rule(to=TO_X)), *objects)


def first(found: Graph, path: str = "/") -> Route:
    taken = ask(found, "a", path)
    assert taken is not None
    return taken


class TestXBackend:
    def test_a_name_outside_of_the_cluster(self) -> None:
        found = routed(external(tls={"mode": "ServerOnly", "validation": TRUSTED}), authority())
        backend = only(found)
        assert (backend.hostname, backend.port) == ("api.example.com", 443)
        assert backend.cluster.startswith("backend/d/x~")
        assert backend.tls is not None
        assert backend.tls.hostname == "in.example.com"
        assert found.endpoints[backend.cluster] == ()
        assert ancestors(found, "XBackend", "x") == {"gw": {"Accepted": ("True", "Accepted")}}

    def test_pods_by_label(self) -> None:
        found = routed(selecting(), pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False))
        assert list(found.backends) == ["backend/d/x"]
        assert [str(each) for each in found.endpoints["backend/d/x"]] == ["10.0.0.1:8000"]

    @pytest.mark.parametrize(
        ("protocol", "expected"),
        [("HTTP", "http"), ("HTTP11", "http"), ("MCP", "http"), ("H2C", "h2c"), ("GRPC", "h2c")],
    )
    def test_protocols(self, protocol: str, expected: str) -> None:
        assert only(routed(selecting(protocol=protocol))).protocol == expected

    def test_tcp_carries_no_requests(self) -> None:
        assert parent(routed(selecting(protocol="TCP")), "r")["ResolvedRefs"] == ("False", "UnsupportedProtocol")

    @pytest.mark.parametrize("objects", [[authority()], [authority(), secret()]])
    def test_its_own_certificate(self, objects: Any) -> None:
        tls = {"mode": "ClientAndServer", "validation": TRUSTED, "clientCertificateRef": {"name": "cert"}}
        found = routed(external(tls=tls), *objects)
        if len(objects) == 2:
            backend = only(found)
            assert backend.tls is not None
            assert backend.tls.certificate is not None
            assert backend.tls.certificate.name == "d/cert"
        else:
            assert first(found).action == Reply(500)
            assert ancestors(found, "XBackend", "x")["gw"]["Accepted"] == ("False", "InvalidCertificateRef")

    def test_nobody_to_trust_is_500_and_never_plaintext(self) -> None:
        for validation in (TRUSTED, {"wellKnownCACertificates": "x.io/ours", "hostname": "in.example.com"}):
            found = routed(external(tls={"mode": "ServerOnly", "validation": validation}))
            assert first(found).action == Reply(500)
            assert ancestors(found, "XBackend", "x")["gw"]["Accepted"][0] == "False"


def grpc(*matches: dict[str, Any], to: Any = None, **more: Any) -> dict[str, Any]:
    return {"matches": list(matches), "backendRefs": to or [{"name": "s", "port": 80}], **more}


def grpc_route(*rules: dict[str, Any], name: str = "g") -> Object:
    return thing("GRPCRoute", name, {"parentRefs": [{"name": "gw"}], "rules": list(rules)})


def method(service_name: str = "", name: str = "", **more: Any) -> dict[str, Any]:
    asked = {key: value for key, value in (("service", service_name), ("method", name)) if value}
    return {"method": {**asked, **more}}


class TestGRPC:
    def test_its_backends_speak_http2_beside_those_that_do_not(self) -> None:
        said = service("said", service_ports=[{"port": 80, "appProtocol": "kubernetes.io/h2c"}])
        to = [{"name": "s", "port": 80}, {"name": "said", "port": 80}]
        found = graph(gateway(), grpc_route(grpc(method("a.B"), to=to)), route("h", rule("/h")), service(), said)
        assert {name: each.protocol for name, each in found.backends.items()} == {
            "service/d/s/80": "http",
            "service/d/s/80/h2c": "h2c",
            "service/d/said/80": "h2c",
        }
        routes = found.ports[0].chains[0].hosts[0].routes
        assert [each.grpc for each in routes] == [True, False]

    def test_tls_has_its_own_cluster(self) -> None:
        found = graph(gateway(), grpc_route(grpc(method("a.B"))), service(), authority(), policy())
        assert [name.partition("~")[0] for name in found.backends] == ["service/d/s/80/h2c"]
        assert ancestors(found, "BackendTLSPolicy", "p")["gw"]["Accepted"] == ("True", "Accepted")

    def test_the_longest_service_then_the_method_then_headers(self) -> None:
        header = {"headers": [{"name": "x", "value": "1"}]}
        order = [
            {**method("a.Long", "Get"), **header},
            method("a.Long", "Get"),
            method("a.Long"),
            method("a.B", "VeryLong"),
            {**method("a.B"), **header},
            method("a.B"),
            method("a.*", type="RegularExpression"),
            method("", "VeryLong"),
            method("", "Get"),
            header,
            {},
        ]
        rules = [grpc(match, name=f"n{at}") for at, match in reversed(list(enumerate(order)))]
        found = graph(gateway(), grpc_route(*rules), service())
        assert [each.rule for each in found.ports[0].chains[0].hosts[0].routes] == [f"n{at}" for at in range(11)]

    @pytest.mark.parametrize("said", ["kubernetes.io/ws", "kubernetes.io/wss"])
    def test_a_port_that_cannot_carry_it(self, said: str) -> None:
        port = service(service_ports=[{"port": 80, "appProtocol": said}])
        found = graph(gateway(), grpc_route(grpc(method("a.B"))), port)
        assert parent(found, "g", kind="GRPCRoute")["ResolvedRefs"] == ("False", "UnsupportedProtocol")

    def test_a_pool_says_that_it_speaks_http2(self) -> None:
        to = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}]
        held = [gateway(), grpc_route(grpc(method("a.B"), to=to))]
        assert parent(graph(*held, pool()), "g", kind="GRPCRoute")["ResolvedRefs"] == ("False", "UnsupportedProtocol")
        assert list(graph(*held, pool(spec={"appProtocol": "kubernetes.io/h2c"})).backends) == ["pool/d/p"]


class TestConnections:
    @pytest.mark.parametrize(
        ("protocol", "cluster"), [("UDP", "service/d/s/53/udp"), ("TCP", "service/d/s/53"), ("HTTP", "service/d/s/53")]
    )
    def test_a_port_of_the_transport(self, protocol: Any, cluster: str) -> None:
        spec = {"selector": {"app": "p"}}
        ports = [{"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53, "targetPort": 5300}]
        context = Context(ClusterState.of([service(service_ports=ports, spec=spec), pod("a", "10.0.0.1")]))
        found = resolve_backend(ref("UDPRoute", "r"), BackendRef(ref("Service", "s"), 53), context, protocol)
        assert isinstance(found, Ok)
        assert found.target.cluster == cluster
        port = 53 if protocol == "UDP" else 5300
        assert [each.port for each in backend_endpoints(found.target, context)] == [port]

    def test_none_of_the_transport(self) -> None:
        context = Context(ClusterState.of([service()]))
        found = resolve_backend(ref("UDPRoute", "r"), BackendRef(ref("Service", "s"), 80), context, "UDP")
        assert isinstance(found, Denied)
        assert found.reason == "BackendNotFound"

    def test_what_is_encrypted_already_is_passed_on(self) -> None:
        context = Context(ClusterState.of([service(), authority(), policy()]))
        wanted = BackendRef(ref("Service", "s"), 80)
        found = [resolve_backend(ref("TLSRoute", "r"), wanted, context, kind) for kind in ("TCP", "Passthrough")]  # type: ignore[arg-type]
        assert [isinstance(each, Ok) and bool(each.target.tls) for each in found] == [True, False]


def auth(name: str = "authz", protocol: str = "GRPC", **more: Any) -> dict[str, Any]:
    body = {"protocol": protocol, "backendRef": {"name": name, "port": 80, **more}, protocol.lower(): {}}
    return {"type": "ExternalAuth", "externalAuth": body}


class TestAuth:
    @pytest.mark.parametrize(
        ("protocol", "cluster"), [("GRPC", "service/d/authz/80/h2c"), ("HTTP", "service/d/authz/80")]
    )
    def test_the_server_is_a_cluster_too(self, protocol: str, cluster: str) -> None:
        found = graph(gateway(), route("r", rule(filters=[auth(protocol=protocol)])), service(), service("authz"))
        asked = first(found).auth
        assert asked is not None
        assert asked.backend.cluster == cluster
        assert sorted(found.backends) == sorted([cluster, "service/d/s/80"])

    def test_a_server_that_is_not_there_lets_nothing_pass(self) -> None:
        bad, good = rule("/bad", filters=[auth()]), rule("/good")
        found = graph(gateway(), route("r", bad, good), service())
        assert first(found, "/bad").action == Reply(500)
        assert clusters(first(found, "/good")) == ["service/d/s/80"]
        assert parent(found, "r") == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}

    def test_a_server_whose_policy_cannot_be_kept_lets_nothing_pass(self) -> None:
        objects = [service(), service("authz"), policy("p", config_map("none"), to="authz")]
        assert first(graph(gateway(), route("r", rule(filters=[auth()])), *objects)).action == Reply(500)

    def test_redirects_are_asked_for_too(self) -> None:
        redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": "b.example.com"}}
        found = first(graph(gateway(), route("r", rule(to=[], filters=[auth(), redirect])), service("authz")))
        assert isinstance(found.action, Redirect)
        assert found.auth

    def test_twice_is_refused(self) -> None:
        found = route("r", rule(filters=[auth()]))
        assert isinstance(found, HTTPRoute)
        twice = replace(found, rules=(replace(found.rules[0], filters=found.rules[0].filters * 2),))
        said = parent(graph(gateway(), twice, service(), service("authz")), "r")
        assert said["Accepted"] == ("False", "IncompatibleFilters")

    def test_of_a_listener(self) -> None:
        context = Context(ClusterState.of([service("authz")]))
        good = ExternalAuthFilter(BackendRef(ref("Service", "authz"), 80))
        owner = ref("Gateway", "gw")
        found = listener_auth(Listener("l", 80, "HTTP", filters=(good,)), owner, context)
        assert not isinstance(found, Denied)
        assert [each.filter for each in found] == [good]
        wrong = listener_auth(Listener("l", 80, "HTTP", filters=(good, UnknownFilter("X"))), owner, context)
        assert isinstance(wrong, Denied)
        assert wrong.reason == "UnsupportedValue"
        lost = ExternalAuthFilter(BackendRef(ref("Service", "none"), 80))
        gone = listener_auth(Listener("l", 80, "HTTP", filters=(lost,)), owner, context)
        assert isinstance(gone, Denied)
        assert gone.reason == "BackendNotFound"


def test_cors_is_of_the_route() -> None:
    filters = [{"type": "CORS", "cors": {"allowOrigins": ["https://a.example.com"]}}]
    found = graph(
        gateway(), route("r", rule("/a", filters=filters), rule("/b"), rule("/c", to=[], filters=filters)), service()
    )
    asked = first(found, "/a").cors
    assert isinstance(asked, CORS)
    assert asked.filter.origins == ("https://a.example.com",)
    assert first(found, "/b").cors is None
    assert first(found, "/c").cors is None  # answers 500


COOKIE = {"cookie": {"name": "mine"}}


def session(found: Graph) -> Persistence | None:
    action = first(found).action
    assert isinstance(action, Forward)
    return action.session


class TestSessions:
    def test_a_rules_own(self) -> None:
        found = graph(gateway(), route("r", rule(sessionPersistence=COOKIE)), service())
        assert session(found) == Persistence("Cookie", "mine", "/", 0.0)

    def test_a_permanent_cookie(self) -> None:
        asked = {"absoluteTimeout": "1h", "cookie": {"name": "mine", "lifetimeType": "Permanent", "path": "/a"}}
        found = graph(gateway(), route("r", rule(sessionPersistence=asked)), service())
        assert session(found) == Persistence("Cookie", "mine", "/a", 3600.0)

    def test_a_cookie_without_a_name_is_called_after_its_rule(self) -> None:
        asked = {"cookie": {}}
        names = {
            found.name
            for name in ("r", "r", "q")
            if (found := session(graph(gateway(), route(name, rule(sessionPersistence=asked)), service())))
        }
        assert len(names) == 2
        assert all(name.startswith("penstock-") for name in names)

    def test_a_backends_own_where_the_rule_has_none(self) -> None:
        from_policy = graph(gateway(), route("r"), service(), traffic(sessionPersistence=COOKIE))
        assert session(from_policy) == Persistence("Cookie", "mine")
        from_backend = routed(selecting(sessionPersistence={"type": "Header", "header": {"name": "x-mine"}}))
        assert session(from_backend) == Persistence("Header", "x-mine")
        both = route("r", rule(sessionPersistence={"cookie": {"name": "rules"}}))
        assert session(graph(gateway(), both, service(), traffic(sessionPersistence=COOKIE))) == Persistence(
            "Cookie", "rules"
        )

    def test_a_pool_has_none(self) -> None:
        to = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}]
        assert session(graph(gateway(), route("r", rule(to=to, sessionPersistence=COOKIE)), pool())) is None


POLICIES = st.tuples(
    st.sampled_from(["", "one", "two", "none"]),
    st.sampled_from(["ca", "none"]),
    st.sampled_from(["2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"]),
)


@given(st.lists(POLICIES, max_size=4), st.sampled_from([80, 81]))
def test_a_port_with_a_policy_never_gets_plaintext(found: list[tuple[str, str, str]], number: int) -> None:
    ports = [{"name": "one", "port": 80}, {"name": "two", "port": 81}]
    policies = [
        policy(f"p{at}", config_map(ca), port=port, created=created) for at, (port, ca, created) in enumerate(found)
    ]
    to = [{"name": "s", "port": number}]
    taken = graph(gateway(), route("r", rule(to=to)), service(service_ports=ports), authority(), *policies)
    covered = any(port in ("", "one" if number == 80 else "two") for port, _, _ in found)
    action = first(taken).action
    if isinstance(action, Forward):
        backend = action.backends[0].backend
        assert backend is not None
        assert bool(backend.tls) == covered
    else:
        assert covered
        assert action == Reply(500)
