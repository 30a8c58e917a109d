"""Hosts: listener isolation, precedence by the routes' own hostnames, chains of HTTPS, misdirected requests."""

import pytest

from tests.xds_server.resolve_world import ask, clusters, gateway, graph, host, http, route, rule, service
from tests.xds_server.test_resolve_gateways import https, secret
from xds_server.model.graph import Reply
from xds_server.resolve.hostnames import covering, covers, intersect

LISTENERS = {
    "empty": "",
    "wildcard": "*.example.com",
    "foo": "*.foo.example.com",
    "abc": "abc.foo.example.com",
}
FOUR = gateway("gw", *(http(name, hostname=hostname) for name, hostname in LISTENERS.items()))
SERVED = {"bar.com": "empty", "bar.example.com": "wildcard", "x.foo.example.com": "foo", "abc.foo.example.com": "abc"}
HOSTNAMES = ["bar.com", "*.example.com", "*.foo.example.com", "abc.foo.example.com"]


@pytest.mark.parametrize("hostnames", [[], HOSTNAMES], ids=["any", "intersection"])
@pytest.mark.parametrize("asked", SERVED)
def test_only_the_most_specific_listener_answers(hostnames: list[str], asked: str) -> None:
    routes = [
        route(name, rule(f"/{name}"), parents=[{"name": "gw", "sectionName": name}], hostnames=hostnames)
        for name in LISTENERS
    ]
    found = graph(FOUR, service(), *routes)
    answered = [name for name in LISTENERS if ask(found, asked, f"/{name}")]
    assert answered == [SERVED[asked]]


def test_a_listener_without_routes_keeps_its_hosts_to_itself() -> None:
    found = graph(
        gateway("gw", http("any"), http("own", hostname="a.com")),
        route("r", parents=[{"name": "gw", "sectionName": "any"}]),
        service(),
    )
    assert ask(found, "b.com")
    held = host(found, "a.com")
    assert held is not None
    assert (held.hostname, held.routes) == ("a.com", ())


def test_a_more_specific_hostname_comes_first_and_the_rest_falls_through() -> None:
    found = graph(
        gateway(),
        service(),
        service("t"),
        route("exact", rule("/a"), hostnames=["x.a.com"]),
        route("wild", rule("/a/b", to="t"), hostnames=["*.a.com"]),
        route("wider", rule("/c", to="t"), hostnames=["*.com"]),
    )
    held = host(found, "x.a.com")
    assert held is not None
    assert [each.name for each in held.routes] == ["d/exact/0/0", "d/wild/0/0", "d/wider/0/0"]
    assert clusters(ask(found, "x.a.com", "/a/b")) == ["service/d/s/80"]
    assert clusters(ask(found, "y.a.com", "/a/b")) == ["service/d/t/80"]
    assert ask(found, "x.a.com", "/c")
    assert ask(found, "x.org") is None


def test_precedence_is_by_the_hostname_that_the_route_wrote() -> None:
    """GatewayRouteHostnameIntersectionPrecedence, new in 1.7: both intersect to abc.example.com."""
    old = route("old", rule(to="t"), hostnames=["*.example.com"], created="2026-01-01T00:00:00Z")
    new = route("new", hostnames=["abc.example.com"], created="2026-02-01T00:00:00Z")
    found = graph(gateway("gw", http(hostname="abc.example.com")), old, new, service(), service("t"))
    assert clusters(ask(found, "abc.example.com")) == ["service/d/s/80"]


def test_a_route_with_a_hostname_and_its_wildcard_comes_once() -> None:
    found = graph(gateway(), service(), route("r", hostnames=["a.com", "*.com"]))
    held = host(found, "a.com")
    assert held is not None
    assert len(held.routes) == 1


def test_ports_are_apart() -> None:
    found = graph(gateway("gw", http("a"), http("b", 81)), route("r", parents=[{"name": "gw", "port": 81}]), service())
    assert ask(found, "x", port=81)
    assert ask(found, "x", port=80) is None


class TestHTTPS:
    def test_a_chain_for_each_server_name(self) -> None:
        found = graph(gateway("gw", https("a"), https("b", "*.b.com"), https("c", "x.b.com")), secret())
        assert [each.hostname for each in found.ports[0].chains] == ["", "*.b.com", "x.b.com"]
        assert all(chain.certificates for chain in found.ports[0].chains)

    def test_a_host_of_another_listener_is_misdirected(self) -> None:
        listeners = (https("a", "*.b.com"), https("c", "x.b.com"))
        found = graph(gateway("gw", *listeners), route("r"), service(), secret())
        wild, exact = found.ports[0].chains
        assert {each.hostname: len(each.routes) for each in wild.hosts} == {"*.b.com": 1, "x.b.com": 1}
        assert next(each for each in wild.hosts if each.hostname == "x.b.com").routes[0].action == Reply(421)
        assert next(each for each in exact.hosts if each.hostname == "*.b.com").routes[0].action == Reply(421)
        assert host(found, "other.com", 443) is None


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("*", "a.com", "a.com"),
        ("*", "*", "*"),
        ("*.com", "a.com", "a.com"),
        ("*.com", "*.a.com", "*.a.com"),
        ("*.a.com", "a.com", ""),
        ("a.com", "b.com", ""),
        ("*.a.com", "xa.com", ""),
        ("*.a.com", "*.b.com", ""),
    ],
)
def test_intersect(one: str, other: str, both: str) -> None:
    assert intersect(one, other) == intersect(other, one) == both


def test_covering_is_what_covers() -> None:
    for name in ("a.b.com", "*.b.com", "*"):
        assert all(covers(pattern, name) for pattern in covering(name))
    assert covering("a.b.com") == ["a.b.com", "*.b.com", "*.com", "*"]
    assert covering("*.b.com") == ["*.b.com", "*.com", "*"]
