"""ListenerSets: whose listeners a Gateway takes in beside its own, and what their status says.

Source: Gateway API 1.7 ListenerSet and Gateway.spec.allowedListeners (GEP-1713). Cases: tests/xds_server/test_resolve_listener_sets.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xds_server.model.graph import Condition, ObjectStatus
from xds_server.model.objects import Gateway, ListenerSet, ObjectRef, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.conflicts import Conflict, ListenerKey, Owner, conflicts
from xds_server.resolve.context import Context
from xds_server.resolve.listeners import BoundListener, bind_listener
from xds_server.resolve.references import Denied


@dataclass(frozen=True, slots=True)
class Parent:
    """What a route's parentRef may name: one of our Gateways, or a ListenerSet of one, and what it has."""

    gateway: Gateway
    owner: Owner
    listeners: tuple[BoundListener, ...]
    denied: Denied | None = None  # a ListenerSet that its Gateway does not let in

    @property
    def attached(self) -> bool:
        """Whether a ListenerSet is let in and brings something: what Gateway.status.attachedListenerSets counts."""
        return any(bound.programmed for bound in self.listeners)


def parents(gateways: Sequence[Gateway], context: Context) -> dict[ObjectRef, Parent]:
    """Every Gateway of ours and after it its ListenerSets, in the order of precedence; `gateways` come oldest first."""
    sets: dict[ObjectRef, list[ListenerSet]] = {gateway.meta.ref: [] for gateway in gateways}
    for found in context.state.all(ListenerSet):
        if found.parent in sets:
            sets[found.parent].append(found)
    denied: dict[ObjectRef, Denied] = {}
    merged: list[tuple[Gateway, list[Owner]]] = []
    for gateway in gateways:
        for each in sets[gateway.meta.ref]:
            if (why := refused(gateway, each, context)) is not None:
                denied[each.meta.ref] = why
        merged.append((gateway, [gateway, *sets[gateway.meta.ref]]))
    lost = _conflicts([[each for each in owners if each.meta.ref not in denied] for _, owners in merged], context)
    return {
        owner.meta.ref: _parent(gateway, owner, denied.get(owner.meta.ref), lost, context)
        for gateway, owners in merged
        for owner in owners
    }


def listener_set_status(
    parent: Parent, gateway: Iterable[Condition], attached: Mapping[ListenerKey, int]
) -> ObjectStatus:
    """A set is accepted if it brings one listener that can be served (ListenerSetReferenceGrant); `gateway` says the rest."""
    return ObjectStatus(
        parent.owner.meta.ref,
        conditions=_conditions(parent, gateway),
        listeners=tuple(each.status(attached.get(each.key, 0)) for each in parent.listeners),
    )


def listener_set_problems(parent: Parent) -> Iterable[Problem]:
    meta = parent.owner.meta
    if parent.denied:
        yield Problem(meta.ref, "spec.parentRef", parent.denied.reason, parent.denied.message, meta.source)


def lost_sets(context: Context) -> Iterable[Problem]:
    """ListenerSets whose Gateway does not exist: nobody else would say so."""
    for found in context.state.all(ListenerSet):
        if context.state.get(Gateway, found.parent) is None:
            message = (
                f"{found.parent} does not exist, so nobody serves these listeners; create it or change the parentRef"
            )
            yield Problem(found.meta.ref, "spec.parentRef", c.NO_MATCHING_PARENT, message, found.meta.source)


def _parent(
    gateway: Gateway, owner: Owner, denied: Denied | None, lost: Mapping[ListenerKey, Conflict], context: Context
) -> Parent:
    indexes = () if denied else range(len(owner.listeners))
    bound = (bind_listener(gateway, owner, index, lost.get((owner.meta.ref, index)), context) for index in indexes)
    return Parent(gateway, owner, tuple(bound), denied)


def _conflicts(fleets: Sequence[Sequence[Owner]], context: Context) -> Mapping[ListenerKey, Conflict]:
    """Gateways that have a fleet each share no socket; those of one fleet do."""
    if not context.setting.per_gateway:
        return conflicts(owner for owners in fleets for owner in owners)
    return {key: conflict for owners in fleets for key, conflict in conflicts(owners).items()}


def refused(gateway: Gateway, found: ListenerSet, context: Context) -> Denied | None:
    allowed, namespace = gateway.allowed_listeners, found.meta.namespace
    match allowed.namespaces:
        case "All":
            return None
        case "Same" if namespace == gateway.meta.namespace:
            return None
        case "Selector" if allowed.selector.matches(context.labels_of(namespace)):
            return None
    what = f"{gateway.meta.ref} takes no ListenerSet from namespace {namespace}"
    return Denied(c.NOT_ALLOWED, f"{what}; see spec.allowedListeners of the Gateway")


def _conditions(parent: Parent, gateway: Iterable[Condition]) -> tuple[Condition, ...]:
    generation = parent.owner.meta.generation
    denied = parent.denied
    idle = [each.listener.name for each in parent.listeners if not each.programmed]
    message = f"listeners that cannot be served: {', '.join(idle)}; see their conditions" if idle else ""
    if denied is None and not parent.attached:
        denied = Denied(c.LISTENERS_NOT_VALID, message)
    if denied:
        return tuple(c.failed(kind, denied.reason, denied.message, generation) for kind in (c.ACCEPTED, c.PROGRAMMED))
    refused = {each.type for each in gateway if each.status == "False"}
    above = f"{parent.gateway.meta.ref}, which this set belongs to, is not"
    accepted = c.condition(  # True with this reason: the set brings what it can
        c.ACCEPTED, True, c.LISTENERS_NOT_VALID if idle else c.ACCEPTED, message, generation
    )
    programmed = c.passed(c.PROGRAMMED, generation)
    if c.ACCEPTED in refused:
        accepted = c.failed(c.ACCEPTED, c.PARENT_NOT_ACCEPTED, f"{above} accepted; see its conditions", generation)
    if c.PROGRAMMED in refused:
        what = f"{above} programmed; see its conditions"
        programmed = c.failed(c.PROGRAMMED, c.PARENT_NOT_PROGRAMMED, what, generation)
    return accepted, programmed
