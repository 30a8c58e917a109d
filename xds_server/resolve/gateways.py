"""Gateways: which are ours, and what their status says.

Source: Gateway API 1.7 GatewayClass and Gateway status. Cases: tests/xds_server/test_resolve_gateways.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xds_server.model.graph import CONTROLLER, Condition, ObjectStatus
from xds_server.model.objects import Gateway, GatewayClass, ObjectRef, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.addresses import Reached, reached, unsupported
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import Context
from xds_server.resolve.features import supported_features
from xds_server.resolve.listener_sets import Parent
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.parameters import parameters_denied
from xds_server.resolve.references import Denied
from xds_server.resolve.tls import gateway_certificate, insecure_fallback


@dataclass(frozen=True, slots=True)
class Ours:
    gateways: tuple[Gateway, ...]  # oldest first
    statuses: Mapping[ObjectRef, ObjectStatus]  # of our GatewayClasses
    problems: tuple[Problem, ...]


def our_gateways(context: Context) -> Ours:
    """The Gateways whose class is ours; a class that does not exist at all is worth a word, in manifests above all."""
    classes = {found.meta.ref.name: found for found in context.state.all(GatewayClass)}
    features = supported_features(context.setting)
    held = [found for found in classes.values() if found.controller == CONTROLLER]
    statuses = {found.meta.ref: _class_status(found, features) for found in held}
    gateways: list[Gateway] = []
    problems: list[Problem] = []
    for gateway in context.state.all(Gateway):
        found = classes.get(gateway.gateway_class)
        if found is None:
            problems.append(_without_class(gateway))
        elif found.controller == CONTROLLER and found.parameters is None:
            gateways.append(gateway)
        elif found.controller == CONTROLLER:
            message = f"GatewayClass {gateway.gateway_class} is not accepted; remove its parametersRef"
            where = "spec.gatewayClassName"
            problems.append(Problem(gateway.meta.ref, where, c.INVALID_PARAMETERS, message, gateway.meta.source))
    return Ours(tuple(gateways), statuses, tuple(problems))


def gateway_status(
    parent: Parent, sets: Sequence[Parent], attached: Mapping[ListenerKey, int], context: Context
) -> ObjectStatus:
    """`sets` are the ListenerSets that name this Gateway, let in or not."""
    gateway = parent.gateway
    listeners = (*parent.listeners, *(bound for each in sets for bound in each.listeners))
    where = reached(gateway, context)
    accepted = _accepted(gateway, parent.listeners, listeners, context)
    return ObjectStatus(
        gateway.meta.ref,
        conditions=(
            accepted,
            _programmed(gateway, listeners, accepted, where),
            _resolved(gateway, parent.listeners, context),
            *_insecure(gateway),
        ),
        listeners=tuple(each.status(attached.get(each.key, 0)) for each in parent.listeners),
        addresses=where.addresses,
        listener_sets=sum(each.attached for each in sets) if accepted.status == "True" else 0,
    )


def gateway_problems(status: ObjectStatus, gateway: Gateway) -> Iterator[Problem]:
    """What is wrong with a Gateway beyond its listeners."""
    fields = {
        c.UNSUPPORTED_ADDRESS: "spec.addresses",
        c.ADDRESS_NOT_USABLE: "spec.addresses",
        c.INVALID_PARAMETERS: "spec.infrastructure.parametersRef",
        c.INVALID_CLIENT_CERTIFICATE_REF: "spec.tls.backend.clientCertificateRef",
        c.REF_NOT_PERMITTED: "spec.tls.backend.clientCertificateRef",
    }
    meta = gateway.meta
    for each in status.conditions:
        if each.reason in fields:
            yield Problem(meta.ref, fields[each.reason], each.reason, each.message, meta.source)


def _class_status(found: GatewayClass, features: tuple[str, ...]) -> ObjectStatus:
    generation = found.meta.generation
    accepted = c.passed(c.ACCEPTED, generation)
    if found.parameters is not None:
        message = f"spec.parametersRef: {found.parameters.kind} is not supported; remove it"
        accepted = c.failed(c.ACCEPTED, c.INVALID_PARAMETERS, message, generation)
    version = c.passed(c.SUPPORTED_VERSION, generation)
    return ObjectStatus(found.meta.ref, (accepted, version), supported_features=features)


def _without_class(gateway: Gateway) -> Problem:
    name = gateway.gateway_class
    manifest = (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: {name}}}, "
        f"spec: {{controllerName: {CONTROLLER}}}}}"
    )
    message = f"there is no GatewayClass {name}, so nobody serves this Gateway; add {manifest}"
    return Problem(gateway.meta.ref, "spec.gatewayClassName", c.INVALID, message, gateway.meta.source)


def _accepted(
    gateway: Gateway, own: Sequence[BoundListener], merged: Sequence[BoundListener], context: Context
) -> Condition:
    generation = gateway.meta.generation
    if denied := unsupported(gateway) or parameters_denied(gateway, context):
        return c.failed(c.ACCEPTED, denied.reason, denied.message, generation)
    refused = [each.listener.name for each in own if not each.accepted]
    if not refused:
        return c.passed(c.ACCEPTED, generation)
    message = f"listeners that cannot be served: {', '.join(refused)}; see their conditions"
    some = any(each.accepted for each in merged)  # True with this reason: the Gateway serves what it can
    return c.condition(c.ACCEPTED, some, c.LISTENERS_NOT_VALID, message, generation)


def _programmed(gateway: Gateway, listeners: Sequence[BoundListener], accepted: Condition, where: Reached) -> Condition:
    generation = gateway.meta.generation
    if not any(each.programmed for each in listeners):
        return c.failed(c.PROGRAMMED, c.INVALID, "no listener can be served; see their conditions", generation)
    if accepted.status == "False":
        return c.failed(c.PROGRAMMED, c.INVALID, accepted.message, generation)
    if where.denied:
        return c.failed(c.PROGRAMMED, where.denied.reason, where.denied.message, generation)
    return c.passed(c.PROGRAMMED, generation)


def _resolved(gateway: Gateway, listeners: Sequence[BoundListener], context: Context) -> Condition:
    generation = gateway.meta.generation
    if isinstance(denied := gateway_certificate(gateway, context), Denied):
        return c.failed(c.RESOLVED_REFS, denied.reason, denied.message, generation)
    if wrong := [each.listener.name for each in listeners if not each.resolved]:
        message = f"listeners with references that name nothing usable: {', '.join(wrong)}; see their conditions"
        return c.failed(c.RESOLVED_REFS, c.LISTENERS_NOT_RESOLVED, message, generation)
    return c.passed(c.RESOLVED_REFS, generation)


def _insecure(gateway: Gateway) -> Iterator[Condition]:
    """Only while it is so: the condition has no other state (GatewayConditionInsecureFrontendValidationMode)."""
    if insecure_fallback(gateway):
        message = (
            "clients without a certificate that anybody vouches for are let in; use mode AllowValidOnly to refuse them"
        )
        reason = c.CONFIGURATION_CHANGED
        kind = c.INSECURE_FRONTEND_VALIDATION_MODE
        yield c.condition(kind, ok=True, reason=reason, message=message, generation=gateway.meta.generation)
