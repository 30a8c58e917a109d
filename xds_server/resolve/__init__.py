"""Resolve: ClusterState -> Graph. Every reference resolved, every rule decided, every mistake a value.

Pure and total: it does no I/O, reads no clock and raises nothing for what a user wrote. Equal objects give equal Graphs,
whatever their order. Sources: Gateway API 1.7, Inference Extension 1.6.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from xds_server.model.graph import EVERYTHING, Certificate, Fleet, Graph, ObjectStatus
from xds_server.model.objects import AnyRoute, ClusterState, Gateway, HTTPRoute, ObjectRef, Problem, StreamRoute
from xds_server.resolve.backends import backend_endpoints
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import MERGED, Context, Setting, problem_order
from xds_server.resolve.gateways import Ours, gateway_problems, gateway_status, our_gateways
from xds_server.resolve.listener_sets import (
    Parent,
    listener_set_problems,
    listener_set_status,
    lost_sets,
    parents,
)
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.narrow import Resolved, advance
from xds_server.resolve.policies import policy_problems, policy_statuses
from xds_server.resolve.pools import ResolvedPools, resolve_pools
from xds_server.resolve.ports import Attached, Compiled, fleet_of, ports, used
from xds_server.resolve.references import Denied
from xds_server.resolve.routes import (
    PlacedRoute,
    lost_parents,
    place,
    pool_statuses,
    refusal,
    route_problems,
    route_status,
    served,
)
from xds_server.resolve.tls import gateway_certificate
from xds_server.resolve.tracing import gateway_tracing

__all__ = ["MERGED", "Resolved", "Setting", "advance", "resolve", "resolved"]

Parents = Mapping[ObjectRef, Parent]


def resolve(state: ClusterState, setting: Setting = MERGED) -> Graph:
    """The gateway that these objects ask for."""
    return resolved(state, setting).graph


def resolved(state: ClusterState, setting: Setting = MERGED) -> Resolved:
    """The same with what it takes to bring it forward (`narrow`)."""
    context = Context(state, setting)
    ours = our_gateways(context)
    held = parents(ours.gateways, context)
    routes = _routes(state)
    placed = [found for route in routes if (found := place(route, held, context))]
    pools = resolve_pools(context)
    attached = _attached(ours, placed, context)
    fleets = _fleets(ours, held, attached, context)
    backends = {name: backend for fleet in fleets.values() for name, backend in fleet.backends.items()}
    statuses, told = _statuses(ours, held, placed, pools, context)
    statuses = {route.meta.ref: ObjectStatus(route.meta.ref) for route in routes} | statuses  # nothing of ours may stay
    lost = (problem for route in routes for problem in lost_parents(route, context))
    problems = tuple(sorted((*told, *lost, *lost_sets(context)), key=problem_order))
    graph = Graph(
        fleets=fleets,
        endpoints={name: backend_endpoints(backend, context) for name, backend in sorted(backends.items())},
        pools=pools.pools,
        statuses=dict(sorted(statuses.items())),
        problems=(*state.problems, *problems),
    )
    known = {found.compiled.route.meta.ref: found for found in placed}
    return Resolved(state, graph, context, held, known, attached.held, attached.certificates, problems)


def _routes(state: ClusterState) -> list[AnyRoute]:
    """Every route, oldest first; those of one age and name, which differ in kind, in the order of kinds."""
    found: list[AnyRoute] = [*state.all(HTTPRoute), *state.all(StreamRoute)]
    return sorted(found, key=lambda route: (route.meta.age_key, route.meta.ref.kind))


def _fleets(ours: Ours, held: Parents, attached: Attached, context: Context) -> dict[str, Fleet]:
    """Every fleet, also one with nothing to serve: its Envoys wait for an answer."""
    setting = context.setting
    of: dict[str, Gateway | None] = {EVERYTHING: None}
    if setting.per_gateway:
        of = {fleet_of(gateway.meta.ref, setting): gateway for gateway in ours.gateways}
    listeners: dict[str, list[BoundListener]] = {name: [] for name in sorted(of)}
    for parent in held.values():
        listeners[fleet_of(parent.gateway.meta.ref, setting)] += parent.listeners
    return {name: Fleet(ports(found, attached), used(found, attached), of[name]) for name, found in listeners.items()}


def _attached(ours: Ours, placed: Iterable[PlacedRoute], context: Context) -> Attached:
    found: dict[ListenerKey, list[Compiled]] = defaultdict(list)
    shown: dict[ObjectRef, Certificate | None] = {}
    for gateway in ours.gateways:
        certificate = gateway_certificate(gateway, context)
        shown[gateway.meta.ref] = None if isinstance(certificate, Denied) else certificate
    for each in placed:
        for key, bound in each.listeners.items():
            found[key].append(served(each.compiled, bound, shown[bound.gateway.meta.ref]))
    return Attached(found, {ref: gateway_tracing(ref, context) for ref in shown}, shown)


def _statuses(
    ours: Ours, held: Parents, placed: Sequence[PlacedRoute], pools: ResolvedPools, context: Context
) -> tuple[dict[ObjectRef, ObjectStatus], list[Problem]]:
    """Everything that we have to say, and the same as problems for people."""
    statuses = dict(ours.statuses) | dict(pools.statuses)
    problems = [*ours.problems, *pools.problems]
    count = Counter(key for each in placed if refusal(each.compiled) is None for key in each.listeners)
    of_gateway: dict[ObjectRef, list[Parent]] = {gateway.meta.ref: [] for gateway in ours.gateways}
    for ref, parent in held.items():
        if ref not in of_gateway:
            of_gateway[parent.gateway.meta.ref].append(parent)
    for ref, sets in of_gateway.items():
        statuses[ref] = gateway_status(held[ref], sets, count, context)
        problems += gateway_problems(statuses[ref], held[ref].gateway)
        for each in sets:
            statuses[each.owner.meta.ref] = listener_set_status(each, statuses[ref].conditions, count)
            problems += listener_set_problems(each)
    problems += (problem for parent in held.values() for bound in parent.listeners for problem in bound.problems())
    for found in placed:
        statuses[found.compiled.route.meta.ref] = route_status(found)
        problems += route_problems(found)
    for status in (*pool_statuses(placed, context), *policy_statuses(placed, context)):
        statuses[status.ref] = status
    problems += policy_problems(context)
    return statuses, problems
