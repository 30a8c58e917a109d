"""Session persistence: which cookie or header keeps a client at one endpoint.

A rule's own wins, then that of its first backend that has one: an XBackend's, else its XBackendTrafficPolicy's (GEP-1619: both
inline and policy are deprecated for the XBackend). A pool has no sessions: its picker decides, and the weight of a backend is
never overridden. Source: Gateway API 1.7 SessionPersistence. Cases: tests/xds_server/test_resolve_sessions.py.
"""

from collections.abc import Iterable

from xds_server.model.graph import Persistence, WeightedBackend
from xds_server.model.objects import ObjectRef, SessionPersistence, XBackend
from xds_server.resolve.context import Context
from xds_server.resolve.tls import digest


def persistence(
    rule: SessionPersistence | None, owner: str, backends: Iterable[WeightedBackend], context: Context
) -> Persistence | None:
    """`owner` names the rule: what a cookie without a name is called after, on every replica and after every restart."""
    used = [each.backend for each in backends if each.backend and each.weight > 0]
    if not used or any(each.pool for each in used):
        return None
    if rule is not None:
        return _persistence(rule, owner)
    asked = ((each.ref, found) for each in used if (found := _of_backend(each.ref, context)))
    return next((_persistence(found, str(ref)) for ref, found in asked), None)


def _of_backend(ref: ObjectRef, context: Context) -> SessionPersistence | None:
    held = context.state.get(XBackend, ref)
    if held is not None and held.session is not None:
        return held.session
    policy = context.traffic_policies.get(ref)
    return policy.session if policy else None


def _persistence(found: SessionPersistence, owner: str) -> Persistence:
    """A cookie for the browser's session lives as long as that: Envoy keeps no clock for it."""
    name = (
        found.name or f"{'penstock' if found.kind == 'Cookie' else 'x-penstock-session'}-{digest(owner.encode())[:12]}"
    )
    ttl = found.lifetime or 0.0 if found.permanent and found.kind == "Cookie" else 0.0
    return Persistence(found.kind, name, found.path or "/", ttl)
