"""Policies: what status says about BackendTLSPolicy, XBackendTrafficPolicy, XTelemetryPolicy, and about XBackends.

An ancestor is a Gateway that reaches the target by a route; at most 16 of them (GEP-713). Who wins is decided in `Context`,
what a policy does in `services` and `tracing`: this only says so. Cases: tests/xds_server/test_resolve_policies.py.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from xds_server.model.graph import CONTROLLER, Condition, ObjectStatus, ParentStatus
from xds_server.model.objects import (
    AnyRoute,
    BackendRef,
    BackendTLSPolicy,
    ExternalAuthFilter,
    Gateway,
    GatewayClass,
    HTTPRoute,
    InferencePool,
    Meta,
    MirrorFilter,
    ObjectRef,
    ParentRef,
    PolicyTarget,
    Problem,
    Service,
    XBackend,
    XBackendTrafficPolicy,
    XTelemetryPolicy,
)
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.pickers import honoured
from xds_server.resolve.references import Denied
from xds_server.resolve.services import policy_authorities, unknown_authorities
from xds_server.resolve.tracing import collector
from xds_server.resolve.xbackends import xbackend_denied

ANCESTORS_LIMIT = 16

Policy = BackendTLSPolicy | XBackendTrafficPolicy | XTelemetryPolicy
Reach = Mapping[ObjectRef, Mapping[ObjectRef, Collection[int]]]  # by backend, by Gateway: the ports that routes name


class _Bound(Protocol):
    @property
    def gateway(self) -> Gateway: ...


class _Attachment(Protocol):
    @property
    def listeners(self) -> Sequence[_Bound]: ...


class _Compiled(Protocol):
    @property
    def route(self) -> AnyRoute: ...


class Placed(Protocol):
    """What must be known of a route: what it is, and where it is attached."""

    @property
    def compiled(self) -> _Compiled: ...

    @property
    def attachments(self) -> Sequence[_Attachment]: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy is worth, whoever reaches its target."""

    meta: Meta
    accepted: Denied | None = None
    resolved: Denied | None = None
    has_references: bool = True  # and so a condition ResolvedRefs

    def conditions(self) -> tuple[Condition, ...]:
        kinds = ((c.ACCEPTED, self.accepted), (c.RESOLVED_REFS, self.resolved))[: 1 + self.has_references]
        generation = self.meta.generation
        return tuple(
            c.failed(kind, denied.reason, denied.message, generation) if denied else c.passed(kind, generation)
            for kind, denied in kinds
        )


def policy_statuses(placed: Iterable[Placed], context: Context) -> Iterator[ObjectStatus]:
    """Every policy and XBackend, with an entry for each Gateway of ours that it matters to; without any, an empty status."""
    found = (BackendTLSPolicy, XBackendTrafficPolicy, XTelemetryPolicy, XBackend)
    if not any(isinstance(each, found) for each in context.state.objects.values()):
        return  # most clusters have none, and then nobody need know who reaches what
    reach = reached(placed, context)
    ours = our_gateway_refs(context)
    for tls in context.state.all(BackendTLSPolicy):
        yield _status(tls_verdict(tls, context), _reaching(tls.targets, reach, context))
    for traffic in context.state.all(XBackendTrafficPolicy):
        yield _status(traffic_verdict(traffic, context), _reaching(traffic.targets, reach, context))
    for telemetry in context.state.all(XTelemetryPolicy):
        gateways = sorted({target.ref for target in telemetry.targets if target.ref in ours})
        entries = [ParentStatus(ParentRef(ref), _telemetry(telemetry, ref, context).conditions()) for ref in gateways]
        yield ObjectStatus(telemetry.meta.ref, ancestors=tuple(entries[:ANCESTORS_LIMIT]))
    for backend in context.state.all(XBackend):
        verdict = Verdict(backend.meta, xbackend_denied(backend, context), has_references=False)
        yield _status(verdict, reach.get(backend.meta.ref, {}))


def policy_problems(context: Context) -> Iterator[Problem]:
    """The same for people, reached or not: a policy that does nothing is worth a word."""
    state = context.state
    verdicts = [tls_verdict(each, context) for each in state.all(BackendTLSPolicy)]
    verdicts += [traffic_verdict(each, context) for each in state.all(XBackendTrafficPolicy)]
    verdicts += [
        _telemetry(each, target.ref, context) for each in state.all(XTelemetryPolicy) for target in each.targets
    ]
    verdicts += [Verdict(each.meta, xbackend_denied(each, context)) for each in state.all(XBackend)]
    for verdict in dict.fromkeys((each.meta.ref, each.accepted, each.resolved, each.meta.source) for each in verdicts):
        ref, accepted, resolved, source = verdict
        for denied in dict.fromkeys(found for found in (accepted, resolved) if found):
            yield Problem(ref, "spec", denied.reason, denied.message, source)


