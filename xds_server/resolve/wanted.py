"""Wanted: which Secrets, ConfigMaps and ClusterTrustBundles may be read at all: those that objects of ours name.

Least privilege: what nobody names is never asked for, and what a ReferenceGrant would have to permit is asked for only when
one does. Source: Gateway API 1.7 ReferenceGrant. Cases: tests/xds_server/test_resolve_wanted.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from xds_server.model.graph import CONTROLLER
from xds_server.model.objects import (
    BackendTLSPolicy,
    ClusterState,
    Gateway,
    GatewayClass,
    InferencePool,
    Listener,
    ListenerSet,
    ObjectRef,
    XBackend,
)
from xds_server.parse.annotations import PICKER_CONFIG
from xds_server.resolve.context import Context
from xds_server.resolve.listener_sets import refused
from xds_server.resolve.references import SECRET
from xds_server.resolve.tls import CONFIG_MAP, TRUST_BUNDLE

Named = Iterator[tuple[ObjectRef, ObjectRef]]  # (who names, what)


def wanted(state: ClusterState) -> frozenset[ObjectRef]:
    """Every object that must be read beyond those that are watched whole."""
    context = Context(state)
    named = (*_gateways(context), *_backends(state), *_pools(state))
    return frozenset(target for source, target in named if context.references.permitted(source, target))


def _gateways(context: Context) -> Named:
    state = context.state
    ours: dict[ObjectRef, Gateway] = {}
    classes = {found.meta.ref.name: found for found in state.all(GatewayClass) if found.controller == CONTROLLER}
    for each in classes.values():
        if each.parameters is not None and _kind(each.parameters) == CONFIG_MAP:
            # A class is nobody's tenant: its administrator names the namespace, and no grant can speak of it.
            yield replace(each.meta.ref, namespace=each.parameters.namespace), each.parameters
    for gateway in state.all(Gateway):
        if gateway.gateway_class in classes:
            ours[gateway.meta.ref] = gateway
            yield from _gateway(gateway)
    for found in state.all(ListenerSet):
        if (parent := ours.get(found.parent)) and not refused(parent, found, context):
            yield from _certificates(found.meta.ref, found.listeners)


def _gateway(gateway: Gateway) -> Named:
    source, tls = gateway.meta.ref, gateway.tls
    yield from _certificates(source, gateway.listeners)
    if gateway.parameters is not None and _kind(gateway.parameters) == CONFIG_MAP:
        yield source, gateway.parameters
    if tls.client_certificate is not None and _kind(tls.client_certificate) == SECRET:
        yield source, tls.client_certificate
    for clients in (tls.clients, *(each for _, each in tls.clients_by_port)):
        yield from _authorities(source, clients.authorities if clients else ())


def _certificates(source: ObjectRef, listeners: Iterable[Listener]) -> Named:
    for listener in listeners:
        for target in listener.tls.certificates if listener.tls else ():
            if _kind(target) == SECRET:
                yield source, target


def _authorities(source: ObjectRef, targets: Iterable[ObjectRef]) -> Named:
    for target in targets:
        if _kind(target) == CONFIG_MAP:
            yield source, target
        elif _kind(target) == TRUST_BUNDLE:
            yield source, replace(target, namespace="")


def _backends(state: ClusterState) -> Named:
    for policy in state.all(BackendTLSPolicy):
        yield from _authorities(policy.meta.ref, policy.validation.authorities)
    for backend in state.all(XBackend):
        source = backend.meta.ref
        yield from _authorities(source, backend.validation.authorities if backend.validation else ())
        if backend.client_certificate is not None and _kind(backend.client_certificate) == SECRET:
            yield source, backend.client_certificate


def _pools(state: ClusterState) -> Named:
    for pool in state.all(InferencePool):
        if name := pool.meta.annotations.get(PICKER_CONFIG, ""):
            yield pool.meta.ref, ObjectRef(*CONFIG_MAP, pool.meta.namespace, name)


def _kind(ref: ObjectRef) -> tuple[str, str]:
    return ref.group, ref.kind
