"""XBackend. Source: Gateway API 1.7, `gateway.networking.x-k8s.io/v1alpha1`, schema and CEL rules."""

from dataclasses import replace

from xds_server.model.objects import Meta, XBackend
from xds_server.parse.common import SECRET, object_ref, qualified
from xds_server.parse.fields import Fields
from xds_server.parse.forms import LABEL_VALUE, PRECISE_HOSTNAME
from xds_server.parse.policy import tls_validation
from xds_server.parse.session import session_persistence

PROTOCOLS = ("TCP", "HTTP", "HTTP2", "HTTP11", "H2C", "MCP", "GRPC", "WSS")
NEED_TLS = ("HTTP2", "WSS")
BODIES = {"ExternalHostname": "externalHostname", "EndpointSelector": "endpointSelector"}
INTERNAL = ".cluster.local"


def backend(root: Fields, meta: Meta) -> XBackend:
    def spec(f: Fields) -> XBackend:
        kind = f.choice("type", tuple(BODIES))
        for other, body in BODIES.items():
            if other != kind and f.has(body):
                f.fail(body, f"must not be set when type is {kind}; remove it, or write type: {other}")
        if kind != "EndpointSelector" and f.has("sessionPersistence"):
            f.fail("sessionPersistence", f"must not be set when type is {kind}; remove it")
        found = XBackend(
            meta=meta,
            port=f.child("port", lambda inner: inner.port("number")),
            protocol=f.choice("protocol", PROTOCOLS, "HTTP"),
            hostname=f.optional(BODIES["ExternalHostname"], external_hostname, ""),
            selector=f.optional(BODIES["EndpointSelector"], endpoint_selector, {}),
            session=f.optional("sessionPersistence", session_persistence, None),
        )
        if not f.has(BODIES[kind]):
            f.missing(BODIES[kind])
        found = f.optional("tls", lambda inner: with_tls(inner, found), found)
        if found.protocol == "H2C" and found.tls != "None":
            f.fail("tls.mode", "must be None with protocol H2C; write it, or protocol: HTTP2")
        if found.protocol in NEED_TLS and found.tls == "None":
            f.fail("tls", f"must be set with protocol {found.protocol}; add it with mode ServerOnly and validation")
        return found

    return root.child("spec", spec)


def external_hostname(f: Fields) -> str:
    name = f.text("hostname", form=PRECISE_HOSTNAME)
    if name.endswith(INTERNAL):
        f.fail("hostname", f"must not end with {INTERNAL}, got {name!r}; use a Service, or type: EndpointSelector")
    return name


def endpoint_selector(f: Fields) -> dict[str, str]:
    if not f.has("matchLabels"):
        f.missing("matchLabels")
    found = qualified(f, "matchLabels", LABEL_VALUE, high=64)
    if not found:
        f.fail("matchLabels", "must have at least 1 label, got none; add one that the pods have")
    return found


def with_tls(f: Fields, backend: XBackend) -> XBackend:
    mode = f.choice("mode", ("None", "ServerOnly", "ClientAndServer"))
    for name, wanted in (("validation", mode != "None"), ("clientCertificateRef", mode == "ClientAndServer")):
        if f.has(name) and not wanted:
            f.fail(name, f"must not be set when mode is {mode}; remove it")
        if wanted and not f.has(name):
            f.fail(name, f"must be set when mode is {mode}; add it")
    namespace = backend.meta.namespace
    return replace(
        backend,
        tls=mode,
        validation=f.optional("validation", lambda inner: tls_validation(inner, namespace)[0], None),
        client_certificate=f.optional("clientCertificateRef", lambda ref: object_ref(ref, namespace, SECRET), None),
    )
