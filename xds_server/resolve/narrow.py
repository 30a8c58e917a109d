"""Narrow: a Graph brought forward where nothing but what some HTTPRoutes say has changed, in the time that these routes take.

The result equals `resolve` of the new state, whatever came before (tests/xds_server/test_narrow.py). What is not plainly
narrow (another hostname, listener, backend or pool; anything but routes) gives None, and is resolved as a whole.
"""

from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from xds_server.model.graph import Certificate, Chain, Fleet, Graph, ObjectStatus, Port, VirtualHost
from xds_server.model.objects import AnyRoute, ClusterState, HTTPRoute, Object, ObjectRef, Problem
from xds_server.resolve.conflicts import FAMILIES, ListenerKey, socket
from xds_server.resolve.context import Context, problem_order
from xds_server.resolve.hostnames import ANY, covers, owner
from xds_server.resolve.hosts import Groups, entry_order, routes_of
from xds_server.resolve.listener_sets import Parent
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.policies import named
from xds_server.resolve.ports import fleet_of
from xds_server.resolve.routes import (
    PlacedRoute,
    lost_parents,
    place,
    refusal,
    route_problems,
    route_status,
    served,
)
from xds_server.resolve.rules import CompiledRoute, Entry, at_listener

LIMIT = 16  # routes: more are resolved with everything else


@dataclass(frozen=True, slots=True)
class Resolved:
    """A Graph, and what it takes to bring it forward."""

    state: ClusterState
    graph: Graph
    context: Context  # of the state that was resolved as a whole: since then only routes have changed
    parents: Mapping[ObjectRef, Parent]
    placed: Mapping[ObjectRef, PlacedRoute]
    held: Mapping[ListenerKey, Groups]
    certificates: Mapping[ObjectRef, Certificate | None]  # that each Gateway shows to backends
    problems: tuple[Problem, ...]  # ours, in order


def advance(before: Resolved, state: ClusterState) -> Resolved | None:
    """The same for a newer state; None where more has changed than can be told apart here."""
    pairs = _replaced(before.state.objects, state.objects)
    if pairs is None or len(pairs) > LIMIT:
        return None
    found: Resolved | None = before
    for old, new in pairs:
        if found is None or not isinstance(old, HTTPRoute) or not isinstance(new, HTTPRoute):
            return None
        found = _with_route(found, old, new)
    if found is None:
        return None
    problems = (*state.problems, *found.problems)
    graph = found.graph if problems == found.graph.problems else replace(found.graph, problems=problems)
    return replace(found, state=state, graph=graph)


def _replaced(
    before: Mapping[ObjectRef, Object], after: Mapping[ObjectRef, Object]
) -> list[tuple[Object, Object]] | None:
    """The objects that are not the ones they were; None where some came or went. Most are told by their identity."""
    if len(before) != len(after):
        return None
    pairs = [(old, new) for old, new in zip(before.values(), after.values(), strict=True) if old is not new]
    return pairs if all(old.meta.ref == new.meta.ref for old, new in pairs) else None


def _with_route(before: Resolved, old: HTTPRoute, new: HTTPRoute) -> Resolved | None:
    ref, context = new.meta.ref, before.context
    was, now = before.placed.get(ref), place(new, before.parents, context)
    if not _alike(old, new):
        return None
    graph = before.graph
    status = ObjectStatus(ref)
    placed, held, told = before.placed, before.held, list(lost_parents(new, context))
    if was is not None and now is not None:
        if not _placed_alike(was, now):
            return None
        changed = dict(_regrouped(before, was, now))
        graph = replace(graph, fleets=_fleets(before, now, changed))
        status = route_status(now)
        told += route_problems(now)
        placed, held = {**placed, ref: now}, {**held, **changed}
    elif was is not None or now is not None:
        return None
    if graph.statuses[ref] != status:
        graph = replace(graph, statuses={**graph.statuses, ref: status})
    problems = before.problems
    if told or any(each.ref == ref for each in problems):
        kept = (each for each in problems if each.ref != ref)
        problems = tuple(sorted((*kept, *told), key=problem_order))
    return replace(before, graph=graph, placed=placed, held=held, problems=problems)


def _alike(old: HTTPRoute, new: HTTPRoute) -> bool:
    """What other objects' statuses, and the order of routes, come from."""
    same = (old.hostnames, old.meta.age_key, type(old)) == (new.hostnames, new.meta.age_key, type(new))
    return same and _named(old) == _named(new)


