"""What the routes of a chain ask of its filters: whether models choose the route, and who is asked for an endpoint."""

from collections.abc import Iterator

from xds_server.model.graph import Backend, Chain, ExternalAuth, Forward, Route
from xds_server.model.names import MODEL_HEADER


def routes_by_model(chain: Chain) -> bool:
    """Whether some route matches the model header: then bodies are read before routing."""
    return any(by_model(route) for route in routes(chain))


def serves_models(chain: Chain) -> bool:
    """Whether some route leads to a pool, or is chosen by the model."""
    return any(by_model(route) or any(_pools(route)) for route in routes(chain))


def asks_here(chain: Chain) -> bool:
    """Whether the inference filters are needed: some route is chosen by the model, or leads to a pool whose picker is ours."""
    return any(by_model(route) or not all(map(apart, _pools(route))) for route in routes(chain))


def asks_apart(chain: Chain) -> bool:
    """Whether some route leads to a pool that has listeners of its own (`pool.py`)."""
    return any(apart(pool) for route in routes(chain) for pool in _pools(route))


def apart(pool: Backend) -> bool:
    """Whether a pool is asked behind a listener of its own: a foreign picker, or pools that stand in."""
    return pool.pool and (pool.picker is not None or bool(pool.failover))


def auths(chain: Chain) -> list[ExternalAuth]:
    """What routes ask for; each once."""
    return list(dict.fromkeys(route.auth for route in routes(chain) if route.auth))


def routes(chain: Chain) -> Iterator[Route]:
    return (route for host in chain.hosts for route in host.routes)


def by_model(route: Route) -> bool:
    return any(header.name == MODEL_HEADER for header in route.match.headers)


def _pools(route: Route) -> Iterator[Backend]:
    shares = route.action.backends if isinstance(route.action, Forward) else ()
    return (share.backend for share in shares if share.backend is not None and share.backend.pool)
