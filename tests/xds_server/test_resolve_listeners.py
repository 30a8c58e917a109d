"""Listeners: protocols and their sockets, route kinds, clients' certificates, filters."""

import dataclasses
from typing import Any

import pytest

from tests.xds_server.resolve_world import (
    gateway,
    graph,
    http,
    listener,
    parent,
    reasons,
    route,
    rule,
    service,
    status,
    thing,
)
from tests.xds_server.test_resolve_gateways import https, pair, secret
from xds_server.model.graph import Graph
from xds_server.model.objects import Object

FINE = ("True", "Programmed")
AUTH = {
    "type": "ExternalAuth",
    "externalAuth": {"protocol": "GRPC", "grpc": {}, "backendRef": {"name": "s", "port": 80}},
}


def plain(name: str, protocol: str, port: int = 80, **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": protocol, **more}


def tls(name: str, hostname: str = "", mode: str = "Passthrough", port: int = 443, **more: Any) -> dict[str, Any]:
    secured = {"mode": mode, **({"certificateRefs": [{"name": "cert"}]} if mode == "Terminate" else {})}
    return {**http(name, port, hostname, **more), "protocol": "TLS", "tls": secured}


def sockets(found: Graph) -> list[tuple[str, int]]:
    return [(each.transport, each.number) for each in found.ports]


def test_tcp_and_udp_of_one_number_are_different_sockets() -> None:
    found = graph(gateway("gw", plain("t", "TCP", 53), plain("u", "UDP", 53)))
    assert sockets(found) == [("TCP", 53), ("UDP", 53)]
    assert listener(found, "t")["Programmed"] == listener(found, "u")["Programmed"] == FINE


@pytest.mark.parametrize("other", [plain("b", "TCP"), plain("b", "TCP", 80), https("b", port=80), tls("b", port=80)])
def test_http_shares_a_port_with_nothing_else(other: dict[str, Any]) -> None:
    found = graph(gateway("gw", http("a"), other), secret())
    assert listener(found, "a")["Conflicted"] == listener(found, "b")["Conflicted"] == ("True", "ProtocolConflict")
    assert not found.ports


def test_https_and_tls_share_a_port_by_server_name() -> None:
    found = graph(
        gateway("gw", https("a", "a.com"), tls("b", "b.com"), tls("c", "c.com", "Terminate"), tls("d", "a.com")),
        secret(),
    )
    assert [listener(found, name)["Programmed"] for name in "bc"] == [FINE, FINE]
    assert [listener(found, name)["Conflicted"] for name in "ad"] == [("True", "HostnameConflict")] * 2
    assert [(each.hostname, each.tls is None) for each in found.ports[0].chains] == [("b.com", True), ("c.com", True)]
    assert found.ports[0].sni


@pytest.mark.parametrize(
    ("made", "kinds"),
    [
        (http(), ["HTTPRoute", "GRPCRoute"]),
        (https(), ["HTTPRoute", "GRPCRoute"]),
        (tls("t"), ["TLSRoute"]),
        (tls("t", mode="Terminate"), ["TLSRoute"]),
        (plain("t", "TCP"), ["TCPRoute"]),
        (plain("u", "UDP"), ["UDPRoute"]),
    ],
)
def test_what_a_protocol_takes(made: dict[str, Any], kinds: list[str]) -> None:
    found = graph(gateway("gw", made), secret())
    assert [kind for _, kind in status(found, "Gateway", "gw").listeners[0].supported_kinds] == kinds


def test_a_passthrough_listener_takes_tlsroutes_only() -> None:
    """TLSRouteListenerPassthroughSupportedKinds."""
    asked = {"kinds": [{"kind": "TLSRoute"}, {"kind": "TCPRoute"}]}
    found = graph(gateway("gw", tls("t", allowedRoutes=asked)))
    assert listener(found, "t")["ResolvedRefs"] == ("False", "InvalidRouteKinds")
    assert [kind for _, kind in status(found, "Gateway", "gw").listeners[0].supported_kinds] == ["TLSRoute"]


def test_terminate_needs_a_certificate_and_passthrough_none() -> None:
    found = graph(gateway("gw", tls("t", mode="Terminate"), tls("p", port=444)))
    assert listener(found, "t")["ResolvedRefs"] == ("False", "InvalidCertificateRef")
    assert listener(found, "p")["Programmed"] == FINE


def test_gateways_with_fleets_of_their_own_share_no_port() -> None:
    both = [gateway(name, http(hostname="x.com")) for name in ("a", "b")]
    found = graph(
        *both, route("r", parents=[{"name": "b"}]), service(), per_gateway=True, addresses=(("IPAddress", "1.2.3.4"),)
    )
    assert list(found.fleets) == ["d/a", "d/b"]
    assert [fleet.gateway for fleet in found.fleets.values()] == both
    assert [listener(found, "http", name)["Programmed"] for name in "ab"] == [FINE, FINE]
    assert [list(fleet.backends) for fleet in found.fleets.values()] == [[], ["service/d/s/80"]]


class TestGRPC:
    def routes(self) -> list[Object]:
        spec = {"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}
        return [route("r", rule("/")), thing("GRPCRoute", "r", spec), service()]

    def test_both_kinds_of_one_name_share_a_hostname(self) -> None:
        found = graph(gateway(), *self.routes())
        assert (
            parent(found, "r", kind="GRPCRoute")["Accepted"] == parent(found, "r")["Accepted"] == ("True", "Accepted")
        )
        assert status(found, "Gateway", "gw").listeners[0].attached_routes == 2
        assert {each.grpc for each in found.ports[0].chains[0].hosts[0].routes} == {True, False}

    def test_a_listener_may_take_one_kind_only(self) -> None:
        found = graph(gateway("gw", http(allowedRoutes={"kinds": [{"kind": "GRPCRoute"}]})), *self.routes())
        assert parent(found, "r")["Accepted"] == ("False", "NotAllowedByListeners")
        assert parent(found, "r", kind="GRPCRoute")["Accepted"] == ("True", "Accepted")
        assert any("takes no HTTPRoute" in each.message for each in found.problems)


class TestClients:
    CA = thing("ConfigMap", "ca", None, data={"ca.crt": pair("ca")[0].decode()})

    def world(self, name: str = "ca", mode: str = "AllowValidOnly", *listeners: Any, **more: Any) -> Graph:
        validation = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name, **more}], "mode": mode}
        spec = {"tls": {"frontend": {"default": {"validation": validation}}}}
        return graph(gateway("gw", *(listeners or (https(), http())), spec=spec), self.CA, secret())

    def test_clients_of_https_are_asked(self) -> None:
        found = self.world("ca", "AllowValidOnly", https("h", "h.com"), tls("t", "t.com", "Terminate"), http())
        assert listener(found, "h")["Programmed"] == listener(found, "t")["Programmed"] == FINE
        asked = {each.hostname: each.tls for port in found.ports for each in port.chains}
        assert asked["h.com"] is not None
        assert asked["h.com"].clients is not None
        assert asked["h.com"].clients.required
        assert asked[""] is None

    def test_without_an_authority_nobody_is_served_and_http_goes_on(self) -> None:
        """GatewayFrontendInvalidDefaultClientCertificateValidation."""
        found = self.world("missing")
        assert listener(found, "tls") == {
            "Accepted": ("False", "NoValidCACertificate"),
            "Conflicted": ("False", "NoConflicts"),
            "ResolvedRefs": ("False", "InvalidCACertificateRef"),
            "Programmed": ("False", "Invalid"),
        }
        assert listener(found, "http")["Programmed"] == FINE
        assert sockets(found) == [("TCP", 80)]

    def test_a_fallback_is_said_of_the_gateway_and_only_then(self) -> None:
        told = reasons(status(self.world(mode="AllowInsecureFallback"), "Gateway", "gw").conditions)
        assert told["InsecureFrontendValidationMode"] == ("True", "ConfigurationChanged")
        assert "InsecureFrontendValidationMode" not in reasons(status(self.world(), "Gateway", "gw").conditions)


