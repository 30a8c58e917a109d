"""translate: Graph -> Snapshot, the resources of each fleet as bytes. Total: what could fail has failed in `resolve`."""

from functools import lru_cache

from xds_server.model.graph import Backend, Fleet, Graph, Route
from xds_server.model.names import PICKER_CLUSTER
from xds_server.snapshot import Resource, Snapshot
from xds_server.translate.cluster import cluster, picker_cluster
from xds_server.translate.endpoint import load_assignment
from xds_server.translate.listener import listener, route_config_name, secret
from xds_server.translate.route import route
from xds_server.translate.route_table import route_configuration, serves_models
from xds_server.translate.settings import DataPlane


def translate(graph: Graph, plane: DataPlane) -> dict[str, Snapshot]:
    """The resources of each fleet. Equal graphs give equal bytes; what did not change is not encoded again."""
    return {name: _fleet(fleet, graph, plane) for name, fleet in graph.fleets.items()}


def _fleet(fleet: Fleet, graph: Graph, plane: DataPlane) -> Snapshot:
    chains = [(route_config_name(chain, port), chain) for port in fleet.ports for chain in port.chains]
    certificates = {each.name: each for _, chain in chains for each in chain.certificates}
    needed = any(serves_models(chain) for _, chain in chains)
    picker = [Resource.of(PICKER_CLUSTER, picker_cluster(plane))] if needed else []
    return Snapshot.of(
        clusters=[*picker, *(_cluster(backend, plane) for backend in fleet.backends.values())],
        endpoints=[Resource.of(name, load_assignment(name, graph.endpoints.get(name, ()))) for name in fleet.backends],
        listeners=[Resource.of(f"tcp-{port.number}", listener(port, plane)) for port in fleet.ports],
        routes=[
            Resource.of(name, route_configuration(name, chain, lambda found: _route(found, plane)))
            for name, chain in chains
        ],
        secrets=[Resource.of(name, secret(certificate)) for name, certificate in certificates.items()],
    )


@lru_cache(maxsize=100_000)
def _route(found: Route, plane: DataPlane) -> bytes:
    return bytes(route(found, plane))


@lru_cache(maxsize=100_000)
def _cluster(backend: Backend, plane: DataPlane) -> Resource:
    return Resource.of(backend.cluster, cluster(backend, plane))


__all__ = ["DataPlane", "translate"]
