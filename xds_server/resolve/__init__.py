"""Resolve: ClusterState -> Graph. Every reference resolved, every rule decided, every mistake a value.

Pure and total: it does no I/O, reads no clock and raises nothing for what a user wrote. Equal objects give equal Graphs,
whatever their order. Sources: Gateway API 1.7, Inference Extension 1.6.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from xds_server.model.graph import EVERYTHING, Backend, Fleet, Graph, ObjectStatus
from xds_server.model.objects import ClusterState, HTTPRoute, ObjectRef, Problem
from xds_server.resolve.backends import backend_endpoints
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import MERGED, Context, Setting, problem_order
from xds_server.resolve.gateways import Ours, gateway_problems, gateway_status, our_gateways
from xds_server.resolve.hosts import ports
from xds_server.resolve.listeners import BoundListener, bind_listeners
from xds_server.resolve.pools import ResolvedPools, resolve_pools
from xds_server.resolve.routes import PlacedRoute, lost_parents, place, pool_statuses, route_problems, route_status
from xds_server.resolve.rules import CompiledRoute

__all__ = ["MERGED", "Setting", "resolve"]


def resolve(state: ClusterState, setting: Setting = MERGED) -> Graph:
    """The gateway that these objects ask for."""
    context = Context(state, setting)
    ours = our_gateways(context)
    listeners = bind_listeners(ours.gateways, context)
    by_gateway: dict[ObjectRef, list[BoundListener]] = {gateway.meta.ref: [] for gateway in ours.gateways}
    for bound in listeners:
        by_gateway[bound.gateway.meta.ref].append(bound)
    routes = state.all(HTTPRoute)
    placed = [found for route in routes if (found := place(route, by_gateway, context))]
    pools = resolve_pools(context)
    fleets = _fleets(ours, listeners, placed, setting)
    backends = {name: backend for fleet in fleets.values() for name, backend in fleet.backends.items()}
    statuses, told = _statuses(ours, by_gateway, placed, pools, context)
    mine = (*told, *(problem for route in routes for problem in lost_parents(route, context)))
    return Graph(
        fleets=fleets,
        endpoints={name: backend_endpoints(backend, context) for name, backend in sorted(backends.items())},
        pools=pools.pools,
        statuses=statuses,
        problems=(*state.problems, *sorted(mine, key=problem_order)),
    )


def fleet_of(gateway: ObjectRef, setting: Setting) -> str:
    """The name of the fleet that serves a Gateway: what its Envoys are known by."""
    return f"{gateway.namespace}/{gateway.name}" if setting.per_gateway else EVERYTHING


def _fleets(
    ours: Ours, listeners: Iterable[BoundListener], placed: Iterable[PlacedRoute], setting: Setting
) -> dict[str, Fleet]:
    """Every fleet, also one with nothing to serve: its Envoys wait for an answer."""
    each = {fleet_of(gateway.meta.ref, setting) for gateway in ours.gateways}
    names = each if setting.per_gateway else {EVERYTHING}
    held: dict[str, list[BoundListener]] = {name: [] for name in sorted(names)}
    for bound in listeners:
        held[fleet_of(bound.gateway.meta.ref, setting)].append(bound)
    attached = _attached(placed)
    owners = {fleet_of(gateway.meta.ref, setting): gateway for gateway in ours.gateways} if setting.per_gateway else {}
    return {
        name: Fleet(ports(found, attached), _backends(found, attached), owners.get(name)) for name, found in held.items()
    }


def _attached(placed: Iterable[PlacedRoute]) -> Mapping[ListenerKey, list[CompiledRoute]]:
    found: dict[ListenerKey, list[CompiledRoute]] = defaultdict(list)
    for each in placed:
        for key in each.listeners:
            found[key].append(each.compiled)
    return found


def _backends(
    listeners: Iterable[BoundListener], attached: Mapping[ListenerKey, Sequence[CompiledRoute]]
) -> dict[str, Backend]:
    """Every cluster that a route served by these listeners uses."""
    used = {
        backend.cluster: backend
        for bound in listeners
        if bound.programmed
        for compiled in attached.get(bound.key, ())
        for backend in compiled.backends
    }
    return dict(sorted(used.items()))


def _statuses(
    ours: Ours,
    listeners: Mapping[ObjectRef, list[BoundListener]],
    placed: Iterable[PlacedRoute],
    pools: ResolvedPools,
    context: Context,
) -> tuple[Mapping[ObjectRef, ObjectStatus], list[Problem]]:
    """Everything that we have to say, in the order of references; and the same as problems for people."""
    placed = list(placed)
    statuses = dict(ours.statuses) | dict(pools.statuses)
    problems = [*ours.problems, *pools.problems]
    count = Counter(key for each in placed if each.compiled.accepted for key in each.listeners)
    for gateway in ours.gateways:
        ref = gateway.meta.ref
        statuses[ref] = gateway_status(gateway, listeners[ref], count, context)
        problems += gateway_problems(statuses[ref], gateway)
        problems += (problem for bound in listeners[ref] for problem in bound.problems())
    for route in context.state.all(HTTPRoute):
        statuses[route.meta.ref] = ObjectStatus(route.meta.ref)  # no parent of ours: nothing of ours may stay in status
    for each in placed:
        statuses[each.compiled.route.meta.ref] = route_status(each)
        problems += route_problems(each)
    for status in pool_statuses(placed, context):
        statuses[status.ref] = status
    return dict(sorted(statuses.items())), problems
