"""Rules: what is wrong with one changes nothing in the others; redirects, weights, filters, precedence."""

from dataclasses import replace
from typing import Any

import pytest

from tests.xds_server.resolve_world import (
    ask,
    clusters,
    gateway,
    graph,
    http,
    parent,
    pool,
    route,
    rule,
    service,
)
from xds_server.model.graph import Forward, Redirect, Reply
from xds_server.model.objects import (
    HeaderFilter,
    HTTPMatch,
    HTTPRoute,
    PathMatch,
    PathModifier,
    RewriteFilter,
    UnknownFilter,
)
from xds_server.resolve.regex import complaint

BROKEN = ("True", "UnsupportedValue")


def spoiled(found: Any, index: int, **changes: Any) -> HTTPRoute:
    """A route with one rule changed to what the API server and `parse` would never let through."""
    assert isinstance(found, HTTPRoute)
    rules = list(found.rules)
    rules[index] = replace(rules[index], **changes)
    return replace(found, rules=tuple(rules))


@pytest.mark.parametrize(
    ("kind", "value", "served"),
    [
        ("ReplaceFullPath", "/one", True),
        ("ReplaceFullPath", "", False),  # a request line without a path
        ("ReplaceFullPath", "one", False),
        ("ReplaceFullPath", "/one two", False),
        ("ReplacePrefixMatch", "", True),  # the same as "/"
        ("ReplacePrefixMatch", "one", False),
    ],
)
def test_a_path_is_replaced_by_a_path(kind: Any, value: str, served: bool) -> None:
    rewrite = RewriteFilter(path=PathModifier(kind, value))
    found = graph(gateway(), spoiled(route("r", rule("/a"), rule("/b")), 0, filters=(rewrite,)), service())
    action = ask(found, "a", "/a").action  # type: ignore[union-attr]
    assert isinstance(action, Forward) if served else action == Reply(500)
    assert clusters(ask(found, "a", "/b")) == ["service/d/s/80"]


def test_an_unknown_filter_breaks_its_rule_only() -> None:
    bad = spoiled(route("r", rule("/bad"), rule("/good")), 0, filters=(UnknownFilter("CORS"),))
    found = graph(gateway(), bad, service())
    assert ask(found, "a", "/bad").action == Reply(500)  # type: ignore[union-attr]
    assert clusters(ask(found, "a", "/good")) == ["service/d/s/80"]
    assert parent(found, "r")["PartiallyInvalid"] == BROKEN
    assert parent(found, "r")["Accepted"] == ("True", "Accepted")
    assert found.problems[0].field == "spec.rules[0].filters[0]"


def test_a_regex_that_envoy_refuses_drops_its_match_and_the_rest_of_the_rule_gives_500() -> None:
    bad = (HTTPMatch(PathMatch("RegularExpression", "/(?=x)")), HTTPMatch(PathMatch("Exact", "/bad")))
    found = graph(gateway(), spoiled(route("r", rule("/"), rule("/good")), 0, matches=bad), service())
    routes = found.ports[0].chains[0].hosts[0].routes
    assert [each.name for each in routes] == ["d/r/0/1", "d/r/1/0"]
    assert routes[0].action == Reply(500)
    assert found.problems[0].field == "spec.rules[0].matches[0].path.value"


def test_a_route_of_which_nothing_works_is_not_accepted_and_hides_nothing() -> None:
    bad = spoiled(route("r", rule("/bad")), 0, filters=(UnknownFilter("ExternalAuth"),))
    found = graph(gateway(), bad, route("other", rule("/")), service())
    assert parent(found, "r")["Accepted"] == ("False", "UnsupportedValue")
    assert "PartiallyInvalid" not in parent(found, "r")
    # Falling through to another rule would serve what a filter was there to protect.
    assert ask(found, "a", "/bad/x").action == Reply(500)  # type: ignore[union-attr]


