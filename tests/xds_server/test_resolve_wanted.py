"""Wanted: exactly what objects of ours name, and nothing that they may not."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import gateway, http, our_class, pool, ref, thing
from tests.xds_server.test_resolve_gateways import https
from tests.xds_server.test_resolve_tls import BUNDLE, asking, config_map, grant, showing
from xds_server.model.objects import ClusterState, Object, ObjectRef
from xds_server.resolve.wanted import wanted

CA, CERT = ref("ConfigMap", "ca"), ref("Secret", "cert")
VALIDATION = {"caCertificateRefs": [config_map()], "hostname": "s.example.com"}


def names(*objects: Object) -> frozenset[ObjectRef]:
    return wanted(ClusterState.of([our_class(), *objects]))


def backend(**tls: Any) -> Object:
    spec = {"type": "ExternalHostname", "externalHostname": {"hostname": "a.example.com"}, "port": {"number": 443}}
    return thing("XBackend", "x", {**spec, "tls": tls})


POLICY = thing(
    "BackendTLSPolicy",
    "p",
    {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}], "validation": VALIDATION},
)
CONFIGURED = pool(annotations={"penstock.dev/endpoint-picker-config": "ca"})
PARAMETERS = {"infrastructure": {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "ca"}}}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (gateway("gw", https()), {CERT}),
        (gateway("gw", http()), set()),
        (gateway("gw", https(), spec={"gatewayClassName": "another"}), set()),
        (gateway("gw", https(namespace="other")), set()),
        (gateway("gw", https(kind="Thing", group="x.io")), set()),
        (asking(config_map()), {CA}),
        (asking(BUNDLE), {ref("ClusterTrustBundle", "all")}),
        (asking(config_map(namespace="other")), set()),
        (asking({"group": "", "kind": "Service", "name": "ca"}), set()),
        (showing(), {CERT}),
        (gateway(spec=PARAMETERS), {CA}),
        (POLICY, {CA}),
        (CONFIGURED, {CA}),
        (backend(mode="ServerOnly", validation=VALIDATION), {CA}),
        (backend(mode="ClientAndServer", validation=VALIDATION, clientCertificateRef={"name": "cert"}), {CA, CERT}),
    ],
)
def test_what_one_object_names(found: Object, expected: Any) -> None:
    assert names(found) == expected


def test_another_namespace_needs_a_grant() -> None:
    found = asking(config_map(namespace="other"))
    assert names(found, grant("ConfigMap")) == {ref("ConfigMap", "ca", "other")}
    assert names(found, grant("Secret")) == set()


def test_a_listener_set_brings_its_own_namespace() -> None:
    def listeners(parent: str) -> Object:
        spec = {"parentRef": {"name": parent, "namespace": "d"}, "listeners": [https()]}
        content = {"apiVersion": "gateway.networking.k8s.io/v1"}
        return thing("ListenerSet", "more", spec, "team", content=content)

    welcoming = gateway(spec={"allowedListeners": {"namespaces": {"from": "All"}}})
    assert names(welcoming, listeners("gw")) == {ref("Secret", "cert", "team")}
    assert names(gateway(), listeners("gw")) == set()  # nobody is welcome unless the Gateway says so
    assert names(gateway(), listeners("none")) == set()
