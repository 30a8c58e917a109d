"""Status: the Graph in Kubernetes' words: what to patch, what to print, and what is wrong.

Only what differs is written and only what is ours: conditions of other types, and the parents of other controllers, are kept
as they are (Gateway API 1.7, GatewayPreserveForeignConditions). Cases: tests/xds_server/test_status.py.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from xds_server.model.graph import CONTROLLER, Condition, Graph, ListenerStatus, ObjectStatus, ParentStatus
from xds_server.model.objects import GATEWAY_GROUP, ObjectRef, ParentRef
from xds_server.resolve.conditions import OURS

Json = dict[str, Any]
ParentKey = tuple[str, str, str, str, str, int]
_ANCESTORS = 16  # as many as a policy's status may have

# The fields of `status` that we write, by kind; we touch no other.
FIELDS: Mapping[str, tuple[str, ...]] = {
    "GatewayClass": ("conditions", "supportedFeatures"),
    "Gateway": ("addresses", "attachedListenerSets", "conditions", "listeners"),
    "ListenerSet": ("conditions", "listeners"),
    "HTTPRoute": ("parents",),
    "GRPCRoute": ("parents",),
    "TLSRoute": ("parents",),
    "TCPRoute": ("parents",),
    "UDPRoute": ("parents",),
    "BackendTLSPolicy": ("ancestors",),
    "XBackendTrafficPolicy": ("ancestors",),
    "XTelemetryPolicy": ("ancestors",),
    "XBackend": ("ancestors",),
    "InferencePool": ("parents",),
    "InferenceObjective": ("conditions",),
    "InferenceModelRewrite": ("conditions",),
}


def patches(graph: Graph, held: Mapping[ObjectRef, Mapping[str, Any]], now: datetime) -> list[tuple[ObjectRef, Json]]:
    """JSON merge patches for the status subresources that differ from `held`, the status that each object has now.

    `now` is used where a condition's status changes, as lastTransitionTime asks. An object that `held` lacks has no status.
    """
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    for ref, status in graph.statuses.items():
        existing = held.get(ref, {})
        wanted = _wanted(status, existing, time)
        differs = {field: value for field, value in wanted.items() if value != (existing.get(field) or type(value)())}
        if differs:
            found.append((ref, {"status": differs}))
    return found


def render(graph: Graph) -> list[Json]:
    """Every status as plain values, for people and for golden files; without times and generations."""
    return [_rendered(status) for _, status in sorted(graph.statuses.items())]


def problems(graph: Graph) -> list[Json]:
    """Every problem as plain values: where it was read, which object and field, the reason, and what to do."""
    return [
        _without_empty(
            {
                "source": each.source,
                "object": str(each.ref) if each.ref else "",
                "field": each.field,
                "reason": each.reason,
                "message": each.message,
            }
        )
        for each in graph.problems
    ]


def _wanted(status: ObjectStatus, existing: Mapping[str, Any], time: str) -> Json:
    makers: dict[str, Callable[[], list[Json] | int]] = {
        "addresses": lambda: [{"type": kind, "value": value} for kind, value in status.addresses],
        "conditions": lambda: _conditions(status.conditions, existing.get("conditions") or [], time),
        "listeners": lambda: _listeners(status.listeners, existing.get("listeners") or [], time),
        "parents": lambda: _entries("parentRef", status.parents, status.ref, existing.get("parents") or [], time),
        "ancestors": lambda: _entries(
            "ancestorRef", status.ancestors, status.ref, existing.get("ancestors") or [], time
        )[:_ANCESTORS],
        "attachedListenerSets": lambda: status.listener_sets or 0,
        "supportedFeatures": lambda: [{"name": name} for name in status.supported_features],
    }
    return {field: makers[field]() for field in FIELDS.get(status.ref.kind, ())}


def _conditions(wanted: Sequence[Condition], existing: Sequence[Json], time: str) -> list[Json]:
    """Ours updated where they stand, the missing ones added, those of others kept."""
    ours = {each.type: each for each in wanted}
    found = []
    for held in existing:
        kind = held.get("type", "")
        if kind in ours:
            found.append(_condition(ours.pop(kind), held, time))
        elif kind not in OURS:
            found.append(held)
    return found + [_condition(each, {}, time) for each in ours.values()]


def _condition(wanted: Condition, held: Json, time: str) -> Json:
    kept = held.get("lastTransitionTime") if held.get("status") == wanted.status else None
    return {
        "type": wanted.type,
        "status": wanted.status,
        "reason": wanted.reason,
        "message": wanted.message,
        "observedGeneration": wanted.generation,
        "lastTransitionTime": kept or time,
    }


def _listeners(wanted: Iterable[ListenerStatus], existing: Sequence[Json], time: str) -> list[Json]:
    held = {each.get("name"): each for each in existing}
    return [
        {
            "name": each.name,
            "attachedRoutes": each.attached_routes,
            "supportedKinds": [{"group": group, "kind": kind} for group, kind in each.supported_kinds],
            "conditions": _conditions(each.conditions, held.get(each.name, {}).get("conditions") or [], time),
        }
        for each in wanted
    ]


def _entries(
    field: str, wanted: Sequence[ParentStatus], ref: ObjectRef, existing: Sequence[Json], time: str
) -> list[Json]:
    """The parents of a route or pool, the ancestors of a policy: ours, among those of others."""
    namespace = ref.namespace
    ours = {_key(_parent_ref(each.parent), namespace): each for each in reversed(wanted)}
    ours = dict(reversed(ours.items()))  # of equal parentRefs the first stands, in the order of the spec
    found = []
    for held in existing:
        if held.get("controllerName") != CONTROLLER:
            found.append(held)
        elif parent := ours.pop(_key(held.get(field) or {}, namespace), None):
            found.append(_entry(field, parent, held, time))
    return found + [_entry(field, each, {}, time) for each in ours.values()]


def _entry(field: str, wanted: ParentStatus, held: Json, time: str) -> Json:
    return {
        field: held.get(field) or _parent_ref(wanted.parent),
        "controllerName": CONTROLLER,
        "conditions": _conditions(wanted.conditions, held.get("conditions") or [], time),
    }


def _parent_ref(parent: ParentRef) -> Json:
    ref = parent.ref
    return _without_empty(
        {
            "group": ref.group,
            "kind": ref.kind,
            "namespace": ref.namespace,
            "name": ref.name,
            "sectionName": parent.section,
            "port": parent.port,
        }
    )


def _key(parent: Mapping[str, Any], namespace: str) -> ParentKey:
    """A parentRef's identity, with the defaults that the API server fills in."""
    return (
        parent.get("group", GATEWAY_GROUP),
        parent.get("kind", "Gateway"),
        parent.get("namespace", namespace),
        parent.get("name", ""),
        parent.get("sectionName", ""),
        parent.get("port", 0),
    )


