"""Laws of `resolve`: order is nothing, a bad route is nobody else's business, and every request goes where the spec says."""

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given, settings

from tests.xds_server.resolve_world import ask, gateway, http, our_class, ref, service, thing
from xds_server.model.graph import EVERYTHING, Fleet, Graph
from xds_server.model.objects import (
    BackendRef,
    ClusterState,
    HTTPMatch,
    HTTPRoute,
    HTTPRule,
    Listener,
    Meta,
    Object,
    ObjectRef,
    ParentRef,
    PathMatch,
    UnknownFilter,
    ValueMatch,
)
from xds_server.resolve import resolve
from xds_server.resolve.context import Context
from xds_server.resolve.rules import compile_route

PATTERNS = ["", "*.a.com", "x.a.com", "*.x.a.com", "y.x.a.com", "b.com", "*.com"]
ASKED = ["a.com", "x.a.com", "z.a.com", "y.x.a.com", "w.x.a.com", "b.com", "c.b.com", "a.org"]
PATHS = ["/", "/a", "/a/b", "/ab"]
HEADERS = [(), (("h", "1"),), (("h", "1"), ("i", "1"))]
GATEWAY = ref("Gateway", "gw")
BACKENDS = (BackendRef(ref("Service", "s"), 80),)

Match = st.builds(
    HTTPMatch,
    path=st.builds(PathMatch, st.sampled_from(["Exact", "PathPrefix"]), st.sampled_from(PATHS)),
    headers=st.sampled_from(HEADERS).map(lambda held: tuple(ValueMatch(name, value) for name, value in held)),
    method=st.sampled_from(["", "GET"]),
)
Rule = st.builds(HTTPRule, matches=st.lists(Match, min_size=1, max_size=2).map(tuple), backends=st.just(BACKENDS))


Named = tuple[str, str, str]  # (kind, name, section)


def routes(name: str, parents: st.SearchStrategy[Named]) -> st.SearchStrategy[HTTPRoute]:
    dates = st.sampled_from(["2026-01-01", "2026-01-02"])
    refs = parents.map(lambda named: ParentRef(ref(named[0], named[1]), named[2]))
    return st.builds(
        HTTPRoute,
        dates.map(lambda date: Meta(ref("HTTPRoute", name), 1, date)),
        st.lists(refs, min_size=1, max_size=3, unique=True).map(tuple),
        st.lists(st.sampled_from(PATTERNS[1:]), max_size=3, unique=True).map(tuple),
        st.lists(Rule, min_size=1, max_size=2).map(tuple),
    )


@st.composite
def worlds(draw: st.DrawFn) -> list[Object]:
    """One or two Gateways and a ListenerSet on one port, and routes to them."""
    hostnames = draw(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=5, unique=True))
    sections = [f"l{at}" for at in range(len(hostnames))]
    listeners = [http(name, hostname=hostname) for name, hostname in zip(sections, hostnames, strict=True)]
    cuts = sorted(draw(st.tuples(st.integers(1, len(listeners)), st.integers(1, len(listeners)))))
    open_to_all = {"allowedListeners": {"namespaces": {"from": "All"}}}
    objects = [our_class(), service(), gateway("gw", *listeners[: cuts[0]], spec=open_to_all)]
    names = [("Gateway", "gw", each) for each in sections[: cuts[0]]]
    if held := listeners[cuts[0] : cuts[1]]:
        objects.append(gateway("gw2", *held))
        names += [("Gateway", "gw2", each["name"]) for each in held]
    if held := listeners[cuts[1] :]:
        objects.append(thing("ListenerSet", "ls", {"parentRef": {"name": "gw"}, "listeners": held}))
        names += [("ListenerSet", "ls", each["name"]) for each in held]
    parents = st.sampled_from(names).flatmap(lambda named: st.sampled_from([named, (*named[:2], "")]))
    objects.extend(draw(routes(f"r{at}", parents)) for at in range(draw(st.integers(0, 5))))
    return objects


Request = st.tuples(
    st.sampled_from(ASKED),
    st.sampled_from([*PATHS, "/a/", "/c"]),
    st.sampled_from(["GET", "PUT"]),
    st.sampled_from(HEADERS),
)


# --- the oracle: one request, in the words of the spec, as slow as it likes ----------------------------------------


def has(pattern: str, host: str) -> bool:
    return pattern in ("", host) or (pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[2:])


def specificity(pattern: str) -> tuple[int, int]:
    """Characters in a matching non-wildcard hostname, then characters in a matching hostname."""
    return (0 if pattern.startswith("*") else len(pattern), len(pattern))


def path_fits(path: PathMatch, asked: str) -> bool:
    if path.kind == "Exact":
        return asked == path.value
    wanted = [part for part in path.value.split("/") if part]
    return [part for part in asked.split("/") if part][: len(wanted)] == wanted


