"""What is brought forward equals what is made from nothing, over any sequence of edits."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings, strategies as st

from xds_server.model.objects import ClusterState, HTTPRoute, Object, ObjectRef
from xds_server.parse import parse
from xds_server.reconcile import narrow, whole
from xds_server.resolve import MERGED, Setting
from xds_server.resolve.context import IN_CLUSTER
from xds_server.translate import DataPlane

PLANE = DataPlane(bind="127.0.0.1")
API = "gateway.networking.k8s.io/v1"
SPACE = "default"
LISTENERS = [
    {"name": "all", "port": 80, "protocol": "HTTP"},
    {"name": "a", "port": 80, "protocol": "HTTP", "hostname": "a.example.com"},
    {"name": "wild", "port": 8080, "protocol": "HTTP", "hostname": "*.example.com"},
]


def made(version: str, kind: str, name: str, **spec: object) -> Object:
    meta = {"name": name, "namespace": SPACE, "generation": 1}
    return parse({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}, strict=False)


def base() -> dict[ObjectRef, Object]:
    objects = [
        made(API, "GatewayClass", "penstock", controllerName="penstock.dev/gateway-controller"),
        made(API, "Gateway", "gateway", gatewayClassName="penstock", listeners=LISTENERS),
        *(made("v1", "Service", f"s{at}", ports=[{"port": 80}]) for at in range(2)),
    ]
    return {each.meta.ref: each for each in objects}


FILTERS = st.sampled_from(
    [
        [],
        [{"type": "RequestRedirect", "requestRedirect": {"hostname": "x.example"}}],
        [{"type": "RequestRedirect", "requestRedirect": {"hostname": "y.example", "port": 99}}],
        [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}],
        [{"type": "CORS", "cors": {"allowOrigins": ["*"]}}],
        [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplaceFullPath", "replaceFullPath": "wrong"}}}],
    ]
)
BACKENDS = st.lists(
    st.builds(lambda name, weight: {"name": name, "port": 80, "weight": weight}, st.sampled_from(["s0", "s1", "none"]),
              st.integers(0, 2)), max_size=2,
)  # fmt: skip
MATCHES = st.lists(
    st.builds(
        lambda path, header: {"path": {"type": "PathPrefix", "value": path}} | ({"headers": [header]} if header else {}),
        st.sampled_from(["/", "/a", "/a/b", "/c"]),
        st.sampled_from([None, {"name": "x-gateway-model-name", "value": "m"}, {"name": "b", "value": "1"}]),
    ),
    min_size=1, max_size=2,
)  # fmt: skip
RULES = st.lists(
    st.builds(
        lambda m, f, b: {"matches": m, "filters": f, "backendRefs": [] if "requestRedirect" in str(f) else b},
        MATCHES,
        FILTERS,
        BACKENDS,
    ),
    min_size=1,
    max_size=2,
)
HOSTNAMES = st.sampled_from(
    [[], ["a.example.com"], ["*.example.com"], ["b.example.com", "a.example.com"], ["c.b.example.com"], ["other.org"]]
)
PARENTS = st.sampled_from([["gateway"], ["gateway"], ["gateway", "lost"], ["lost"], []])


@st.composite
def routes(draw: Callable[..., object]) -> HTTPRoute:
    parents = [{"name": name} for name in draw(PARENTS)]  # type: ignore[attr-defined]
    spec = {"parentRefs": parents, "hostnames": draw(HOSTNAMES), "rules": draw(RULES)}
    found = made(API, "HTTPRoute", f"r{draw(st.integers(0, 2))}", **spec)
    assert isinstance(found, HTTPRoute)
    return found


def edit(found: HTTPRoute, held: dict[ObjectRef, Object], kind: str) -> dict[ObjectRef, Object]:
    """`kind`: how much of the route that is there stays; an edit of only its rules is the one that can be narrow."""
    old = held.get(found.meta.ref)
    if kind == "gone":
        return {ref: each for ref, each in held.items() if ref != found.meta.ref}
    if kind == "service":
        ref = ObjectRef("", "Service", SPACE, "s1")
        return {each: value for each, value in held.items() if each != ref} | (
            {} if ref in held else {ref: base()[ref]}
        )
    if isinstance(old, HTTPRoute) and kind == "rules":
        found = replace(found, hostnames=old.hostnames, parents=old.parents)
    return {**held, found.meta.ref: found}


KINDS = st.sampled_from(["rules", "rules", "rules", "rules", "route", "gone", "service"])


@given(st.lists(st.tuples(routes(), KINDS), min_size=2, max_size=12), st.sampled_from([MERGED, IN_CLUSTER]))
@settings(max_examples=25)
def test_what_is_brought_forward_is_what_is_made_from_nothing(
    edits: list[tuple[HTTPRoute, str]], setting: Setting
) -> None:
    held = base()
    found = whole(ClusterState(held), PLANE, setting)
    for route, kind in edits:
        held = edit(route, held, kind)
        expected = whole(ClusterState(held), PLANE, setting)
        found = narrow(found, ClusterState(held), PLANE) or expected
        assert found.resolved.graph == expected.resolved.graph
        assert list(found.resolved.graph.statuses) == list(expected.resolved.graph.statuses)
        assert found.translated.snapshots == expected.translated.snapshots


def route(value: str, index: int = 0, service: str = "s0") -> HTTPRoute:
    headers = {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "a", "value": value}]}}
    rule = {"filters": [headers], "backendRefs": [{"name": service, "port": 80}]}
    host = f"h{index}.example.com"
    found = made(API, "HTTPRoute", f"r{index}", parentRefs=[{"name": "gateway"}], hostnames=[host], rules=[rule])
    assert isinstance(found, HTTPRoute)
    return found


def test_an_edit_of_one_route_touches_one_virtual_host() -> None:
    held = base() | {each.meta.ref: each for each in (route("1", at) for at in range(3))}
    before = whole(ClusterState(held), PLANE)
    new = route("2", 1)
    after = narrow(before, ClusterState({**held, new.meta.ref: new}), PLANE)
    assert after is not None
    [was], [now] = (
        [port.chains[0].hosts for port in each.resolved.graph.ports if port.number == 80] for each in (before, after)
    )
    assert [one.hostname for one, other in zip(was, now, strict=True) if one is not other] == ["h1.example.com"]


def test_another_backend_is_resolved_as_a_whole() -> None:
    held = base() | {route("1").meta.ref: route("1")}
    other = route("1", service="s1")
    assert narrow(whole(ClusterState(held), PLANE), ClusterState({**held, other.meta.ref: other}), PLANE) is None
