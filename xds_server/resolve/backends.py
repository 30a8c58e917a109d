"""Backends: a backendRef as a Backend, or why not. A cluster is named by what it is, never by who uses it.

Sources: Gateway API 1.7 BackendRef, Service appProtocol (KEP-3726); InferencePool 1.6. Cases: tests/xds_server/test_resolve_references.py.
"""

from xds_server.model.graph import Backend, Condition, Endpoint
from xds_server.model.objects import BackendRef, InferencePool, ObjectRef, Service, ServicePort
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.endpoints import pool_endpoints, service_endpoints
from xds_server.resolve.references import Denied, Ok

H2C = "kubernetes.io/h2c"
UNSUPPORTED_APP_PROTOCOLS = frozenset({"kubernetes.io/wss"})  # TLS to a backend needs a BackendTLSPolicy
COLOCATED = "the co-located picker serves this pool"


def resolve_backend(source: ObjectRef, wanted: BackendRef, context: Context) -> Ok[Backend] | Denied:
    """What `source`, a route, may send requests to. An InferencePool ignores the reference's port: it has its own."""
    match context.references.backend(source, wanted.ref):
        case Denied() as denied:
            return denied
        case Ok(InferencePool() as pool):
            conditions = picker_conditions(pool, context)
            wrong = next((found for found in conditions if found.status == "False"), None)
            return Denied(c.BACKEND_NOT_FOUND, f"{pool.meta.ref}: {wrong.message}") if wrong else Ok(pool_backend(pool))
        case Ok(Service() as service):
            return _service_backend(service, wanted.port)
    raise AssertionError(wanted)  # pragma: no cover


def pool_backend(pool: InferencePool) -> Backend:
    return Backend(
        cluster=f"pool/{pool.meta.namespace}/{pool.meta.ref.name}",
        ref=pool.meta.ref,
        protocol="h2c" if pool.app_protocol == H2C else "http",
        pool=True,
        fail_open=pool.picker is not None and pool.picker.failure_mode == "FailOpen",
    )


def picker_conditions(pool: InferencePool, context: Context) -> tuple[Condition, Condition]:
    """Accepted and ResolvedRefs: can anything pick for this pool? The only place that knows who picks."""
    generation, picker = pool.meta.generation, pool.picker
    accepted = c.passed(c.ACCEPTED, generation)
    if context.setting.colocated_picker:
        unused = f"; {picker.ref} is not used" if picker else ""
        return accepted, c.passed(c.RESOLVED_REFS, generation, COLOCATED + unused)
    if picker is None:
        message = "no endpointPickerRef, and no picker runs with the gateway; set spec.endpointPickerRef"
        refused = c.failed(c.ACCEPTED, c.ENDPOINT_PICKER_REF_MISSING, message, generation)
        return refused, c.passed(c.RESOLVED_REFS, generation)
    service = context.state.get(Service, picker.ref)
    if service is None or service.type == "ExternalName":
        what = "does not exist" if service is None else "is of type ExternalName, which a picker must not be"
        message = f"spec.endpointPickerRef: {picker.ref} {what}"
        return accepted, c.failed(c.RESOLVED_REFS, c.INVALID_EXTENSION_REF, message, generation)
    return accepted, c.passed(c.RESOLVED_REFS, generation)


def backend_endpoints(backend: Backend, context: Context) -> tuple[Endpoint, ...]:
    """The addresses behind a Backend that `resolve_backend` made."""
    found = context.state.objects[backend.ref]
    if isinstance(found, InferencePool):
        return pool_endpoints(found, context)
    if not isinstance(found, Service):  # pragma: no cover
        raise TypeError(backend)
    port = _tcp_port(found, int(backend.cluster.rpartition("/")[2]))
    return service_endpoints(found, port, context) if port else ()


def _service_backend(service: Service, number: int) -> Ok[Backend] | Denied:
    ref = service.meta.ref
    if service.type == "ExternalName":
        what = f"{ref} is of type ExternalName, which is not supported; use a Service with EndpointSlices"
        return Denied(c.INVALID_KIND, what)
    port = _tcp_port(service, number)
    if port is None:
        held = ", ".join(str(each.port) for each in service.ports if each.protocol == "TCP") or "none"
        what = f"{ref} has no TCP port {number}" if number else "a Service needs a port"
        return Denied(c.BACKEND_NOT_FOUND, f"{what}; its ports are {held}")
    if port.app_protocol in UNSUPPORTED_APP_PROTOCOLS:
        return Denied(c.UNSUPPORTED_PROTOCOL, f"{ref}: appProtocol {port.app_protocol} is not supported")
    cluster = f"service/{ref.namespace}/{ref.name}/{number}"
    return Ok(Backend(cluster, ref, protocol="h2c" if port.app_protocol == H2C else "http"))


def _tcp_port(service: Service, number: int) -> ServicePort | None:
    return next((each for each in service.ports if each.port == number and each.protocol == "TCP"), None)