def oracle(objects: list[Object], request: tuple[str, str, str, tuple[tuple[str, str], ...]]) -> str:
    """The name of the Route that must answer, or ""."""
    host, path, method, headers = request
    held: list[tuple[ObjectRef, Listener]] = [
        (found.meta.ref, each) for found in objects if hasattr(found, "listeners") for each in found.listeners
    ]
    fitting = [pair for pair in held if has(pair[1].hostname, host)]
    if not fitting:
        return ""
    owner, chosen = max(fitting, key=lambda pair: specificity(pair[1].hostname))
    found = []
    for route in objects:
        if not isinstance(route, HTTPRoute):
            continue
        if not any(each.ref == owner and each.section in ("", chosen.name) for each in route.parents):
            continue
        own = [each for each in route.hostnames or ("",) if has(each, host)]
        for at, rule in enumerate(route.rules if own else ()):
            for number, match in enumerate(rule.matches):
                fits = path_fits(match.path, path) and match.method in ("", method)
                if fits and all((each.name, each.value) in headers for each in match.headers):
                    key = (
                        tuple(-each for each in max(map(specificity, own))),
                        match.path.kind != "Exact",
                        -len(match.path.value.rstrip("/")) if match.path.kind == "PathPrefix" else 0,
                        not match.method,
                        -len(match.headers),
                        route.meta.created,
                        route.meta.ref.name,
                        at,
                        number,
                    )
                    found.append((key, f"d/{route.meta.ref.name}/{at}/{number}"))
    return min(found)[1] if found else ""


@settings(max_examples=300)
@given(worlds(), st.lists(Request, min_size=1, max_size=8))
def test_every_request_goes_where_the_spec_says(
    objects: list[Object], requests: list[tuple[str, str, str, tuple[tuple[str, str], ...]]]
) -> None:
    found = resolve(ClusterState.of(objects))
    for request in requests:
        host, path, method, headers = request
        taken = ask(found, host, path, method=method, headers=headers)
        assert (taken.name if taken else "") == oracle(objects, request)


@settings(max_examples=60)
@given(worlds().flatmap(lambda objects: st.tuples(st.just(objects), st.permutations(objects))))
def test_the_order_of_objects_is_nothing(both: tuple[list[Object], list[Object]]) -> None:
    one, other = (resolve(ClusterState.of(objects)) for objects in both)
    assert one == other
    assert list(one.statuses) == list(other.statuses)
    assert list(one.backends) == list(other.backends)


BAD_MATCH = HTTPRule(matches=(HTTPMatch(PathMatch("RegularExpression", "(?=x)")),), backends=BACKENDS)
BAD_FILTER = HTTPRule(matches=(HTTPMatch(PathMatch("Exact", "/mine")),), filters=(UnknownFilter("CORS"),))
BAD_BACKEND = HTTPRule(matches=(HTTPMatch(PathMatch("Exact", "/mine")),), backends=(BackendRef(ref("Secret", "x")),))


def without(found: Graph, name: str) -> Graph:
    """The Graph as if the routes of one object were not there; hosts that only it had are gone with it."""

    def keep(graph: Graph) -> Graph:
        ports = tuple(
            replace(
                port,
                chains=tuple(
                    replace(
                        chain,
                        hosts=tuple(
                            replace(host, routes=tuple(each for each in host.routes if f"/{name}/" not in each.name))
                            for host in chain.hosts
                        ),
                    )
                    for chain in port.chains
                ),
            )
            for port in graph.ports
        )
        statuses = {key: value for key, value in graph.statuses.items() if key.kind == "HTTPRoute" and key.name != name}
        return replace(graph, fleets={EVERYTHING: Fleet(ports, graph.backends)}, statuses=statuses, problems=())

    return keep(found)


@settings(max_examples=60)
@given(worlds(), st.sampled_from([BAD_MATCH, BAD_FILTER, BAD_BACKEND]), st.sampled_from(PATTERNS))
def test_a_bad_route_changes_nothing_for_others(objects: list[Object], bad: HTTPRule, hostname: str) -> None:
    meta = Meta(ref("HTTPRoute", "bad"), 1, "2020-01-01")
    route = HTTPRoute(meta, (ParentRef(GATEWAY),), (hostname,) if hostname else (), (bad,))
    before, after = resolve(ClusterState.of(objects)), resolve(ClusterState.of([*objects, route]))
    cleaned = without(after, "bad")
    assert cleaned.statuses == without(before, "bad").statuses
    assert after.backends == before.backends
    for host in ASKED:
        for path in PATHS:
            taken = ask(cleaned, host, path, method="GET", headers=HEADERS[2])
            assert taken == ask(before, host, path, method="GET", headers=HEADERS[2])


@given(worlds())
def test_precedence_is_a_total_order(objects: list[Object]) -> None:
    context = Context(ClusterState.of(objects))
    routes = [each for each in objects if isinstance(each, HTTPRoute)]
    found = [entry.precedence for route in routes for entry in compile_route(route, context).entries]
    assert len(set(found)) == len(found)
