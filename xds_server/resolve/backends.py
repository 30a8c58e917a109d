"""Backends: a backendRef as a Backend, or why not. A cluster is named by what it is, never by who uses it.

Sources: Gateway API 1.7 BackendRef, XBackend; InferencePool 1.6. Cases: tests/xds_server/test_resolve_references.py.
"""

from collections.abc import Iterable, Iterator

from xds_server.model.graph import Backend, Endpoint
from xds_server.model.objects import BackendRef, InferencePool, ObjectRef, Service, XBackend
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.endpoints import pool_endpoints, selected_endpoints, service_endpoints
from xds_server.resolve.pickers import picker_conditions, pool_backend
from xds_server.resolve.references import Denied, Ok
from xds_server.resolve.services import Protocol, port_of, service_backend
from xds_server.resolve.xbackends import xbackend

__all__ = ["Protocol", "backend_endpoints", "flat", "picker_conditions", "pool_backend", "resolve_backend"]


def resolve_backend(
    source: ObjectRef, wanted: BackendRef, context: Context, protocol: Protocol = "HTTP"
) -> Ok[Backend] | Denied:
    """What `source`, a route, may send requests or connections to. An InferencePool ignores the reference's port.

    `Barred`, a kind of Denied: the reference is right, but the backend's TLS policy cannot be kept.
    """
    match context.references.backend(source, wanted.ref):
        case Denied() as denied:
            return denied
        case Ok(InferencePool() as pool):
            return _pool(pool, context, protocol)
        case Ok(Service() as service):
            return service_backend(service, wanted.port, context, protocol)
        case Ok(XBackend() as found):
            return xbackend(found, context, protocol)
    raise AssertionError(wanted)  # pragma: no cover


def flat(backends: Iterable[Backend | None]) -> Iterator[Backend]:
    """Each backend and whatever it takes to serve it: its picker, and the pools that stand in for it with theirs."""
    for backend in backends:
        if backend is not None:
            yield backend
            yield from flat((backend.picker, *backend.failover))


def backend_endpoints(backend: Backend, context: Context) -> tuple[Endpoint, ...]:
    """The addresses behind a Backend that `resolve_backend` made; none for a name that Envoy resolves itself."""
    match context.state.objects[backend.ref]:
        case InferencePool() as pool:
            return pool_endpoints(pool, context)
        case XBackend() as found:
            return selected_endpoints(found, context)
        case Service() as service:
            number, transport = _socket(backend.cluster)
            port = port_of(service, number, transport)
            return service_endpoints(service, port, context) if port else ()
    raise TypeError(backend)  # pragma: no cover


def _socket(cluster: str) -> tuple[int, str]:
    """The port of "service/ns/name/port" or "picker/ns/name/port", whatever else the name says."""
    _, _, _, port, *more = cluster.partition("~")[0].split("/")
    return int(port), "UDP" if "udp" in more else "TCP"


def _pool(pool: InferencePool, context: Context, protocol: Protocol) -> Ok[Backend] | Denied:
    if protocol not in ("HTTP", "GRPC"):
        return Denied(c.INVALID_KIND, f"{pool.meta.ref} serves requests, not connections; use an HTTPRoute")
    wrong = next((found for found in picker_conditions(pool, context) if found.status == "False"), None)
    if wrong:
        return Denied(c.BACKEND_NOT_FOUND, f"{pool.meta.ref}: {wrong.message}")
    backend = pool_backend(pool, context)
    if protocol == "GRPC" and backend.protocol != "h2c":
        message = f"{pool.meta.ref} serves HTTP/1; set its appProtocol to kubernetes.io/h2c for a GRPCRoute"
        return Denied(c.UNSUPPORTED_PROTOCOL, message)
    return Ok(backend)
