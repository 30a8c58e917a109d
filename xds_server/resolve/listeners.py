"""Listeners: what each listener of our Gateways can do, before any route is looked at.

Source: Gateway API 1.7 Listener. A listener that cannot be served takes nobody with it. Cases: test_resolve_gateways.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from xds_server.model.graph import Certificate, Condition, ListenerStatus
from xds_server.model.objects import GATEWAY_GROUP, Gateway, Listener, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.certificates import resolve_certificate
from xds_server.resolve.conflicts import SERVED_PROTOCOLS, Conflict, ListenerKey, conflicts
from xds_server.resolve.context import Context
from xds_server.resolve.hostnames import normal
from xds_server.resolve.references import Denied, Ok

HTTP_ROUTE = (GATEWAY_GROUP, "HTTPRoute")


@dataclass(frozen=True, slots=True)
class BoundListener:
    """A listener with everything decided but its routes."""

    gateway: Gateway
    index: int
    listener: Listener
    hostname: str  # "*" for any
    kinds: tuple[tuple[str, str], ...]  # the route kinds that may attach
    certificates: tuple[Certificate, ...]
    conditions: tuple[Condition, ...]

    @property
    def key(self) -> ListenerKey:
        return self.gateway.meta.ref, self.index

    @property
    def accepted(self) -> bool:
        return _is(self.conditions, c.ACCEPTED)

    @property
    def programmed(self) -> bool:
        return _is(self.conditions, c.PROGRAMMED)

    def status(self, attached: int) -> ListenerStatus:
        return ListenerStatus(self.listener.name, attached, self.kinds, self.conditions)

    def problems(self) -> Iterator[Problem]:
        meta = self.gateway.meta
        told = set()
        for each in self.conditions:
            wrong = each.status == ("True" if each.type == c.CONFLICTED else "False")
            if wrong and each.message not in told:
                told.add(each.message)
                where = f"spec.listeners[{self.index}]"
                message = f"listener {self.listener.name!r}: {each.message}"
                yield Problem(meta.ref, where, each.reason, message, meta.source)


def bind_listeners(gateways: Sequence[Gateway], context: Context) -> list[BoundListener]:
    """All listeners of our Gateways, which come oldest first."""
    found = conflicts(gateways)
    return [
        _bind(gateway, index, listener, found.get((gateway.meta.ref, index)), context)
        for gateway in gateways
        for index, listener in enumerate(gateway.listeners)
    ]


def _bind(
    gateway: Gateway, index: int, listener: Listener, conflict: Conflict | None, context: Context
) -> BoundListener:
    served = listener.protocol in SERVED_PROTOCOLS
    asked = listener.allowed.kinds or (HTTP_ROUTE,)
    kinds = tuple(dict.fromkeys(kind for kind in asked if kind == HTTP_ROUTE)) if served else ()
    certificates, denied = _certificates(gateway, listener, context)
    if not denied and len(kinds) < len(set(asked)):
        wrong = ", ".join(sorted(f"{group}/{kind}" for group, kind in set(asked) - set(kinds)))
        denied = Denied(c.INVALID_ROUTE_KINDS, f"a listener of {listener.protocol} cannot take routes of kind {wrong}")
    conditions = _conditions(gateway.meta.generation, listener, served, conflict, denied)
    return BoundListener(gateway, index, listener, normal(listener.hostname), kinds, certificates, conditions)


def _certificates(
    gateway: Gateway, listener: Listener, context: Context
) -> tuple[tuple[Certificate, ...], Denied | None]:
    """Every certificate, or the first thing that is wrong with one of them: Envoy would refuse them all together."""
    if listener.protocol != "HTTPS":
        return (), None
    if listener.tls is None or not listener.tls.certificates:
        return (), Denied(c.INVALID_CERTIFICATE_REF, "HTTPS needs a certificate; set tls.certificateRefs to a Secret")
    found: list[Certificate] = []
    for target in dict.fromkeys(listener.tls.certificates):
        match resolve_certificate(gateway.meta.ref, target, context.references):
            case Denied() as denied:
                return (), denied
            case Ok(certificate):
                found.append(certificate)
    return tuple(found), None


def _conditions(
    generation: int, listener: Listener, served: bool, conflict: Conflict | None, denied: Denied | None
) -> tuple[Condition, ...]:
    refused = _refusal(listener, served, conflict)
    accepted = c.passed(c.ACCEPTED, generation)
    programmed = c.passed(c.PROGRAMMED, generation)
    conflicted = c.failed(c.CONFLICTED, c.NO_CONFLICTS, "", generation)
    resolved = c.passed(c.RESOLVED_REFS, generation)
    if denied:
        resolved = c.failed(c.RESOLVED_REFS, denied.reason, denied.message, generation)
        if (
            denied.reason != c.INVALID_ROUTE_KINDS
        ):  # the listener itself can serve: the kinds that it can take, it takes
            programmed = c.failed(c.PROGRAMMED, c.INVALID, denied.message, generation)
    if refused:
        accepted = c.failed(c.ACCEPTED, refused.reason, refused.message, generation)
        reason = refused.reason if conflict else c.INVALID
        programmed = c.failed(c.PROGRAMMED, reason, refused.message, generation)
    if conflict:
        conflicted = c.condition(
            c.CONFLICTED, ok=True, reason=conflict.reason, message=conflict.message, generation=generation
        )
    return accepted, conflicted, resolved, programmed


def _refusal(listener: Listener, served: bool, conflict: Conflict | None) -> Conflict | None:
    if not served:
        message = f"protocol {listener.protocol} is not supported; use {' or '.join(sorted(SERVED_PROTOCOLS))}"
        return Conflict(c.UNSUPPORTED_PROTOCOL, message)
    if listener.protocol == "HTTPS" and listener.tls is not None and listener.tls.mode != "Terminate":
        return Conflict(c.UNSUPPORTED_VALUE, "HTTPS must terminate TLS; set tls.mode to Terminate")
    return conflict


def _is(conditions: tuple[Condition, ...], kind: str) -> bool:
    return any(each.type == kind and each.status == "True" for each in conditions)
