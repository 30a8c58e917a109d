"""References: grants, kinds, existence."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import gateway, graph, parent, pool, route, rule, service, thing


def grant(name: str = "g", kind: str = "Service", ns: str = "other", source: str = "d", **target: str) -> Any:
    sources = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": source}]
    group = "inference.networking.k8s.io" if kind == "InferencePool" else ""
    return thing("ReferenceGrant", name, {"from": sources, "to": [{"group": group, "kind": kind, **target}]}, ns)


CASES = [
    ([], ("False", "RefNotPermitted")),
    ([grant()], ("True", "ResolvedRefs")),
    ([grant(name="s")], ("True", "ResolvedRefs")),
    ([grant(name="g", kind="Secret")], ("False", "RefNotPermitted")),
    ([grant(source="elsewhere")], ("False", "RefNotPermitted")),
    ([grant(ns="d")], ("False", "RefNotPermitted")),
]


@pytest.mark.parametrize(("grants", "expected"), CASES)
def test_a_service_of_another_namespace_needs_a_grant(grants: Any, expected: Any) -> None:
    to = [{"name": "s", "namespace": "other", "port": 80}]
    found = graph(gateway(), route("r", rule(to=to)), service(ns="other"), *grants)
    assert parent(found, "r")["ResolvedRefs"] == expected
    assert bool(found.backends) == (expected[0] == "True")


def test_a_grant_may_name_one_object_only() -> None:
    one = thing(
        "ReferenceGrant",
        "g",
        {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "d"}],
            "to": [{"group": "", "kind": "Service", "name": "s"}],
        },
        "other",
    )
    to = [{"name": "s", "namespace": "other", "port": 80}, {"name": "t", "namespace": "other", "port": 80}]
    found = graph(gateway(), route("r", rule(to=to)), service(ns="other"), service("t", ns="other"), one)
    assert list(found.backends) == ["service/other/s/80"]
    assert [each.field for each in found.problems] == ["spec.rules[0].backendRefs[1]"]


def test_without_a_grant_nobody_learns_what_exists() -> None:
    to = [{"name": "nothing", "namespace": "other", "port": 80}]
    assert parent(graph(gateway(), route("r", rule(to=to))), "r")["ResolvedRefs"] == ("False", "RefNotPermitted")


def test_pools_cross_namespaces_by_the_same_rule() -> None:
    to = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p", "namespace": "other"}]
    objects = [gateway(), route("r", rule(to=to)), pool(ns="other")]
    assert parent(graph(*objects), "r")["ResolvedRefs"] == ("False", "RefNotPermitted")
    assert list(graph(*objects, grant(kind="InferencePool")).backends) == ["pool/other/p"]


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ({"name": "no", "port": 80}, "BackendNotFound"),
        ({"name": "s", "port": 81}, "BackendNotFound"),
        ({"name": "s", "group": "x.io", "kind": "Thing", "port": 80}, "InvalidKind"),
        ({"name": "no", "group": "inference.networking.k8s.io", "kind": "InferencePool"}, "BackendNotFound"),
    ],
)
def test_what_does_not_exist_is_said(to: Any, reason: str) -> None:
    found = graph(gateway(), route("r", rule(to=[to])), service())
    assert parent(found, "r") == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", reason)}
