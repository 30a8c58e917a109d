"""Listeners: what each listener of a Gateway or a ListenerSet can do, before any route is looked at.

Source: Gateway API 1.7 Listener and ListenerEntry. A listener that cannot be served takes nobody with it. Cases:
tests/xds_server/test_resolve_gateways.py, test_resolve_listeners.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from xds_server.model.graph import Certificate, Condition, ExternalAuth, ListenerStatus, ServerTLS
from xds_server.model.objects import GATEWAY_GROUP, Gateway, Listener, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.auth import listener_auth
from xds_server.resolve.certificates import resolve_certificate
from xds_server.resolve.conflicts import SERVED_PROTOCOLS, Conflict, ListenerKey, Owner
from xds_server.resolve.context import Context
from xds_server.resolve.hostnames import normal
from xds_server.resolve.references import Denied, Ok
from xds_server.resolve.tls import client_check, client_check_denied

_REQUESTS = ((GATEWAY_GROUP, "HTTPRoute"), (GATEWAY_GROUP, "GRPCRoute"))
# The route kinds that each protocol takes, whatever its TLS mode.
KINDS = {
    "HTTP": _REQUESTS,
    "HTTPS": _REQUESTS,
    "TLS": ((GATEWAY_GROUP, "TLSRoute"),),
    "TCP": ((GATEWAY_GROUP, "TCPRoute"),),
    "UDP": ((GATEWAY_GROUP, "UDPRoute"),),
}
REQUESTS = frozenset({"HTTP", "HTTPS"})  # protocols that are routed by request; the others by connection


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A listener with everything decided but its routes."""

    gateway: Gateway  # the one whose addresses serve it
    owner: Owner  # who brings it: that Gateway, or a ListenerSet
    index: int  # in the owner's spec.listeners
    listener: Listener
    hostname: str  # "*" for any
    kinds: tuple[tuple[str, str], ...]  # the route kinds that may attach
    tls: ServerTLS | None  # what terminates TLS here
    auth: tuple[ExternalAuth, ...]  # asked before routing
    conditions: tuple[Condition, ...]

    @property
    def key(self) -> ListenerKey:
        return self.owner.meta.ref, self.index

    @property
    def accepted(self) -> bool:
        return _is(self.conditions, c.ACCEPTED)

    @property
    def programmed(self) -> bool:
        return _is(self.conditions, c.PROGRAMMED)

    @property
    def resolved(self) -> bool:
        return _is(self.conditions, c.RESOLVED_REFS)

    def status(self, attached: int) -> ListenerStatus:
        return ListenerStatus(self.listener.name, attached, self.kinds, self.conditions)

    def problems(self) -> Iterator[Problem]:
        meta = self.owner.meta
        told = set()
        for each in self.conditions:
            wrong = each.status == ("True" if each.type == c.CONFLICTED else "False")
            if wrong and each.message not in told:
                told.add(each.message)
                where = f"spec.listeners[{self.index}]"
                message = f"listener {self.listener.name!r}: {each.message}"
                yield Problem(meta.ref, where, each.reason, message, meta.source)


@dataclass(frozen=True, slots=True)
class _Findings:
    """What is wrong with a listener's references."""

    denied: tuple[Denied, ...] = ()
    idle: Denied | None = None  # the one without which nothing can be served
    refused: Conflict | None = None  # what then makes the listener unacceptable

    def idle_for(self, denied: Denied) -> "_Findings":
        """Also without a filter that protects the listener nothing can be served."""
        if denied.reason == c.UNSUPPORTED_VALUE:
            return replace(self, idle=denied, refused=Conflict(denied.reason, denied.message))
        return replace(self, denied=(*self.denied, denied), idle=denied)


def bind_listener(
    gateway: Gateway, owner: Owner, index: int, conflict: Conflict | None, context: Context
) -> BoundListener:
    """One listener; `conflict` is why it must not be served beside others."""
    listener = owner.listeners[index]
    held = KINDS.get(listener.protocol, ())
    asked = listener.allowed.kinds or held
    kinds = tuple(dict.fromkeys(kind for kind in asked if kind in held))
    tls, found = _server_tls(gateway, owner, listener, context)
    auth = listener_auth(listener, owner.meta.ref, context)
    if isinstance(auth, Denied):
        found, auth = found.idle_for(auth), ()
    if held and len(kinds) < len(set(asked)):
        wrong = ", ".join(sorted(f"{group}/{kind}" for group, kind in set(asked) - set(kinds)))
        takes = " or ".join(kind for _, kind in held)
        what = f"a listener of {listener.protocol} cannot take routes of kind {wrong}"
        denied = Denied(c.INVALID_ROUTE_KINDS, f"{what}; change allowedRoutes.kinds to {takes}")
        found = replace(found, denied=(*found.denied, denied))
    conditions = _conditions(owner.meta.generation, _refusal(listener, conflict, found), conflict, found)
    return BoundListener(gateway, owner, index, listener, normal(listener.hostname), kinds, tls, auth, conditions)


