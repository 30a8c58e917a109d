"""Forward: the resources of a newer Graph from those of the one before, in the time that the changed virtual hosts take.

The result equals `translate` of the newer Graph (tests/xds_server/test_narrow.py). Only route tables are brought forward,
and only where routes ask for nothing new of their listener; whatever else differs in a fleet translates it as a whole.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from xds_server.model.graph import Chain, Fleet, Forward, Graph, Port, Route, VirtualHost
from xds_server.snapshot import RDS, Resource, Snapshot
from xds_server.translate.listener import chain_name
from xds_server.translate.route_table import EncodeRoute, Table, differing


@dataclass(frozen=True, slots=True)
class Translated:
    """What a Graph became."""

    graph: Graph
    snapshots: Mapping[str, Snapshot]
    tables: Mapping[str, Mapping[str, Table]] = field(repr=False)  # by fleet, by name


def forward(before: Translated, graph: Graph, encode: EncodeRoute) -> Translated | None:
    """None where a fleet must be translated as a whole."""
    if graph.fleets.keys() != before.graph.fleets.keys() or graph.endpoints is not before.graph.endpoints:
        return None
    snapshots, tables = dict(before.snapshots), dict(before.tables)
    for name, fleet in graph.fleets.items():
        old = before.graph.fleets[name]
        if fleet is old:
            continue
        if not _alike(old, fleet):
            return None
        tables[name] = _tables(before.tables[name], fleet, encode)
        snapshots[name] = _snapshot(before.snapshots[name], before.tables[name], tables[name])
    return Translated(graph, snapshots, tables)


def _tables(before: Mapping[str, Table], fleet: Fleet, encode: EncodeRoute) -> dict[str, Table]:
    chains = ((chain_name(chain, port), chain) for port in fleet.ports for chain in port.chains)
    return {name: before[name].with_hosts(chain.hosts, encode) for name, chain in chains if chain.stream is None}


def _snapshot(before: Snapshot, old: Mapping[str, Table], new: Mapping[str, Table]) -> Snapshot:
    """Collections that did not change stay the ones they were: nobody compares them again."""
    changed = {name: Resource.of(name, table.body()) for name, table in new.items() if table is not old[name]}
    return Snapshot({**before.resources, RDS: {**before.of_type(RDS), **changed}})


def _alike(old: Fleet, new: Fleet) -> bool:
    if old.backends is not new.backends or old.gateway is not new.gateway or len(old.ports) != len(new.ports):
        return False
    return all(was is now or _ports_alike(was, now) for was, now in zip(old.ports, new.ports, strict=True))


def _ports_alike(old: Port, new: Port) -> bool:
    if len(old.chains) != len(new.chains) or replace(old, chains=()) != replace(new, chains=()):
        return False
    return all(was is now or _chains_alike(was, now) for was, now in zip(old.chains, new.chains, strict=True))


def _chains_alike(old: Chain, new: Chain) -> bool:
    """Whether their listeners, and what is above the virtual hosts in their route tables, are equal."""
    if len(old.hosts) != len(new.hosts) or replace(old, hosts=()) != replace(new, hosts=()):
        return False
    return all(was is now or _hosts_alike(was, now) for was, now in zip(old.hosts, new.hosts, strict=True))


def _hosts_alike(old: VirtualHost, new: VirtualHost) -> bool:
    head, tail = differing(old.routes, new.routes)
    was, now = old.routes[head : len(old.routes) - tail], new.routes[head : len(new.routes) - tail]
    return old.hostname == new.hostname and _asks(was) == _asks(now)


def _asks(routes: Iterable[Route]) -> list[tuple[Any, ...]]:
    """All that a route may ask for beyond its own entry in the table; in order, each once."""
    found = []
    for route in routes:
        action = route.action if isinstance(route.action, Forward) else None
        uses = (action.backends, action.mirrors, action.session) if action else None
        found.append((route.match.headers, route.cors, route.auth, route.grpc, uses))
    return [each for at, each in enumerate(found) if each not in found[:at]]
