"""Routes: where each route ends up, what its status says, and which Gateways reach which InferencePools.

Source: Gateway API 1.7 RouteParentStatus. Cases: tests/xds_server/test_resolve_attachment.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from xds_server.model.graph import Certificate, Condition, ObjectStatus, ParentStatus
from xds_server.model.objects import (
    GATEWAY_GROUP,
    AnyRoute,
    Gateway,
    HTTPRoute,
    InferencePool,
    ListenerSet,
    ObjectRef,
    ParentRef,
    Problem,
)
from xds_server.resolve import conditions as c
from xds_server.resolve.attachment import Attachment, attach
from xds_server.resolve.backends import picker_conditions
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import Context
from xds_server.resolve.listener_sets import Parent
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.ports import Compiled
from xds_server.resolve.references import Denied
from xds_server.resolve.rules import CompiledRoute, compile_route, presenting, route_conditions_failed, used
from xds_server.resolve.streams import CompiledStream, compile_stream, stream_at

PARENTS: Mapping[tuple[str, str], type[Gateway | ListenerSet]] = {
    (GATEWAY_GROUP, "Gateway"): Gateway,
    (GATEWAY_GROUP, "ListenerSet"): ListenerSet,
}


@dataclass(frozen=True, slots=True)
class PlacedRoute:
    """A compiled route and its attachments to our Gateways: at least one."""

    compiled: Compiled
    attachments: tuple[Attachment, ...]

    @property
    def listeners(self) -> dict[ListenerKey, BoundListener]:
        """Each listener once, however many parentRefs lead there."""
        return {bound.key: bound for each in self.attachments for bound in each.listeners}


def place(route: AnyRoute, parents: Mapping[ObjectRef, Parent], context: Context) -> PlacedRoute | None:
    """None for a route without a parent of ours."""
    attachments = attach(route, parents, context)
    if not attachments:
        return None
    compiled = compile_route(route, context) if isinstance(route, HTTPRoute) else compile_stream(route, context)
    return PlacedRoute(compiled, tuple(attachments))


def served(compiled: Compiled, bound: BoundListener, certificate: Certificate | None) -> Compiled:
    """The route as one listener of a Gateway with this client certificate serves it."""
    if isinstance(compiled, CompiledStream):
        encrypted = bound.listener.protocol == "TLS" and bound.tls is None
        return stream_at(compiled, encrypted=encrypted, certificate=certificate)
    if certificate is None:
        return compiled
    entries = presenting(compiled.entries, certificate)
    return replace(compiled, entries=entries, backends=used(entries))


def refusal(compiled: Compiled) -> Denied | None:
    """Why the route as a whole is refused; one that only forwards connections never is."""
    return route_conditions_failed(compiled) if isinstance(compiled, CompiledRoute) else None


def route_status(placed: PlacedRoute) -> ObjectStatus:
    compiled = placed.compiled
    generation = compiled.route.meta.generation
    own = (_resolved(compiled, generation), *_partially_invalid(compiled, generation))
    refused = refusal(compiled)
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


def lost_parents(route: AnyRoute, context: Context) -> Iterator[Problem]:
    """ParentRefs that name a Gateway or ListenerSet which does not exist: nobody else would say so."""
    for index, parent in enumerate(route.parents):
        kind = PARENTS.get((parent.ref.group, parent.ref.kind))
        if kind is not None and context.state.get(kind, parent.ref) is None:
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
        refused = refusal(each.compiled) is not None
        for pool in each.compiled.pools if isinstance(each.compiled, CompiledRoute) else ():
            gateways = reached.setdefault(pool, {})
            for attachment in each.attachments:
                ref = attachment.gateway
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


def _resolved(compiled: Compiled, generation: int) -> Condition:
    if not compiled.unresolved:
        return c.passed(c.RESOLVED_REFS, generation)
    message = c.sentence(f"{field}: {denied.message}" for field, denied in compiled.unresolved)
    return c.failed(c.RESOLVED_REFS, compiled.unresolved[0][1].reason, message, generation)


def _partially_invalid(compiled: Compiled, generation: int) -> Iterator[Condition]:
    """Only where some rules work and some do not: a route of which nothing works is not accepted."""
    if isinstance(compiled, CompiledRoute) and compiled.broken_rules and compiled.accepted:
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
