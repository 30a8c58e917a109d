"""Streams: TLSRoutes by server name, TCPRoutes and UDPRoutes; which of several serves, and what is closed."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.xds_server.resolve_world import gateway, graph, http, listener, our_class, parent, service, status, thing
from tests.xds_server.test_resolve_gateways import https, pair, secret
from tests.xds_server.test_resolve_listeners import plain, tls
from xds_server.model.graph import Chain, Graph
from xds_server.model.objects import ClusterState, Gateway, Object, TLSRoute
from xds_server.resolve import resolve
from xds_server.resolve.hostnames import covering

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
ACCEPTED = ("True", "Accepted")
TCP, UDP = plain("tcp", "TCP", 53), plain("udp", "UDP", 53)


def stream(kind: str, name: str, *to: dict[str, Any], hostnames: Any = (), section: str = "", **more: Any) -> Object:
    backends = [{"port": 80, **each} for each in to or ({"name": "s"},)]
    spec: dict[str, Any] = {"parentRefs": [{"name": "gw", **({"sectionName": section} if section else {})}]}
    spec["rules"] = [{"backendRefs": backends}]
    if kind == "TLSRoute":
        spec["hostnames"] = list(hostnames)
    return thing(kind, name, spec, **more)


def udp(name: str = "s") -> Object:
    return service(name, service_ports=[{"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}])


def chains(found: Graph) -> dict[str, Chain]:
    (port,) = found.ports
    return {chain.hostname: chain for chain in port.chains}


def shares(chain: Chain) -> list[tuple[str, int]]:
    assert chain.stream is not None
    return [(each.backend.cluster if each.backend else "", each.weight) for each in chain.stream.backends]


def served(found: Graph) -> dict[str, str]:
    """The route that serves each server name."""
    return {name: chain.stream.name if chain.stream else "requests" for name, chain in chains(found).items()}


@pytest.mark.parametrize(
    ("kind", "made", "cluster"),
    [
        ("TCPRoute", TCP, "service/d/s/80"),
        ("UDPRoute", UDP, "service/d/s/80/udp"),
        ("TLSRoute", tls("t"), "service/d/s/80"),
    ],
)
def test_connections_go_to_backends(kind: str, made: dict[str, Any], cluster: str) -> None:
    found = graph(gateway("gw", made), stream(kind, "r", hostnames=["a.com"]), udp())
    assert parent(found, "r", kind=kind) == {"Accepted": ACCEPTED, "ResolvedRefs": ("True", "ResolvedRefs")}
    assert status(found, "Gateway", "gw").listeners[0].attached_routes == 1
    chain = chains(found)["a.com" if kind == "TLSRoute" else ""]
    assert chain.stream is not None
    assert (chain.stream.name, shares(chain)) == ("d/r", [(cluster, 1)])
    assert list(found.backends) == list(found.endpoints) == [cluster]


@pytest.mark.parametrize(("kind", "made"), [("TCPRoute", TCP), ("UDPRoute", UDP)])
def test_both_are_accepted_and_the_oldest_serves(kind: str, made: dict[str, Any]) -> None:
    """TCPRouteMultipleRoutesAttachment, UDPRouteMultipleRoutesAttachment."""
    routes = [stream(kind, "a", {"name": "t"}, created=NEW), stream(kind, "b", created=OLD)]
    found = graph(gateway("gw", made), *routes, udp(), udp("t"))
    assert [parent(found, name, kind=kind)["Accepted"] for name in "ab"] == [ACCEPTED, ACCEPTED]
    assert status(found, "Gateway", "gw").listeners[0].attached_routes == 2
    assert served(found) == {"": "d/b"}


def test_shares_without_a_backend_stay_and_those_without_weight_go() -> None:
    backends = ({"name": "s", "weight": 70}, {"name": "none", "weight": 30}, {"name": "t", "weight": 0})
    found = graph(gateway("gw", TCP), stream("TCPRoute", "r", *backends), service(), service("t"))
    assert shares(chains(found)[""]) == [("service/d/s/80", 70), ("", 30)]
    assert parent(found, "r", kind="TCPRoute")["ResolvedRefs"] == ("False", "BackendNotFound")
    assert any(each.field == "spec.rules[0].backendRefs[1]" for each in found.problems)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"name": "none"}, "BackendNotFound"),
        ({"name": "s", "port": 81}, "BackendNotFound"),
        ({"name": "s", "namespace": "other"}, "RefNotPermitted"),
        ({"name": "s", "group": "x.io", "kind": "Thing"}, "InvalidKind"),
        ({"name": "p", "group": "inference.networking.k8s.io", "kind": "InferencePool"}, "InvalidKind"),
    ],
)
def test_a_reference_that_names_nothing(target: dict[str, Any], reason: str) -> None:
    spec = {"selector": {"matchLabels": {"app": "p"}}, "targetPorts": [{"number": 8000}]}
    found = graph(gateway("gw", TCP), stream("TCPRoute", "r", target), service(), thing("InferencePool", "p", spec))
    assert parent(found, "r", kind="TCPRoute") == {"Accepted": ACCEPTED, "ResolvedRefs": ("False", reason)}
    assert shares(chains(found)[""]) == [("", 1)]
    assert not found.backends


@pytest.mark.parametrize("kind", ["TCPRoute", "UDPRoute", "TLSRoute"])
def test_a_listener_of_another_protocol_takes_none(kind: str) -> None:
    """TCPRouteInvalidNonTCPListener, UDPRouteNotAllowedByListeners, TLSRouteInvalidNoMatchingListener."""
    others = {"TCPRoute": UDP, "UDPRoute": TCP, "TLSRoute": https()}
    found = graph(gateway("gw", others[kind]), stream(kind, "r", hostnames=["a.com"]), udp(), secret())
    assert parent(found, "r", kind=kind)["Accepted"] == ("False", "NotAllowedByListeners")
    assert status(found, "Gateway", "gw").listeners[0].attached_routes == 0


def test_a_route_attaches_to_every_listener_that_takes_it() -> None:
    """TCPRouteParentRefAttachAll."""
    found = graph(gateway("gw", TCP, plain("b", "TCP", 54), http()), stream("TCPRoute", "r"), service())
    assert [each.attached_routes for each in status(found, "Gateway", "gw").listeners] == [1, 1, 0]


class TestTLS:
    def test_a_chain_for_each_server_name(self) -> None:
        routes = [
            stream("TLSRoute", "exact", hostnames=["abc.example.com"]),
            stream("TLSRoute", "wild", hostnames=["*.com"]),
            stream("TLSRoute", "other", hostnames=["x.org"]),
        ]
        found = graph(gateway("gw", tls("t", "*.example.com")), *routes, service())
        assert served(found) == {"*.example.com": "d/wild", "abc.example.com": "d/exact"}
        assert parent(found, "other", kind="TLSRoute")["Accepted"] == ("False", "NoMatchingListenerHostname")

    @pytest.mark.parametrize(
        ("hostname", "older", "newer"),
        [("abc.example.com", "*.example.com", "abc.example.com"), ("*.example.com", "*.com", "*.example.com")],
    )
    def test_the_more_specific_hostname_wins_over_age(self, hostname: str, older: str, newer: str) -> None:
        """TLSRouteMultipleRoutesAttachmentSameHostnameIntersection."""
        routes = [
            stream("TLSRoute", "old", hostnames=[older], created=OLD),
            stream("TLSRoute", "new", hostnames=[newer], created=NEW),
        ]
        assert served(graph(gateway("gw", tls("t", hostname)), *routes, service())) == {hostname: "d/new"}

    def test_the_oldest_of_one_hostname_wins(self) -> None:
        routes = [
            stream("TLSRoute", name, hostnames=["a.com"], created=when) for name, when in (("a", NEW), ("b", OLD))
        ]
        assert served(graph(gateway("gw", tls("t")), *routes, service())) == {"": "", "a.com": "d/b"}

    def test_a_listener_keeps_its_names_from_less_specific_ones(self) -> None:
        made = gateway("gw", https("any"), tls("own", "*.a.com"))
        found = graph(made, stream("TLSRoute", "r", hostnames=["x.a.com"]), secret(), service())
        assert served(found) == {"": "requests", "*.a.com": "", "x.a.com": "d/r"}
        assert chains(found)["*.a.com"].tls is None

    def test_names_of_a_more_specific_listener_are_not_served(self) -> None:
        made = gateway("gw", https("own", "*.a.com"), tls("any"))
        found = graph(made, stream("TLSRoute", "r", hostnames=["x.a.com", "b.com"]), secret(), service())
        assert served(found) == {"": "", "*.a.com": "requests", "b.com": "d/r"}

    def test_terminated_and_passed_through_on_one_port(self) -> None:
        """TLSRouteMixedTerminationSameNamespace."""
        made = gateway("gw", tls("t", "t.com", "Terminate"), tls("p", "p.com"))
        routes = [stream("TLSRoute", name, hostnames=[f"{name}.com"], section=name) for name in "tp"]
        found = graph(made, *routes, secret(), service())
        assert served(found) == {"p.com": "d/p", "t.com": "d/t"}
        assert [bool(chain.tls) for chain in chains(found).values()] == [False, True]

    def test_what_nobody_serves_is_closed_without_a_handshake(self) -> None:
        made = gateway("gw", tls("t", mode="Terminate"))
        found = graph(made, stream("TLSRoute", "r", {"name": "none"}, hostnames=["a.com"]), secret())
        assert [chain.tls for chain in chains(found).values()] == [None, None]
        assert listener(found, "t")["Programmed"] == ("True", "Programmed")

    def test_a_policy_of_the_backend_does_not_encrypt_twice(self) -> None:
        spec = {
            "targetRefs": [{"group": "", "kind": "Service", "name": "s"}],
            "validation": {"hostname": "s", "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]},
        }
        ca = thing("ConfigMap", "ca", None, data={"ca.crt": pair("ca")[0].decode()})
        both = gateway("gw", tls("t", "t.com", "Terminate"), tls("p", "p.com"))
        route = stream("TLSRoute", "r", hostnames=["t.com", "p.com"])
        found = graph(both, route, secret(), service(), ca, thing("BackendTLSPolicy", "p", spec))
        spoken = {name: chain.stream.backends[0].backend for name, chain in chains(found).items() if chain.stream}
        assert {name: bool(each and each.tls) for name, each in spoken.items()} == {"p.com": False, "t.com": True}
        assert len(found.backends) == 2


# --- every connection goes where the spec says ------------------------------------------------------------------------

PATTERNS = ["", "*.a.com", "x.a.com", "*.x.a.com", "y.x.a.com", "b.com", "*.com"]
ASKED = ["a.com", "x.a.com", "z.a.com", "y.x.a.com", "w.x.a.com", "b.com", "c.b.com", "a.org"]


@st.composite
def worlds(draw: st.DrawFn) -> list[Object]:
    """TLS and HTTPS listeners of one port, and TLSRoutes to them."""
    hostnames = draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=5, unique=True))
    made = [
        https(f"l{at}", name) if draw(st.integers(0, 3)) == 0 else tls(f"l{at}", name)
        for at, name in enumerate(hostnames)
    ]
    objects = [our_class(), service(), secret(), gateway("gw", *made)]
    for at in range(draw(st.integers(0, 4))):
        own = draw(st.lists(st.sampled_from(PATTERNS[1:]), min_size=1, max_size=3, unique=True))
        section = draw(st.sampled_from(["", *(each["name"] for each in made)]))
        objects.append(
            stream("TLSRoute", f"r{at}", hostnames=own, section=section, created=draw(st.sampled_from([OLD, NEW])))
        )
    return objects


def has(pattern: str, name: str) -> bool:
    return pattern in ("", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def specificity(pattern: str) -> tuple[bool, int]:
    return bool(pattern) and not pattern.startswith("*"), len(pattern)


def oracle(objects: list[Object], name: str) -> str:
    """The route that must serve a server name, "requests" for an HTTPS listener, "" for nobody."""
    (gw,) = (each for each in objects if isinstance(each, Gateway))
    fitting = [each for each in gw.listeners if has(each.hostname, name)]
    if not fitting:
        return ""
    chosen = max(fitting, key=lambda each: specificity(each.hostname))
    if chosen.protocol == "HTTPS":
        return "requests"
    found = []
    for route in (each for each in objects if isinstance(each, TLSRoute)):
        own = [specificity(each) for each in route.hostnames if has(each, name)]
        if own and route.parents[0].section in ("", chosen.name):
            exact, length = max(own)
            found.append(((not exact, -length, route.meta.created, route.meta.ref.name), f"d/{route.meta.ref.name}"))
    return min(found)[1] if found else ""


@settings(max_examples=200)
@given(worlds())
def test_every_server_name_goes_where_the_spec_says(objects: list[Object]) -> None:
    held = served(resolve(ClusterState.of(objects)))
    for name in ASKED:
        taken = next((held[pattern] for each in covering(name) if (pattern := "" if each == "*" else each) in held), "")
        assert taken == oracle(objects, name)


@settings(max_examples=50)
@given(worlds().flatmap(lambda objects: st.tuples(st.just(objects), st.permutations(objects))))
def test_the_order_of_objects_is_nothing(both: tuple[list[Object], list[Object]]) -> None:
    one, other = (resolve(ClusterState.of(objects)) for objects in both)
    assert one == other