def tls_verdict(policy: BackendTLSPolicy, context: Context) -> Verdict:
    held = context.tls_policies
    lost = {t: held[t.ref, t.section] for t in policy.targets if held[t.ref, t.section] is not policy}
    vouched = policy_authorities(policy, context)
    resolved = None
    if vouched.denied:
        message = c.sentence(f"spec.validation.caCertificateRefs: {each.message}" for each in vouched.denied)
        resolved = Denied(vouched.denied[0].reason, message)
    accepted = _conflict(lost) or unknown_authorities(policy)
    if accepted is None and not policy.validation.system and vouched.authorities is None:
        message = (
            "no reference of spec.validation.caCertificateRefs holds a CA certificate; requests get 500 until one does"
        )
        accepted = Denied(c.NO_VALID_CA_CERTIFICATE, message)
    return Verdict(policy.meta, accepted or _missing(policy.targets, context), resolved)


def traffic_verdict(policy: XBackendTrafficPolicy, context: Context) -> Verdict:
    held = context.traffic_policies
    lost = {target: held[target.ref] for target in policy.targets if held[target.ref] is not policy}
    return Verdict(policy.meta, _conflict(lost) or _missing(policy.targets, context), has_references=False)


def _telemetry(policy: XTelemetryPolicy, gateway: ObjectRef, context: Context) -> Verdict:
    winner = context.telemetry_policies[gateway]
    accepted = _conflict({PolicyTarget(gateway): winner} if winner is not policy else {})
    if accepted is None and context.state.get(Gateway, gateway) is None:
        accepted = Denied(
            c.TARGET_NOT_FOUND, f"spec.targetRefs: {gateway} does not exist; create it or change the reference"
        )
    found = collector(policy, context)
    resolved = None
    if isinstance(found, Denied):
        resolved = Denied(found.reason, f"spec.tracing.provider.backendRef: {found.message}")
        if found.reason == c.INVALID:
            accepted, resolved = accepted or found, None
    return Verdict(policy.meta, accepted, resolved)


def _conflict(lost: Mapping[PolicyTarget, Policy]) -> Denied | None:
    if not lost:
        return None
    said = c.sentence(
        f"{target.ref}{f' port {target.section}' if target.section else ''} has the older {winner.meta.ref}"
        for target, winner in lost.items()
    )
    return Denied(c.CONFLICTED_POLICY, f"spec.targetRefs: {said}; remove one of the two")


def _missing(targets: Iterable[PolicyTarget], context: Context) -> Denied | None:
    """Only where none of the targets is there."""
    said = []
    for target in targets:
        found = context.state.objects.get(target.ref)
        if found is None:
            said.append(f"{target.ref} does not exist")
        elif target.section and isinstance(found, Service) and target.section not in _ports(found):
            said.append(f"{target.ref} has no port named {target.section}")
        else:
            return None
    return Denied(c.TARGET_NOT_FOUND, f"spec.targetRefs: {c.sentence(said)}; create it or change the reference")


def _ports(service: Service) -> set[str]:
    return {port.name for port in service.ports}


# --- who reaches what -------------------------------------------------------------------------------------------------


def our_gateway_refs(context: Context) -> frozenset[ObjectRef]:
    classes = {each.meta.ref.name for each in context.state.all(GatewayClass) if each.controller == CONTROLLER}
    return frozenset(each.meta.ref for each in context.state.all(Gateway) if each.gateway_class in classes)


def reached(placed: Iterable[Placed], context: Context) -> Reach:
    """The backends that attached routes name and may name, served or not."""
    found: dict[ObjectRef, dict[ObjectRef, set[int]]] = defaultdict(lambda: defaultdict(set))
    for each in placed:
        gateways = {bound.gateway.meta.ref for attached in each.attachments for bound in attached.listeners}
        route = each.compiled.route
        for wanted in named(route) if gateways else ():
            if context.references.permitted(route.meta.ref, wanted.ref):
                for ref, port in _behind(wanted, context):
                    for gateway in gateways:
                        found[ref][gateway].add(port)
    return found


def named(route: AnyRoute) -> Iterator[BackendRef]:
    """Every backend that a route refers to."""
    if not isinstance(route, HTTPRoute):
        yield from route.backends
        return
    for rule in route.rules:
        yield from rule.backends
        for each in rule.filters:
            if isinstance(each, MirrorFilter | ExternalAuthFilter):
                yield each.backend


def _behind(wanted: BackendRef, context: Context) -> Iterator[tuple[ObjectRef, int]]:
    yield wanted.ref, wanted.port
    pool = context.state.get(InferencePool, wanted.ref)
    picker = honoured(pool, context) if pool else None
    if picker:
        yield picker.ref, picker.port


def _reaching(targets: Iterable[PolicyTarget], reach: Reach, context: Context) -> Iterable[ObjectRef]:
    return {
        gateway
        for target in targets
        for gateway, ports in reach.get(target.ref, {}).items()
        if not target.section or _meets(target, ports, context)
    }


def _meets(target: PolicyTarget, numbers: Collection[int], context: Context) -> bool:
    """Whether one of these ports is the one that the target names."""
    service = context.state.get(Service, target.ref)
    return service is not None and any(port.name == target.section and port.port in numbers for port in service.ports)


def _status(verdict: Verdict, gateways: Iterable[ObjectRef]) -> ObjectStatus:
    conditions = verdict.conditions()
    entries = tuple(ParentStatus(ParentRef(ref), conditions) for ref in sorted(gateways)[:ANCESTORS_LIMIT])
    return ObjectStatus(verdict.meta.ref, ancestors=entries)
