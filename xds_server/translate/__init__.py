"""translate: Graph -> Snapshot, the resources of each fleet as bytes. Total: what could fail has failed in `resolve`."""

from collections.abc import Iterable, Mapping
from functools import lru_cache, partial

from xds_server.model.graph import Backend, Fleet, Graph, Route
from xds_server.model.names import PICKER_CLUSTER
from xds_server.snapshot import Resource, Snapshot
from xds_server.translate import picker, pool, stream, tls
from xds_server.translate.chain import apart, asks_here
from xds_server.translate.cluster import cluster, split_cluster
from xds_server.translate.endpoint import load_assignment
from xds_server.translate.forward import Translated, forward
from xds_server.translate.listener import chain_name, listener, listener_name
from xds_server.translate.route import route
from xds_server.translate.route_table import EncodeRoute, Table, route_table
from xds_server.translate.settings import DataPlane


def translate(graph: Graph, plane: DataPlane) -> dict[str, Snapshot]:
    """The resources of each fleet. Equal graphs give equal bytes; what did not change is not encoded again."""
    return dict(translated(graph, plane).snapshots)


def translated(graph: Graph, plane: DataPlane) -> Translated:
    """The same with what it takes to bring it forward (`advance`)."""
    encode = partial(_route, plane=plane)
    tables = {name: _tables(fleet, encode) for name, fleet in graph.fleets.items()}
    return Translated(
        graph, {name: _fleet(fleet, tables[name], graph, plane) for name, fleet in graph.fleets.items()}, tables
    )


def advance(before: Translated, graph: Graph, plane: DataPlane) -> Translated | None:
    """The resources of a newer Graph; None where it takes `translated`."""
    return forward(before, graph, partial(_route, plane=plane))


def _tables(fleet: Fleet, encode: EncodeRoute) -> dict[str, Table]:
    chains = ((chain_name(chain, port), chain) for port in fleet.ports for chain in port.chains)
    return {name: route_table(name, chain, encode) for name, chain in chains if chain.stream is None}


def _fleet(fleet: Fleet, tables: Mapping[str, Table], graph: Graph, plane: DataPlane) -> Snapshot:
    chains = [(chain_name(chain, port), chain) for port in fleet.ports for chain in port.chains]
    asked, backends = _backends(fleet.backends.values())
    by_eds = [name for name, backend in (asked | backends).items() if not backend.hostname]
    splits = stream.splits(fleet.ports)
    secrets = tls.secrets((chain for _, chain in chains), (asked | backends).values())
    pools = pool.asked(backends.values())
    co_located = any(asks_here(chain) for _, chain in chains) or any(each.picker is None for each in pools)
    return Snapshot.of(
        clusters=[
            *([Resource.of(PICKER_CLUSTER, picker.co_located(plane))] if co_located else []),
            *(_foreign_picker(each) for each in asked.values()),
            *(_cluster(each, plane) for each in backends.values()),
            *(_via(each) for each in pools if apart(each)),
            *(Resource.of(name, split_cluster(name, plane)) for name in splits),
        ],
        endpoints=[
            *(Resource.of(name, load_assignment(name, graph.endpoints.get(name, ()))) for name in by_eds),
            *(Resource.of(name, stream.split_assignment(each, graph.endpoints)) for name, each in splits.items()),
        ],
        listeners=[
            *(Resource.of(listener_name(port), listener(port, plane)) for port in fleet.ports),
            *(found for each in pools for found in _inside(each, plane)),
        ],
        routes=[Resource.of(name, table.body()) for name, table in tables.items()],
        secrets=[Resource.of(name, secret) for name, secret in secrets.items()],
    )


def _backends(given: Iterable[Backend]) -> tuple[dict[str, Backend], dict[str, Backend]]:
    """Foreign pickers, and everything else; with what a pool brings along: its own picker, and the pools that stand in."""
    found = {each.cluster: each for each in given}
    found |= {other.cluster: other for each in tuple(found.values()) for other in each.failover}
    asked = {each.picker.cluster: each.picker for each in found.values() if each.picker}
    return asked, {name: each for name, each in found.items() if name not in asked}


@lru_cache(maxsize=100_000)
def _route(found: Route, plane: DataPlane) -> bytes:
    return bytes(route(found, plane))


@lru_cache(maxsize=100_000)
def _cluster(backend: Backend, plane: DataPlane) -> Resource:
    return Resource.of(backend.cluster, cluster(backend, plane))


@lru_cache(maxsize=10_000)
def _foreign_picker(found: Backend) -> Resource:
    return Resource.of(found.cluster, picker.foreign(found))


@lru_cache(maxsize=10_000)
def _via(found: Backend) -> Resource:
    return Resource.of(pool.entry(found), pool.via(found))


@lru_cache(maxsize=10_000)
def _inside(found: Backend, plane: DataPlane) -> tuple[Resource, ...]:
    return tuple(Resource.of(each.name, each) for each in pool.listeners(found, plane))


__all__ = ["DataPlane", "Translated", "advance", "translate", "translated"]
