"""Resolve: ClusterState -> Graph. Every reference resolved, every rule decided, every mistake a value.

Pure and total: it does no I/O, reads no clock and raises nothing for what a user wrote. Equal objects give equal Graphs,
whatever their order. Sources: Gateway API 1.7, Inference Extension 1.6.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from xds_server.model.graph import Backend, Graph, ObjectStatus
from xds_server.model.objects import ClusterState, HTTPRoute, ObjectRef, Problem
from xds_server.resolve.backends import backend_endpoints
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import Context, problem_order
from xds_server.resolve.gateways import Ours, gateway_problems, gateway_status, our_gateways
from xds_server.resolve.hosts import ports
from xds_server.resolve.listeners import BoundListener, bind_listeners
from xds_server.resolve.pools import ResolvedPools, resolve_pools
from xds_server.resolve.routes import PlacedRoute, lost_parents, place, pool_statuses, route_problems, route_status
from xds_server.resolve.rules import CompiledRoute

__all__ = ["resolve"]


def resolve(
    state: ClusterState, *, colocated_picker: bool = True, addresses: tuple[tuple[str, str], ...] = ()
) -> Graph:
    """The gateway that these objects ask for.

    `colocated_picker`: the picker of this process serves every InferencePool, whatever its endpointPickerRef says.
    `addresses`: (type, value) of where the fleet is reached, for the Gateways' status; empty where nobody knows.
    """
    context = Context(state, colocated_picker, addresses)
    ours = our_gateways(context)
    listeners = bind_listeners(ours.gateways, context)
    by_gateway: dict[ObjectRef, list[BoundListener]] = {gateway.meta.ref: [] for gateway in ours.gateways}
    for bound in listeners:
        by_gateway[bound.gateway.meta.ref].append(bound)
    routes = state.all(HTTPRoute)
    placed = [found for route in routes if (found := place(route, by_gateway, context))]
    backends = _backends(placed)
    pools = resolve_pools(context)
    statuses, told = _statuses(ours, by_gateway, placed, pools, context)
    mine = (*told, *(problem for route in routes for problem in lost_parents(route, context)))
    return Graph(
        ports=ports(listeners, _attached(placed)),
        backends=backends,
        endpoints={name: backend_endpoints(backend, context) for name, backend in backends.items()},
        pools=pools.pools,
        statuses=statuses,
        problems=(*state.problems, *sorted(mine, key=problem_order)),
    )


def _attached(placed: Iterable[PlacedRoute]) -> Mapping[ListenerKey, list[CompiledRoute]]:
    found: dict[ListenerKey, list[CompiledRoute]] = defaultdict(list)
    for each in placed:
        for key in each.listeners:
            found[key].append(each.compiled)
    return found


def _backends(placed: Iterable[PlacedRoute]) -> dict[str, Backend]:
    """Every cluster that a served route uses."""
    used = {
        backend.cluster: backend
        for each in placed
        if any(bound.programmed for bound in each.listeners.values())
        for backend in each.compiled.backends
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