class TestBackends:
    def test_an_invalid_one_costs_its_share(self) -> None:
        to = [{"name": "s", "port": 80, "weight": 3}, {"name": "none", "port": 80, "weight": 1}]
        found = graph(gateway(), route("r", rule(to=to)), service())
        taken = ask(found, "a")
        assert clusters(taken) == ["service/d/s/80", ""]
        assert isinstance(taken.action, Forward)  # type: ignore[union-attr]
        assert [each.weight for each in taken.action.backends] == [3, 1]  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "to",
        [
            [],
            [{"name": "none", "port": 80}],
            [{"name": "s", "port": 80, "weight": 0}],
            [{"name": "s", "port": 80, "weight": 0}, {"name": "none", "port": 80}],
        ],
    )
    def test_nothing_to_send_to_is_500(self, to: Any) -> None:
        found = graph(gateway(), route("r", rule(to=to)), service())
        assert ask(found, "a").action == Reply(500)  # type: ignore[union-attr]
        assert parent(found, "r")["Accepted"] == ("True", "Accepted")

    def test_headers_and_the_rewrite_of_the_only_backend_are_kept(self) -> None:
        rewrite = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}
        header = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x"]}}
        to = [{"name": "s", "port": 80, "filters": [rewrite, header]}]
        action = ask(graph(gateway(), route("r", rule("/", to=to)), service()), "a").action  # type: ignore[union-attr]
        assert isinstance(action, Forward)
        assert isinstance(action.rewrite, RewriteFilter)
        assert action.backends[0].headers == (HeaderFilter("request", remove=("x",)),)

    def test_a_filter_that_one_of_several_backends_cannot_have(self) -> None:
        found = route("r", rule(to=[{"name": "s", "port": 80}, {"name": "t", "port": 80}]))
        assert isinstance(found, HTTPRoute)
        first, second = found.rules[0].backends
        path = RewriteFilter(path=PathModifier("ReplaceFullPath", "/x"))
        bad = spoiled(found, 0, backends=(replace(first, filters=(path,)), second))
        assert clusters(ask(graph(gateway(), bad, service(), service("t")), "a")) == ["", "service/d/t/80"]

    def test_rewrites_that_several_backends_can_have(self) -> None:
        found = route("r", rule(to=[{"name": "s", "port": 80}, {"name": "t", "port": 80}]))
        assert isinstance(found, HTTPRoute)
        first, second = found.rules[0].backends
        host, path = RewriteFilter("x"), RewriteFilter(path=PathModifier("ReplaceFullPath", "/x"))
        one = spoiled(found, 0, backends=(replace(first, filters=(host,)), second))
        action = ask(graph(gateway(), one, service(), service("t")), "a").action  # type: ignore[union-attr]
        assert isinstance(action, Forward)
        assert [each.rewrite for each in action.backends] == [host, None]
        both = spoiled(found, 0, backends=(replace(first, filters=(path,)), replace(second, filters=(path,))))
        action = ask(graph(gateway(), both, service(), service("t")), "a").action  # type: ignore[union-attr]
        assert isinstance(action, Forward)
        assert action.rewrite == path
        assert [each.rewrite for each in action.backends] == [None, None]

    def test_mirrors_that_name_nothing_are_dropped(self) -> None:
        def mirror(name: str) -> dict[str, Any]:
            return {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": 80}}}

        found = graph(gateway(), route("r", rule(filters=[mirror("t"), mirror("none")])), service(), service("t"))
        action = ask(found, "a").action  # type: ignore[union-attr]
        assert isinstance(action, Forward)
        assert [each.backend.cluster for each in action.mirrors] == ["service/d/t/80"]
        assert parent(found, "r")["ResolvedRefs"] == ("False", "BackendNotFound")
        assert list(found.backends) == ["service/d/s/80", "service/d/t/80"]

    def test_pools_and_services_share_weights(self) -> None:
        group = "inference.networking.k8s.io"
        to = [{"name": "s", "port": 80}, {"group": group, "kind": "InferencePool", "name": "p", "port": 99}]
        found = graph(gateway(), route("r", rule(to=to)), service(), pool())
        assert clusters(ask(found, "a")) == ["service/d/s/80", "pool/d/p"]


@pytest.mark.parametrize(
    ("listener", "asked", "expected"),
    [
        (80, {}, 0),
        (8080, {}, 8080),
        (8080, {"scheme": "http"}, 0),
        (8080, {"scheme": "https"}, 0),
        (8080, {"port": 80}, 0),
        (8080, {"port": 8443, "scheme": "https"}, 8443),
        (80, {"port": 443, "scheme": "https"}, 0),
        (80, {"port": 443}, 443),
    ],
)
def test_the_port_of_a_redirect(listener: int, asked: Any, expected: int) -> None:
    assert redirected_port(listener, {"hostname": "x.com", **asked}) == expected


@pytest.mark.parametrize(("listener", "expected"), [(80, 0), (443, 0), (8080, 443)])
def test_the_port_of_a_redirect_to_the_same_host(listener: int, expected: int) -> None:
    """Envoy would keep the 8080 that clients put into Host."""
    assert redirected_port(listener, {"scheme": "https"}) == expected


def redirected_port(listener: int, asked: Any) -> int:
    asks = rule(to=[], filters=[{"type": "RequestRedirect", "requestRedirect": asked}])
    action = ask(graph(gateway("gw", http(port=listener)), route("r", asks)), "a", port=listener).action  # type: ignore[union-attr]
    assert isinstance(action, Redirect)
    return action.port


@pytest.mark.parametrize(
    "filters",
    [
        (HeaderFilter("request", set=(("Host", "x"),)),),
        (HeaderFilter("response", add=(("a b", "x"),)),),
        (HeaderFilter("response", add=(("a", "x\r\ny"),)),),
        (RewriteFilter("a"), RewriteFilter("b")),
    ],
)
def test_what_envoy_would_refuse_costs_one_rule(filters: Any) -> None:
    found = graph(gateway(), spoiled(route("r", rule("/bad"), rule("/good")), 0, filters=filters), service())
    assert ask(found, "a", "/bad").action == Reply(500)  # type: ignore[union-attr]
    assert parent(found, "r")["PartiallyInvalid"] == BROKEN


PATHS = {"Exact": "/a/b", "RegularExpression": "/a/.*", "PathPrefix": "/a/b/c"}


def matched(
    kind: str = "PathPrefix", value: str = "", headers: int = 0, query: int = 0, method: str = ""
) -> dict[str, Any]:
    return {
        "path": {"type": kind, "value": value or PATHS[kind]},
        "headers": [{"name": f"h{at}", "value": "x"} for at in range(headers)],
        "queryParams": [{"name": f"q{at}", "value": "x"} for at in range(query)],
        **({"method": method} if method else {}),
    }


def test_precedence() -> None:
    order = [
        matched("Exact", headers=1),
        matched("Exact"),
        matched("RegularExpression", method="GET"),
        matched("RegularExpression", headers=2),
        matched(),
        matched(value="/a/b/", method="GET"),
        matched(value="/a/b/", headers=2),
        matched(value="/a/b", headers=1, query=2),
        matched(value="/a/b", headers=1, query=1),
        matched(value="/a/b", query=3),
        matched(value="/a"),
        matched(value="/"),
    ]
    shuffled = [order[at * 7 % len(order)] for at in range(len(order))]
    named = [{"matches": [each], "name": f"n{order.index(each)}"} for each in shuffled]
    routes = [route(f"r{at}", {**rule(), **each}) for at, each in enumerate(named)]
    found = graph(gateway(), service(), *routes).ports[0].chains[0].hosts[0].routes
    assert [each.rule for each in found] == [f"n{at}" for at in range(len(order))]


def test_ties_go_to_the_oldest_then_the_name_then_the_rule_then_the_match() -> None:
    two = rule("/a", "/a/")
    routes = [
        route("a", two, two, created="2026-02-01T00:00:00Z"),
        route("c", rule("/a"), created="2026-01-01T00:00:00Z"),
        route("b", rule("/a"), created="2026-01-01T00:00:00Z"),
    ]
    found = graph(gateway(), service(), *routes).ports[0].chains[0].hosts[0].routes
    assert [each.name for each in found] == ["d/b/0/0", "d/c/0/0", "d/a/0/0", "d/a/0/1", "d/a/1/0", "d/a/1/1"]


@pytest.mark.parametrize(
    "pattern",
    ["", "/v1/.*", "[a-z]+?", "(?i)x", "a(?i)b", r"\pL+", r"[\p{Greek}x]", r"\z", "[[:alpha:]]{2,3}", r"\Q(?=\E", r"\(\?=", "[(?=]",
     "(?P<n>x)", r"\x{10FFFF}", "a{1000}", "(?:a|b)*", "[a-z]{900}", "|".join(f"model-{n}" for n in range(90))],
)  # fmt: skip
def test_what_re2_takes(pattern: str) -> None:
    assert complaint(pattern) == ""


@pytest.mark.parametrize(
    "pattern",
    ["(?=x)", "(?!x)", "(?<=x)", "(?<!x)", r"(a)\1", r"(?P<n>a)(?P=n)", "(?>a)", "a++", "a*+", "a{2}+", "(", "[a", "a**", "(?(1)a|b)",
     r"\Z", r"\u0041", "(?#c)", "a{1001}", "x" * 1025, "\\", r"\pL{900}", "(?:[a-z]{100}){50}"],
)  # fmt: skip
def test_what_re2_refuses(pattern: str) -> None:
    assert complaint(pattern)
