"""External authorization: the server that is asked before a request passes, by a rule or by a listener.

Fails closed: where the server cannot be named, nothing passes. Source: Gateway API 1.7 HTTPExternalAuthFilter, listener
filters (both experimental). Cases: tests/xds_server/test_resolve_auth.py.
"""

from xds_server.model.graph import ExternalAuth
from xds_server.model.objects import ExternalAuthFilter, Listener, ObjectRef, UnknownFilter
from xds_server.resolve import conditions as c
from xds_server.resolve.backends import resolve_backend
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied, Ok


def external_auth(source: ObjectRef, found: ExternalAuthFilter, context: Context) -> Ok[ExternalAuth] | Denied:
    """The filter with its server resolved. A pool is no server: it would pick by a prompt that nobody sent."""
    match resolve_backend(source, found.backend, context, found.protocol):
        case Denied() as denied:
            return denied
        case Ok(backend) if backend.pool:
            return Denied(c.INVALID_KIND, f"{found.backend.ref} cannot authorize requests; use a Service")
        case Ok(backend):
            return Ok(ExternalAuth(found, backend))
    raise AssertionError(found)  # pragma: no cover


def listener_auth(listener: Listener, owner: ObjectRef, context: Context) -> tuple[ExternalAuth, ...] | Denied:
    """What a listener's filters ask before routing; `owner` is the Gateway or ListenerSet that has the listener.

    Denied: a listener without the filter that protects it must not serve.
    """
    found: list[ExternalAuth] = []
    for at, each in enumerate(listener.filters):
        where = f"filters[{at}]"
        if not isinstance(each, ExternalAuthFilter):
            kind = each.kind if isinstance(each, UnknownFilter) else type(each).__name__.removesuffix("Filter")
            message = f"{where}: the filter {kind} is not supported at a listener; move it to the routes"
            return Denied(c.UNSUPPORTED_VALUE, message)
        match external_auth(owner, each, context):
            case Ok(auth):
                found.append(auth)
            case Denied(reason, message):
                return Denied(reason, f"{where}.externalAuth.backendRef: {message}")
    return tuple(found)
