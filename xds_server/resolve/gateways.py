"""Gateways: which are ours, and what their status says.

Source: Gateway API 1.7 GatewayClass and Gateway status. Cases: tests/xds_server/test_resolve_gateways.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xds_server.model.graph import CONTROLLER, Condition, ObjectStatus
from xds_server.model.objects import Gateway, GatewayClass, ObjectRef, Problem
from xds_server.resolve import conditions as c
from xds_server.resolve.conflicts import ListenerKey
from xds_server.resolve.context import Context
from xds_server.resolve.listeners import BoundListener

ADDRESS_TYPES = frozenset({"IPAddress", "Hostname"})
SUPPORTED_FEATURES = tuple(
    sorted(
        (
            "Gateway",
            "GatewayHTTPListenerIsolation",
            "GatewayHTTPSListenerDetectMisdirectedRequests",
            "GatewayPort8080",
            "GatewayRouteHostnameIntersectionPrecedence",
            "HTTPRoute",
            "HTTPRoute303RedirectStatusCode",
            "HTTPRoute307RedirectStatusCode",
            "HTTPRoute308RedirectStatusCode",
            "HTTPRouteBackendProtocolH2C",
            "HTTPRouteBackendProtocolWebSocket",
            "HTTPRouteBackendRequestHeaderModification",
            "HTTPRouteBackendTimeout",
            "HTTPRouteBackendURLRewrite",
            "HTTPRouteDestinationPortMatching",
            "HTTPRouteHostRewrite",
            "HTTPRouteMethodMatching",
            "HTTPRouteNamedRouteRule",
            "HTTPRouteParentRefPort",
            "HTTPRoutePathRedirect",
            "HTTPRoutePathRewrite",
            "HTTPRoutePortRedirect",
            "HTTPRouteQueryParamMatching",
            "HTTPRouteRequestMirror",
            "HTTPRouteRequestMultipleMirrors",
            "HTTPRouteRequestPercentageMirror",
            "HTTPRouteRequestTimeout",
            "HTTPRouteResponseHeaderModification",
            "HTTPRouteRetryCodes",
            "HTTPRouteRetryConnectionError",
            "HTTPRouteSchemeRedirect",
            "ReferenceGrant",
        )
    )
)


@dataclass(frozen=True, slots=True)
class Ours:
    gateways: tuple[Gateway, ...]  # oldest first
    statuses: Mapping[ObjectRef, ObjectStatus]  # of our GatewayClasses
    problems: tuple[Problem, ...]


def our_gateways(context: Context) -> Ours:
    """The Gateways whose class is ours; a class that does not exist at all is worth a word, in manifests above all."""
    classes = {found.meta.ref.name: found for found in context.state.all(GatewayClass)}
    statuses = {found.meta.ref: _class_status(found) for found in classes.values() if found.controller == CONTROLLER}
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
    gateway: Gateway, listeners: Sequence[BoundListener], attached: Mapping[ListenerKey, int], context: Context
) -> ObjectStatus:
    accepted = _accepted(gateway, listeners)
    usable = _usable(gateway, context.setting.addresses)
    return ObjectStatus(
        gateway.meta.ref,
        conditions=(accepted, _programmed(gateway, listeners, accepted, usable)),
        listeners=tuple(each.status(attached.get(each.key, 0)) for each in listeners),
        addresses=usable,
    )


def gateway_problems(status: ObjectStatus, gateway: Gateway) -> list[Problem]:
    """What is wrong with a Gateway beyond its listeners: its addresses."""
    told = {c.UNSUPPORTED_ADDRESS, c.ADDRESS_NOT_USABLE}
    meta = gateway.meta
    return [
        Problem(meta.ref, "spec.addresses", each.reason, each.message, meta.source)
        for each in status.conditions
        if each.reason in told
    ]


def _class_status(found: GatewayClass) -> ObjectStatus:
    generation = found.meta.generation
    accepted = c.passed(c.ACCEPTED, generation)
    if found.parameters is not None:
        message = f"spec.parametersRef: {found.parameters.kind} is not supported; remove it"
        accepted = c.failed(c.ACCEPTED, c.INVALID_PARAMETERS, message, generation)
    return ObjectStatus(found.meta.ref, (accepted,), supported_features=SUPPORTED_FEATURES)


def _without_class(gateway: Gateway) -> Problem:
    name = gateway.gateway_class
    manifest = (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: {name}}}, "
        f"spec: {{controllerName: {CONTROLLER}}}}}"
    )
    message = f"there is no GatewayClass {name}, so nobody serves this Gateway; add {manifest}"
    return Problem(gateway.meta.ref, "spec.gatewayClassName", c.INVALID, message, gateway.meta.source)


def _accepted(gateway: Gateway, listeners: Sequence[BoundListener]) -> Condition:
    generation = gateway.meta.generation
    unsupported = sorted({kind for kind, _ in gateway.addresses} - ADDRESS_TYPES)
    if unsupported:
        message = f"addresses of type {', '.join(unsupported)} are not supported; use IPAddress or Hostname"
        return c.failed(c.ACCEPTED, c.UNSUPPORTED_ADDRESS, message, generation)
    refused = [each.listener.name for each in listeners if not each.accepted]
    if not refused:
        return c.passed(c.ACCEPTED, generation)
    message = f"listeners that cannot be served: {', '.join(refused)}; see their conditions"
    some = len(refused) < len(listeners)  # True with this reason: the Gateway serves what it can
    return c.condition(c.ACCEPTED, some, c.LISTENERS_NOT_VALID, message, generation)


def _programmed(
    gateway: Gateway, listeners: Sequence[BoundListener], accepted: Condition, usable: tuple[tuple[str, str], ...]
) -> Condition:
    generation = gateway.meta.generation
    if not any(each.programmed for each in listeners):
        return c.failed(c.PROGRAMMED, c.INVALID, "no listener can be served; see their conditions", generation)
    wanted = [(kind, value) for kind, value in gateway.addresses if value]
    if accepted.reason != c.UNSUPPORTED_ADDRESS and (
        missing := [value for kind, value in wanted if (kind, value) not in usable]
    ):
        message = f"the gateway is not reached at {', '.join(missing)}; remove it from spec.addresses"
        return c.failed(c.PROGRAMMED, c.ADDRESS_NOT_USABLE, message, generation)
    return c.passed(c.PROGRAMMED, generation)


def _usable(gateway: Gateway, addresses: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Where this Gateway is reached: of the fleet's addresses those that it asks for, all if it asks for none.

    Where nobody told us the fleet's addresses, what it asks for is believed.
    """
    wanted = tuple((kind, value) for kind, value in gateway.addresses if value)
    if not wanted:
        return addresses
    return tuple(each for each in wanted if each in addresses) if addresses else wanted
