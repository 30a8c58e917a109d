"""Tracing: the XTelemetryPolicy of a Gateway with its collector resolved.

Source: Gateway API 1.7 XTelemetryPolicy (experimental): one policy a Gateway, the oldest. Cases:
tests/xds_server/test_resolve_policies.py.
"""

from xds_server.model.graph import Backend, Tracing
from xds_server.model.objects import ObjectRef, XTelemetryPolicy
from xds_server.resolve import conditions as c
from xds_server.resolve.backends import resolve_backend
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied, Ok


def gateway_tracing(gateway: ObjectRef, context: Context) -> Tracing | None:
    """None without a policy, and where its collector leads nowhere: the Gateway then traces as if there were none."""
    policy = context.telemetry_policies.get(gateway)
    if policy is None:
        return None
    found = collector(policy, context)
    return None if isinstance(found, Denied) else Tracing(policy, found)


def collector(policy: XTelemetryPolicy, context: Context) -> Backend | Denied | None:
    """Where spans go, by gRPC; None where the mode wants none."""
    if policy.mode != "Enabled":
        return None
    if policy.provider is None:
        return Denied(c.INVALID, "mode Enabled needs a collector; set spec.tracing.provider.backendRef")
    match resolve_backend(policy.meta.ref, policy.provider, context, "GRPC"):
        case Denied() as denied:
            return denied
        case Ok(backend) if backend.pool:
            return Denied(c.INVALID_KIND, f"{policy.provider.ref} cannot collect traces; use a Service")
        case Ok(backend):
            return backend
    raise AssertionError(policy)  # pragma: no cover