def _named(route: AnyRoute) -> set[tuple[ObjectRef, int]]:
    return {(wanted.ref, wanted.port) for wanted in named(route)}


def _placed_alike(was: PlacedRoute, now: PlacedRoute) -> bool:
    """Served by the same listeners, with the same clusters and pools, and refused or not as before."""
    old, new = was.compiled, now.compiled
    if not isinstance(old, CompiledRoute) or not isinstance(new, CompiledRoute):
        return False
    reach = [[(each.gateway, each.denied is None) for each in found.attachments] for found in (was, now)]
    return (
        was.listeners.keys() == now.listeners.keys()
        and reach[0] == reach[1]
        and (old.backends, old.pools) == (new.backends, new.pools)
        and (refusal(old) is None) == (refusal(new) is None)
    )


def _regrouped(before: Resolved, was: PlacedRoute, now: PlacedRoute) -> Iterator[tuple[ListenerKey, Groups]]:
    """Of each listener that serves the route the groups with its new entries."""
    for key, bound in now.listeners.items():
        if key not in before.held:
            continue  # not programmed: it serves nobody
        gone, come = (_entries(found, bound, before) for found in (was, now))
        own = _hostnames(now)
        yield key, {**before.held[key], **{each: _exchanged(before.held[key][each], gone, come) for each in own}}


def _entries(found: PlacedRoute, bound: BoundListener, before: Resolved) -> tuple[Entry, ...]:
    compiled = served(found.compiled, bound, before.certificates[bound.gateway.meta.ref])
    entries = compiled.entries if isinstance(compiled, CompiledRoute) else ()
    return at_listener(entries, bound.listener.protocol.lower(), bound.listener.port)


def _exchanged(held: Iterable[Entry], gone: Iterable[Entry], come: Iterable[Entry]) -> list[Entry]:
    orders = {entry_order(each) for each in gone}
    found = [each for each in held if entry_order(each) not in orders]
    for each in come:
        insort(found, each, key=entry_order)
    return found


def _hostnames(found: PlacedRoute) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.lower() for each in found.compiled.route.hostnames)) or (ANY,)


def _fleets(before: Resolved, now: PlacedRoute, changed: Mapping[ListenerKey, Groups]) -> dict[str, Fleet]:
    fleets = dict(before.graph.fleets)
    own = _hostnames(now)
    for key, bound in now.listeners.items():
        if key in changed:
            name = fleet_of(bound.gateway.meta.ref, before.context.setting)
            owners = _owners(name, bound, before)
            ports = tuple(
                _port(port, bound, owners, own, changed[key]) if _is(port, bound) else port
                for port in fleets[name].ports
            )
            fleets[name] = replace(fleets[name], ports=ports)
    return fleets


def _owners(fleet: str, bound: BoundListener, before: Resolved) -> frozenset[str]:
    """The hostnames of the listeners that share this one's socket."""
    setting, where = before.context.setting, socket(bound.listener)
    return frozenset(
        each.hostname
        for parent in before.parents.values()
        if fleet_of(parent.gateway.meta.ref, setting) == fleet
        for each in parent.listeners
        if each.programmed and socket(each.listener) == where
    )


def _is(port: Port, bound: BoundListener) -> bool:
    return (port.transport, port.number) == socket(bound.listener)


def _port(port: Port, bound: BoundListener, owners: Collection[str], own: tuple[str, ...], held: Groups) -> Port:
    plain = FAMILIES[bound.listener.protocol] == "HTTP"
    name = "" if plain or bound.hostname == ANY else bound.hostname
    return replace(
        port,
        chains=tuple(
            _chain(chain, bound, owners, own, held) if chain.hostname == name and chain.stream is None else chain
            for chain in port.chains
        ),
    )


def _chain(chain: Chain, bound: BoundListener, owners: Collection[str], own: tuple[str, ...], held: Groups) -> Chain:
    exact = frozenset(each for each in own if "*" not in each)
    wild = [each for each in own if "*" in each]

    def host(found: VirtualHost) -> VirtualHost:
        name = found.hostname
        if name not in exact and not any(covers(each, name) for each in wild):
            return found
        return VirtualHost(name, routes_of(name, held)) if owner(name, owners) == bound.hostname else found

    return replace(chain, hosts=tuple(map(host, chain.hosts)))
