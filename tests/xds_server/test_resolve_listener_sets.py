"""ListenerSets: who may bring listeners, who wins, what a route reaches through them."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tests.xds_server.resolve_world import (
    ask,
    gateway,
    graph,
    http,
    our_class,
    parent,
    reasons,
    ref,
    route,
    service,
    status,
    thing,
)
from tests.xds_server.test_resolve_gateways import https, secret
from tests.xds_server.test_resolve_listeners import plain
from xds_server.model.graph import Graph
from xds_server.model.objects import ClusterState, ListenerSet, Object
from xds_server.resolve import resolve

OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"
ACCEPTED, PROGRAMMED = ("True", "Accepted"), ("True", "Programmed")


def opened(which: str = "All", *listeners: dict[str, Any], **more: Any) -> Object:
    """A Gateway that lets ListenerSets in."""
    made = list(listeners) or [http(hostname="gw.com")]
    return gateway("gw", *made, spec={"allowedListeners": {"namespaces": {"from": which, **more}}})


def a_set(name: str, *listeners: dict[str, Any], ns: str = "d", **more: Any) -> Object:
    spec = {"parentRef": {"name": "gw", "namespace": "d"}, "listeners": list(listeners)}
    return thing("ListenerSet", name, spec, ns, **more)


def told(found: Graph, name: str = "ls", ns: str = "d") -> dict[str, tuple[str, str]]:
    return reasons(status(found, "ListenerSet", name, ns).conditions)


def entry(found: Graph, name: str, of: str = "ls", ns: str = "d") -> dict[str, tuple[str, str]]:
    return reasons(next(x for x in status(found, "ListenerSet", of, ns).listeners if x.name == name).conditions)


def to_set(name: str = "r", section: str = "", **more: Any) -> Object:
    named = {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "ls", "namespace": "d"}
    return route(name, parents=[{**named, **({"sectionName": section} if section else {})}], **more)


@pytest.mark.parametrize(
    ("made", "ns", "allowed"),
    [
        (gateway(), "d", False),
        (opened("None"), "d", False),
        (opened("Same"), "d", True),
        (opened("Same"), "team", False),
        (opened("All"), "team", True),
        (opened("Selector", selector={"matchLabels": {"team": "a"}}), "team", True),
        (opened("Selector", selector={"matchLabels": {"team": "a"}}), "d", False),
    ],
)
def test_who_may_bring_listeners(made: Object, ns: str, allowed: bool) -> None:
    """ListenerSetAllowedNamespace{None,Same,Selector}, ListenerSetDefaultNotAllowed."""
    team = thing("Namespace", "team", None, labels={"team": "a"})
    found = graph(made, a_set("ls", http(hostname="ls.com"), ns=ns), team)
    refused = ("False", "NotAllowed")
    assert told(found, ns=ns) == {
        "Accepted": ACCEPTED if allowed else refused,
        "Programmed": PROGRAMMED if allowed else refused,
    }
    assert status(found, "Gateway", "gw").listener_sets == allowed
    served = [each.hostname for each in found.ports[0].chains[0].hosts]
    assert ("ls.com" in served) == allowed
    assert any(each.field == "spec.parentRef" for each in found.problems) != allowed


def test_a_set_of_somebody_else_is_not_talked_about() -> None:
    other = thing("GatewayClass", "other", {"controllerName": "example.com/other"})
    found = graph(other, gateway(spec={"gatewayClassName": "other"}), a_set("ls", http()))
    assert ref("ListenerSet", "ls") not in found.statuses
    assert not found.problems


def test_a_set_without_a_gateway_is_a_problem() -> None:
    assert [(each.field, each.reason) for each in graph(a_set("ls", http())).problems] == [
        ("spec.parentRef", "NoMatchingParent")
    ]


class TestConflicts:
    def test_the_gateway_comes_first_then_the_oldest_set(self) -> None:
        """ListenerSetHostnameConflict."""
        found = graph(
            opened("All", http(hostname="gw.com")),
            a_set("a", http("x", hostname="gw.com"), http("y", hostname="b.com"), created=NEW),
            a_set("ls", http("y", hostname="b.com"), http("z", hostname="c.com"), created=OLD),
        )
        lost = {
            "Accepted": ("False", "HostnameConflict"),
            "Conflicted": ("True", "HostnameConflict"),
            "ResolvedRefs": ("True", "ResolvedRefs"),
            "Programmed": ("False", "HostnameConflict"),
        }
        assert entry(found, "x", "a") == entry(found, "y", "a") == lost
        assert entry(found, "y")["Programmed"] == entry(found, "z")["Programmed"] == PROGRAMMED
        assert told(found, "a") == dict.fromkeys(["Accepted", "Programmed"], ("False", "ListenersNotValid"))
        assert status(found, "Gateway", "gw").listener_sets == 1

    def test_a_set_is_accepted_for_what_it_can_bring(self) -> None:
        """ListenerSetProtocolConflict."""
        found = graph(opened(), a_set("ls", http("fine", hostname="ls.com"), plain("tcp", "TCP")))
        assert entry(found, "tcp")["Conflicted"] == ("True", "ProtocolConflict")
        assert entry(found, "fine")["Programmed"] == PROGRAMMED
        assert told(found) == {"Accepted": ("True", "ListenersNotValid"), "Programmed": PROGRAMMED}

    def test_a_set_never_harms_the_gateway(self) -> None:
        found = graph(opened("All", plain("tcp", "TCP")), a_set("ls", plain("tcp", "TCP"), http("h")))
        assert reasons(status(found, "Gateway", "gw").listeners[0].conditions)["Programmed"] == PROGRAMMED
        assert [entry(found, name)["Conflicted"][0] for name in ("tcp", "h")] == ["True", "True"]

    def test_a_set_of_an_older_gateway_comes_before_a_younger_gateway(self) -> None:
        younger = gateway("young", http(hostname="ls.com"), created=NEW)
        made = gateway(
            "gw", http(hostname="gw.com"), spec={"allowedListeners": {"namespaces": {"from": "All"}}}, created=OLD
        )
        found = graph(made, younger, a_set("ls", http(hostname="ls.com"), created=NEW))
        assert entry(found, "http")["Programmed"] == PROGRAMMED
        assert reasons(status(found, "Gateway", "young").listeners[0].conditions)["Conflicted"][0] == "True"


class TestRoutes:
    def test_a_route_of_the_gateway_is_not_one_of_its_sets(self) -> None:
        """ListenerSetRouteStatusScopedToParentRef."""
        found = graph(opened(), a_set("ls", http(hostname="ls.com")), route("g"), to_set("r"), service())
        assert parent(found, "g")["Accepted"] == parent(found, "r")["Accepted"] == ACCEPTED
        assert ask(found, "gw.com").name == "d/g/0/0"  # type: ignore[union-attr]
        assert ask(found, "ls.com").name == "d/r/0/0"  # type: ignore[union-attr]
        counts = [
            status(found, kind, name).listeners[0].attached_routes
            for kind, name in (("Gateway", "gw"), ("ListenerSet", "ls"))
        ]
        assert counts == [1, 1]

    def test_a_section_of_the_set_is_none_of_the_gateway(self) -> None:
        """ListenerSetGatewayParentSectionNameNotFound."""
        wrong = route("g", parents=[{"name": "gw", "sectionName": "own"}])
        found = graph(opened(), a_set("ls", http("own", hostname="ls.com")), wrong, to_set("r", "own"), service())
        assert parent(found, "g")["Accepted"] == ("False", "NoMatchingParent")
        assert parent(found, "r")["Accepted"] == ACCEPTED

    def test_the_same_namespace_is_the_one_of_the_set(self) -> None:
        """ListenerSetAllowedRoutesNamespaces."""
        named = {"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "ls", "namespace": "team"}
        routes = [route("r", parents=[named], ns=ns) for ns in ("team", "d")]
        found = graph(opened(), a_set("ls", http(hostname="ls.com"), ns="team"), *routes, service())
        assert parent(found, "r", ns="team")["Accepted"] == ACCEPTED
        assert parent(found, "r")["Accepted"] == ("False", "NotAllowedByListeners")

    def test_a_set_that_is_not_let_in_has_no_routes(self) -> None:
        found = graph(gateway(), a_set("ls", http(hostname="ls.com")), to_set(), service())
        assert parent(found, "r")["Accepted"] == ("False", "NoMatchingParent")

    def test_a_set_that_does_not_exist_is_a_problem(self) -> None:
        assert [each.reason for each in graph(to_set()).problems] == ["NoMatchingParent"]

    def test_a_pool_is_reached_by_the_gateway_of_the_set(self) -> None:
        target = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}
        spec = {"selector": {"matchLabels": {"app": "p"}}, "targetPorts": [{"number": 8000}]}
        to_pool = route("r", {"backendRefs": [target]}, parents=[{"kind": "ListenerSet", "name": "ls"}])
        found = graph(opened(), a_set("ls", http(hostname="ls.com")), to_pool, thing("InferencePool", "p", spec))
        assert [each.parent.ref for each in status(found, "InferencePool", "p").parents] == [ref("Gateway", "gw")]


@pytest.mark.parametrize(("kind", "permitted"), [("Gateway", False), ("ListenerSet", True)])
def test_a_grant_is_for_the_set_and_not_for_its_gateway(kind: str, permitted: bool) -> None:
    """ListenerSetReferenceGrant."""
    source = {"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "d"}
    grant = thing("ReferenceGrant", "g", {"from": [source], "to": [{"group": "", "kind": "Secret"}]}, "other")
    found = graph(opened(), a_set("ls", https("tls", "ls.com", namespace="other")), secret(ns="other"), grant)
    assert entry(found, "tls")["ResolvedRefs"] == (
        ("True", "ResolvedRefs") if permitted else ("False", "RefNotPermitted")
    )
    assert told(found)["Accepted"] == (ACCEPTED if permitted else ("False", "ListenersNotValid"))


def test_a_set_says_what_its_gateway_lacks() -> None:
    asked = {"allowedListeners": {"namespaces": {"from": "All"}}, "addresses": [{"type": "x.io/Name", "value": "a"}]}
    found = graph(gateway("gw", http(hostname="gw.com"), spec=asked), a_set("ls", http(hostname="ls.com")))
    assert told(found) == {"Accepted": ("False", "ParentNotAccepted"), "Programmed": ("False", "ParentNotProgrammed")}
    assert status(found, "Gateway", "gw").listener_sets == 0


NAMES = ["a.com", "b.com", "c.com"]
Sets = st.lists(
    st.builds(
        lambda name, names, created: a_set(
            name, *(http(f"l{at}", hostname=x) for at, x in enumerate(names)), created=created
        ),
        st.sampled_from(["p", "q", "r"]),
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        st.sampled_from([OLD, NEW]),
    ),
    max_size=3,
    unique_by=lambda each: each.meta.ref,
)


@settings(max_examples=60)
@given(Sets, st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_precedence_is_a_matter_of_age_and_name_never_of_order(sets: list[ListenerSet], own: str, dice: Any) -> None:
    objects = [our_class(), opened("All", http("own", hostname=own)), *sets]
    shuffled = dice.sample(objects, len(objects))
    found = resolve(ClusterState.of(objects))
    assert found == resolve(ClusterState.of(shuffled))
    taken = {own}
    for each in sorted(sets, key=lambda each: each.meta.age_key):
        for listener, told_of_it in zip(
            each.listeners, status(found, "ListenerSet", each.meta.ref.name).listeners, strict=True
        ):
            free = listener.hostname not in taken
            assert reasons(told_of_it.conditions)["Programmed"] == (
                PROGRAMMED if free else ("False", "HostnameConflict")
            )
            taken.add(listener.hostname)