class TestFilters:
    def test_a_listener_asks_before_it_routes(self) -> None:
        found = graph(gateway("gw", http(filters={"requests": [AUTH]})), service())
        (chain,) = found.ports[0].chains
        assert [each.backend.ref.name for each in chain.auth] == ["s"]
        assert [each.ref.name for each in found.backends.values()] == ["s"]

    def test_without_its_filter_a_listener_serves_nobody(self) -> None:
        found = graph(gateway("gw", http(filters={"requests": [AUTH]})), route("r", to_nothing()))
        assert listener(found, "http")["ResolvedRefs"] == ("False", "BackendNotFound")
        assert listener(found, "http")["Programmed"] == ("False", "Invalid")
        assert not found.ports

    def test_plain_listeners_of_a_port_have_the_same_filters(self) -> None:
        found = graph(
            gateway("gw", http("a", hostname="a.com", filters={"requests": [AUTH]}), http("b", hostname="b.com")),
            service(),
        )
        assert listener(found, "a")["Programmed"] == FINE
        assert listener(found, "b")["Accepted"] == ("False", "UnsupportedValue")
        assert listener(found, "b")["Conflicted"] == ("False", "NoConflicts")
        assert [each.hostname for each in found.ports[0].chains[0].hosts] == ["a.com"]


def to_nothing() -> dict[str, Any]:
    return rule("/", to="none")


@pytest.mark.parametrize(
    ("ref", "held", "reason"),
    [
        (None, {}, "Accepted"),
        ({"group": "", "kind": "ConfigMap", "name": "p"}, {}, "Accepted"),
        ({"group": "", "kind": "ConfigMap", "name": "p"}, {"service": "spec: {type: NodePort}"}, "Accepted"),
        ({"group": "", "kind": "ConfigMap", "name": "p"}, {"nothing": "x"}, "InvalidParameters"),
        ({"group": "", "kind": "ConfigMap", "name": "none"}, {}, "InvalidParameters"),
        ({"group": "x.io", "kind": "Thing", "name": "p"}, {}, "InvalidParameters"),
    ],
)
def test_parameters(ref: Any, held: dict[str, str], reason: str) -> None:
    """GatewayInvalidParametersRef."""
    made = gateway(spec={"infrastructure": {"parametersRef": ref}} if ref else {})
    found = graph(
        made, thing("ConfigMap", "p", None, data=held), per_gateway=True, addresses=(("IPAddress", "1.2.3.4"),)
    )
    told = reasons(status(found, "Gateway", "gw").conditions)
    assert told["Accepted"] == (str(reason == "Accepted"), reason)
    assert told["Programmed"][0] == str(reason == "Accepted")
    assert any(each.field == "spec.infrastructure.parametersRef" for each in found.problems) == (reason != "Accepted")


def test_a_gateway_says_whether_its_own_certificate_can_be_shown() -> None:
    """GatewayInvalidTLSBackendConfiguration."""
    made = gateway(spec={"tls": {"backend": {"clientCertificateRef": {"name": "none"}}}})
    found = graph(made)
    told = reasons(status(found, "Gateway", "gw").conditions)
    assert told["ResolvedRefs"] == ("False", "InvalidClientCertificateRef")
    assert told["Accepted"] == ("True", "Accepted")
    assert dataclasses.replace(status(found, "Gateway", "gw"), conditions=()) == dataclasses.replace(
        status(graph(gateway()), "Gateway", "gw"), conditions=()
    )