def _rendered(status: ObjectStatus) -> Json:
    return _without_empty(
        {
            "kind": status.ref.kind,
            "namespace": status.ref.namespace,
            "name": status.ref.name,
            "addresses": [{"type": kind, "value": value} for kind, value in status.addresses],
            "conditions": [_plain(each) for each in status.conditions],
            "listeners": [
                {
                    "name": each.name,
                    "attachedRoutes": each.attached_routes,
                    "supportedKinds": [kind for _, kind in each.supported_kinds],
                    "conditions": [_plain(found) for found in each.conditions],
                }
                for each in status.listeners
            ],
            "parents": [_plain_entry("parentRef", each) for each in status.parents],
            "ancestors": [_plain_entry("ancestorRef", each) for each in status.ancestors],
            "attachedListenerSets": status.listener_sets or 0,
            "supportedFeatures": list(status.supported_features),
        }
    )


def _plain_entry(field: str, found: ParentStatus) -> Json:
    return {field: _parent_ref(found.parent), "conditions": [_plain(each) for each in found.conditions]}


def _plain(found: Condition) -> Json:
    return _without_empty(
        {"type": found.type, "status": found.status, "reason": found.reason, "message": found.message}
    )


def _without_empty(found: Json) -> Json:
    return {key: value for key, value in found.items() if value not in ("", [], 0)}
