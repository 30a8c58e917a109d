"""Status: only what differs, only what is ours; times that move with the status only."""

import datetime as dt
from typing import Any

from tests.xds_server.resolve_world import gateway, graph, http, pool, ref, route, rule, service, thing
from xds_server.model.graph import CONTROLLER, Condition, Graph, ObjectStatus, ParentStatus
from xds_server.model.objects import ObjectRef, ParentRef
from xds_server.status import patches, problems, render

THEN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
ROUTE, GATEWAY = ref("HTTPRoute", "r"), ref("Gateway", "gw")


def applied(found: Graph, held: dict[ObjectRef, Any] | None = None, now: dt.datetime = THEN) -> dict[ObjectRef, Any]:
    """What the API server holds after a JSON merge patch of the top-level fields."""
    after = dict(held or {})
    for each, patch in patches(found, after, now):
        after[each] = {**after.get(each, {}), **patch["status"]}
    return after


def world(*, broken: bool = False, generation: int = 1) -> Graph:
    to = "none" if broken else "s"
    return graph(gateway(), route("r", rule(to=to), generation=generation), service(), pool())


def condition(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": "Theirs", "lastTransitionTime": "2020-01-01T00:00:00Z", **more}


def types(conditions: list[dict[str, Any]]) -> list[str]:
    return [each["type"] for each in conditions]


def test_what_was_written_is_not_written_again() -> None:
    held = applied(world())
    assert {each.kind for each in held} == {
        "Gateway",
        "GatewayClass",
        "HTTPRoute",
    }  # an unrouted pool has nothing to say
    assert patches(world(), held, NOW) == []


def test_only_the_object_that_changed_is_written() -> None:
    ((changed, patch),) = patches(world(broken=True), applied(world()), NOW)
    assert changed == ROUTE
    assert list(patch["status"]) == ["parents"]


def test_the_time_moves_with_the_status_only() -> None:
    held = applied(world(broken=True, generation=2), applied(world()), NOW)
    accepted, resolved = held[ROUTE]["parents"][0]["conditions"]
    assert (accepted["lastTransitionTime"], accepted["observedGeneration"]) == ("2026-01-01T00:00:00Z", 2)
    assert (resolved["lastTransitionTime"], resolved["status"]) == ("2026-01-02T00:00:00Z", "False")


def test_conditions_of_others_are_kept_in_place() -> None:
    held = {GATEWAY: {"conditions": [condition("x.io/Theirs"), condition("Accepted", status="Unknown")]}}
    after = applied(world(), held)[GATEWAY]
    assert types(after["conditions"]) == ["x.io/Theirs", "Accepted", "Programmed", "ResolvedRefs"]
    assert after["conditions"][0] == held[GATEWAY]["conditions"][0]
    assert after["conditions"][1]["lastTransitionTime"] == "2026-01-01T00:00:00Z"


def test_parents_of_other_controllers_are_kept() -> None:
    other = {"controllerName": "x.io/other", "parentRef": {"name": "gw"}, "conditions": [condition("Accepted")]}
    stale = {"controllerName": CONTROLLER, "parentRef": {"name": "gone"}, "conditions": []}
    after = applied(world(), {ROUTE: {"parents": [stale, other]}})[ROUTE]["parents"]
    assert after[0] == other
    assert [each["parentRef"]["name"] for each in after] == ["gw", "gw"]


def test_our_parent_is_found_again_whatever_its_defaults() -> None:
    held = {ROUTE: {"parents": [{"controllerName": CONTROLLER, "parentRef": {"name": "gw"}, "conditions": []}]}}
    (parent,) = applied(world(), held)[ROUTE]["parents"]
    assert parent["parentRef"] == {"name": "gw"}
    assert types(parent["conditions"]) == ["Accepted", "ResolvedRefs"]


def test_our_conditions_go_when_they_are_over() -> None:
    conditions = [condition("PartiallyInvalid"), condition("x.io/Theirs")]
    ours = {"controllerName": CONTROLLER, "parentRef": {"name": "gw"}, "conditions": conditions}
    after = applied(world(), {ROUTE: {"parents": [ours]}})[ROUTE]["parents"][0]["conditions"]
    assert types(after) == ["x.io/Theirs", "Accepted", "ResolvedRefs"]


def test_a_pool_that_no_route_names_loses_our_parents() -> None:
    ours = {"controllerName": CONTROLLER, "parentRef": {"name": "gw"}, "conditions": []}
    assert applied(world(), {ref("InferencePool", "p"): {"parents": [ours]}})[ref("InferencePool", "p")] == {
        "parents": []
    }


def test_listeners_and_addresses() -> None:
    found = graph(
        gateway("gw", http("a"), http("b", 81)), route("r"), service(), addresses=(("IPAddress", "10.0.0.1"),)
    )
    held = applied(found)[GATEWAY]
    assert [(each["name"], each["attachedRoutes"]) for each in held["listeners"]] == [("a", 1), ("b", 1)]
    assert held["addresses"] == [{"type": "IPAddress", "value": "10.0.0.1"}]
    kinds = [{"group": "gateway.networking.k8s.io", "kind": kind} for kind in ("HTTPRoute", "GRPCRoute")]
    assert held["listeners"][0]["supportedKinds"] == kinds
    held["listeners"][0]["conditions"].append(condition("x.io/Theirs"))
    assert patches(found, {**applied(found), GATEWAY: held}, NOW) == []


def test_the_class_lists_its_features() -> None:
    held = applied(world())[ref("GatewayClass", "penstock")]
    assert {"name": "HTTPRoute"} in held["supportedFeatures"]


def test_rendering_is_plain_and_has_no_time() -> None:
    shown = {each["name"]: each for each in render(world(broken=True))}
    assert shown["r"]["parents"][0]["conditions"][0] == {"type": "Accepted", "status": "True", "reason": "Accepted"}
    assert shown["gw"]["listeners"][0]["attachedRoutes"] == 1
    assert "lastTransitionTime" not in repr(shown)


def test_problems_are_plain() -> None:
    (problem,) = problems(world(broken=True))
    assert problem["object"] == "HTTPRoute d/r"
    assert problem["field"] == "spec.rules[0].backendRefs[0]"
    assert problem["reason"] == "BackendNotFound"


def test_a_gateway_of_another_class_is_left_alone() -> None:
    other = thing("GatewayClass", "other", {"controllerName": "x.io/other"})
    found = graph(other, gateway(spec={"gatewayClassName": "other"}))
    held = {GATEWAY: {"conditions": [condition("Accepted")]}}
    assert GATEWAY not in dict(patches(found, held, NOW))


POLICY = ObjectRef("gateway.networking.k8s.io", "BackendTLSPolicy", "d", "p")


def ancestors(*names: str) -> Graph:
    accepted = (Condition("Accepted", "True", "Accepted"),)
    found = tuple(ParentStatus(ParentRef(ref("Gateway", name)), accepted) for name in names)
    return Graph(statuses={POLICY: ObjectStatus(POLICY, ancestors=found)})


def test_ancestors_of_others_are_kept_and_ours_go_when_they_should() -> None:
    foreign = {"ancestorRef": {"name": "gw"}, "controllerName": "example.com/other", "conditions": []}
    held = applied(ancestors("gw"), {POLICY: {"ancestors": [foreign]}})
    assert [each["controllerName"] for each in held[POLICY]["ancestors"]] == ["example.com/other", CONTROLLER]
    assert patches(ancestors("gw"), held, NOW) == []
    assert applied(ancestors(), held)[POLICY]["ancestors"] == [foreign]


def test_a_policy_names_no_more_ancestors_than_it_may() -> None:
    held = applied(ancestors(*(f"gw{index}" for index in range(20))))
    assert len(held[POLICY]["ancestors"]) == 16


def test_attached_listener_sets_are_counted() -> None:
    def counted(sets: int) -> Graph:
        return Graph(statuses={GATEWAY: ObjectStatus(GATEWAY, listener_sets=sets)})

    assert applied(counted(2))[GATEWAY]["attachedListenerSets"] == 2
    assert applied(counted(0), applied(counted(2)))[GATEWAY]["attachedListenerSets"] == 0
    assert patches(counted(0), {}, NOW) == []