def _server_tls(
    gateway: Gateway, owner: Owner, listener: Listener, context: Context
) -> tuple[ServerTLS | None, _Findings]:
    if listener.protocol not in ("HTTPS", "TLS") or _passes_through(listener):
        return None, _Findings()
    certificates = _certificates(owner, listener, context)
    if isinstance(certificates, Denied):
        return None, _Findings((certificates,), certificates)
    if listener.protocol != "HTTPS":  # GatewayTLSConfig.frontend speaks of listeners that handle HTTPS
        return ServerTLS(certificates), _Findings()
    clients = client_check(gateway, listener.port, context)
    denied = client_check_denied(gateway, listener.port, context)
    if isinstance(clients, Denied):
        refused = Conflict(c.NO_VALID_CA_CERTIFICATE, clients.message)
        return None, _Findings(denied or (clients,), clients, refused)
    return ServerTLS(certificates, clients), _Findings(denied)


def _certificates(owner: Owner, listener: Listener, context: Context) -> tuple[Certificate, ...] | Denied:
    """Every certificate, or the first thing that is wrong with one of them: Envoy would refuse them all together."""
    if listener.tls is None or not listener.tls.certificates:
        what = f"{listener.protocol} needs a certificate; set tls.certificateRefs to a Secret"
        return Denied(c.INVALID_CERTIFICATE_REF, what)
    found: list[Certificate] = []
    for target in dict.fromkeys(listener.tls.certificates):
        match resolve_certificate(owner.meta.ref, target, context.references):
            case Denied() as denied:
                return denied
            case Ok(certificate):
                found.append(certificate)
    return tuple(found)


def _passes_through(listener: Listener) -> bool:
    return listener.tls is not None and listener.tls.mode == "Passthrough"


def _refusal(listener: Listener, conflict: Conflict | None, found: _Findings) -> Conflict | None:
    """Why the listener is not accepted."""
    if listener.protocol not in SERVED_PROTOCOLS:
        message = f"protocol {listener.protocol} is not supported; use {' or '.join(sorted(SERVED_PROTOCOLS))}"
        return Conflict(c.UNSUPPORTED_PROTOCOL, message)
    if listener.protocol == "HTTPS" and _passes_through(listener):
        message = "HTTPS must terminate TLS; set tls.mode to Terminate, or protocol to TLS"
        return Conflict(c.UNSUPPORTED_VALUE, message)
    return conflict or found.refused


def _conditions(
    generation: int, refused: Conflict | None, conflict: Conflict | None, found: _Findings
) -> tuple[Condition, ...]:
    accepted = c.passed(c.ACCEPTED, generation)
    programmed = c.passed(c.PROGRAMMED, generation)
    conflicted = c.failed(c.CONFLICTED, c.NO_CONFLICTS, "", generation)
    resolved = c.passed(c.RESOLVED_REFS, generation)
    if found.denied:
        message = c.sentence(denied.message for denied in found.denied)
        resolved = c.failed(c.RESOLVED_REFS, found.denied[0].reason, message, generation)
    if found.idle:
        programmed = c.failed(c.PROGRAMMED, c.INVALID, found.idle.message, generation)
    if refused:
        accepted = c.failed(c.ACCEPTED, refused.reason, refused.message, generation)
        reason = refused.reason if refused.indistinct else c.INVALID
        programmed = c.failed(c.PROGRAMMED, reason, refused.message, generation)
    if conflict and conflict.indistinct:
        conflicted = c.condition(
            c.CONFLICTED, ok=True, reason=conflict.reason, message=conflict.message, generation=generation
        )
    return accepted, conflicted, resolved, programmed


def _is(conditions: tuple[Condition, ...], kind: str) -> bool:
    return any(each.type == kind and each.status == "True" for each in conditions)
