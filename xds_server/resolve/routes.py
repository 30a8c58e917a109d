"""Routes: where each HTTPRoute ends up, what its status says, and which Gateways reach which InferencePools.

Source: Gateway API 1.7 RouteParentStatus. Cases: tests/xds_server/test_resolve_attachment.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from xds_server.model.graph import Condition, ObjectStatus, ParentStatus
from xds_server.model.objects import GATEWAY_GROUP, Gateway, HTTPRoute, InferencePool, ObjectRef, ParentRef, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.attachment import Attachment, attach
from xds_server.resolve.backends import picker_conditions
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import Context
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.references import Denied
from xds_server.resolve.rules import CompiledRoute, compile_route, route_conditions_failed


@dataclass(frozen=True, slots=True)
class PlacedRoute:
    """A compiled route and its attachments to our Gateways: at least one."""

    compiled: CompiledRoute
    attachments: tuple[Attachment, ...]

    @property
    def listeners(self) -> dict[ListenerKey, BoundListener]:
        """Each listener once, however many parentRefs lead there."""
        return {bound.key: bound for each in self.attachments for bound in each.listeners}


def place(
    route: HTTPRoute, listeners: Mapping[ObjectRef, Sequence[BoundListener]], context: Context
) -> PlacedRoute | None:
    """None for a route without a parent of ours."""
    attachments = attach(route, listeners, context)
    return PlacedRoute(compile_route(route, context), tuple(attachments)) if attachments else None


def route_status(placed: PlacedRoute) -> ObjectStatus:
    compiled = placed.compiled
    generation = compiled.route.meta.generation
    own = (_resolved(compiled, generation), *_partially_invalid(compiled, generation))
    refused = route_conditions_failed(compiled)
    parents = tuple(
        ParentStatus(each.parent, (_accepted(each, refused, generation), *own)) for each in placed.attachments
    )
    return ObjectStatus(compiled.route.meta.ref, parents=parents)


def route_problems(placed: PlacedRoute) -> Iterator[Problem]:
    meta = placed.compiled.route.meta
    yield from placed.compiled.problems()
    for each in placed.attachments:
        if each.denied:
            field = f"spec.parentRefs[{each.index}]"
            yield Problem(meta.ref, field, each.denied.reason, each.denied.message, meta.source)


def lost_parents(route: HTTPRoute, context: Context) -> Iterator[Problem]:
    """ParentRefs that name a Gateway which does not exist: nobody else would say so."""
    for index, parent in enumerate(route.parents):
        is_gateway = (parent.ref.group, parent.ref.kind) == (GATEWAY_GROUP, "Gateway")
        if is_gateway and context.state.get(Gateway, parent.ref) is None:
            message = f"{parent.ref} does not exist; create it or change the parentRef"
            where = f"spec.parentRefs[{index}]"
            yield Problem(route.meta.ref, where, c.NO_MATCHING_PARENT, message, route.meta.source)
    if not route.parents:
        message = "the route has no parent, so nothing serves it; add a parentRef to a Gateway"
        yield Problem(route.meta.ref, "spec.parentRefs", c.NO_MATCHING_PARENT, message, route.meta.source)


def pool_statuses(placed: Iterable[PlacedRoute], context: Context) -> Iterator[ObjectStatus]:
    """Every InferencePool with a parent for each Gateway that reaches it, and with none when no route names it."""
    reached: dict[ObjectRef, dict[ObjectRef, bool]] = {}
    for each in placed:
        refused = not each.compiled.accepted
        for pool in each.compiled.pools:
            gateways = reached.setdefault(pool, {})
            for attachment in each.attachments:
                ref = attachment.parent.ref
                gateways[ref] = gateways.get(ref, False) or not (refused or attachment.denied)
    for found in context.state.all(InferencePool):
        parents = reached.get(found.meta.ref, {})
        yield ObjectStatus(
            found.meta.ref,
            parents=tuple(
                ParentStatus(ParentRef(ref), _pool_conditions(found, parents[ref], context)) for ref in sorted(parents)
            ),
        )


def _accepted(each: Attachment, refused: Denied | None, generation: int) -> Condition:
    denied = each.denied or refused
    if denied:
        return c.failed(c.ACCEPTED, denied.reason, denied.message, generation)
    idle = [bound.listener.name for bound in each.listeners if not bound.programmed]
    message = f"attached, but not served by listeners that are not programmed: {', '.join(idle)}" if idle else ""
    return c.passed(c.ACCEPTED, generation, message)


def _resolved(compiled: CompiledRoute, generation: int) -> Condition:
    if not compiled.unresolved:
        return c.passed(c.RESOLVED_REFS, generation)
    message = c.sentence(f"{field}: {denied.message}" for field, denied in compiled.unresolved)
    return c.failed(c.RESOLVED_REFS, compiled.unresolved[0][1].reason, message, generation)


def _partially_invalid(compiled: CompiledRoute, generation: int) -> Iterator[Condition]:
    """Only where some rules work and some do not: a route of which nothing works is not accepted."""
    if compiled.broken_rules and compiled.accepted:
        reasons = c.sentence(f"{field}: {denied.message}" for field, denied in compiled.invalid)
        message = f"Dropped Rule: {compiled.broken_rules} of {len(compiled.route.rules)} answer 500: {reasons}"
        yield c.condition(
            c.PARTIALLY_INVALID, ok=True, reason=c.UNSUPPORTED_VALUE, message=message, generation=generation
        )


def _pool_conditions(pool: InferencePool, routed: bool, context: Context) -> tuple[Condition, Condition]:
    accepted, resolved = picker_conditions(pool, context)
    if not routed:
        message = "no route that names this pool is accepted by this Gateway; see the routes' status"
        accepted = c.failed(c.ACCEPTED, c.HTTP_ROUTE_NOT_ACCEPTED, message, pool.meta.generation)
    return accepted, resolved
