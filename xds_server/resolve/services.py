"""Service ports as Backends: the protocol that the port and the route agree on, TLS where a policy asks for it.

Sources: Gateway API 1.7 BackendRef, BackendTLSPolicy, XBackendTrafficPolicy; appProtocol (KEP-3726). A cluster is named by what
it is, never by who uses it. Cases: tests/xds_server/test_resolve_{references,backend_tls}.py.
"""

from typing import Literal

from xds_server.model.graph import Backend, RetryBudget, UpstreamTLS
from xds_server.model.objects import BackendTLSPolicy, ObjectRef, Service, ServicePort
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.references import Barred, Denied, Ok
from xds_server.resolve.tls import Vouched, authorities, shaped

# What the route speaks. A TLSRoute's listener has decrypted (TCP) or has not (Passthrough: the bytes are TLS already).
Protocol = Literal["HTTP", "GRPC", "TCP", "UDP", "Passthrough"]

H2C = "kubernetes.io/h2c"
WEBSOCKET = "kubernetes.io/ws"
SECURE_WEBSOCKET = "kubernetes.io/wss"
SYSTEM = "System"


def service_backend(service: Service, number: int, context: Context, protocol: Protocol) -> Ok[Backend] | Denied:
    """One port of a Service, as routes of this protocol use it."""
    ref, transport = service.meta.ref, "UDP" if protocol == "UDP" else "TCP"
    if service.type == "ExternalName":
        what = (
            f"{ref} is of type ExternalName, which is not supported; use a Service with EndpointSlices, or an XBackend"
        )
        return Denied(c.INVALID_KIND, what)
    port = port_of(service, number, transport)
    if port is None:
        held = ", ".join(str(each.port) for each in service.ports if each.protocol == transport) or "none"
        what = f"{ref} has no {transport} port {number}" if number else "a Service needs a port"
        return Denied(c.BACKEND_NOT_FOUND, f"{what}; its ports are {held}")
    cluster = f"service/{ref.namespace}/{ref.name}/{number}"
    if protocol == "UDP":
        return Ok(Backend(f"{cluster}/udp", ref))
    tls = None if protocol == "Passthrough" else port_tls(service, port, context)
    if isinstance(tls, Denied):
        return Barred(tls.reason, tls.message)
    if denied := _mismatch(ref, port, protocol, tls):
        return denied
    http2 = port.app_protocol == H2C
    if protocol == "GRPC" and not http2:
        cluster, http2 = f"{cluster}/h2c", True  # the port serves HTTP/1 to others
    budget = retry_budget(ref, context)
    return Ok(shaped(Backend(cluster, ref, protocol="h2c" if http2 else "http", tls=tls, budget=budget)))


def _mismatch(ref: ObjectRef, port: ServicePort, protocol: Protocol, tls: UpstreamTLS | None) -> Denied | None:
    """HTTPBackendRef: a route that cannot speak what the port asks for has no backend there."""
    said = port.app_protocol
    if protocol == "GRPC" and said in (WEBSOCKET, SECURE_WEBSOCKET):
        return Denied(c.UNSUPPORTED_PROTOCOL, f"{ref}: appProtocol {said} of port {port.port} cannot carry gRPC")
    if protocol == "HTTP" and said == SECURE_WEBSOCKET and tls is None:
        message = f"{ref}: appProtocol {said} of port {port.port} needs TLS; add a BackendTLSPolicy for the Service"
        return Denied(c.UNSUPPORTED_PROTOCOL, message)
    return None


def port_of(service: Service, number: int, transport: str = "TCP") -> ServicePort | None:
    return next((each for each in service.ports if (each.port, each.protocol) == (number, transport)), None)


def port_tls(service: Service, port: ServicePort, context: Context) -> UpstreamTLS | Denied | None:
    """What the BackendTLSPolicy of this port asks for; Denied: it is invalid, and plaintext is no answer to that."""
    policy = governing(service.meta.ref, port.name, context)
    return upstream_tls(policy, context) if policy else None


def governing(service: ObjectRef, port: str, context: Context) -> BackendTLSPolicy | None:
    """A policy for the port beats one for the whole Service; among equals the oldest does."""
    held = context.tls_policies
    return (port and held.get((service, port))) or held.get((service, "")) or None


def upstream_tls(policy: BackendTLSPolicy, context: Context) -> UpstreamTLS | Denied:
    validation = policy.validation
    vouched = Vouched(None)
    if denied := unknown_authorities(policy):
        return denied
    if not validation.system:
        vouched = policy_authorities(policy, context)
        if vouched.authorities is None:
            why = c.sentence(each.message for each in vouched.denied)
            return Denied(c.NO_VALID_CA_CERTIFICATE, f"{policy.meta.ref}: no CA certificate to trust: {why}")
    return UpstreamTLS(validation.hostname, vouched.authorities, validation.names)


def policy_authorities(policy: BackendTLSPolicy, context: Context) -> Vouched:
    """The reason for an unknown kind is a policy's own word; references are local, so grants play no role."""
    return authorities(policy.meta.ref, policy.validation.authorities, context, c.INVALID_KIND)


def unknown_authorities(policy: BackendTLSPolicy) -> Denied | None:
    """A wellKnownCACertificates with a name that is not ours, or neither of the two fields."""
    if policy.well_known not in ("", SYSTEM):
        message = f"wellKnownCACertificates {policy.well_known} is not known; use {SYSTEM} or caCertificateRefs"
        return Denied(c.INVALID, message)
    if not policy.validation.system and not policy.validation.authorities:
        return Denied(c.INVALID, f"nobody to trust; set caCertificateRefs, or wellKnownCACertificates to {SYSTEM}")
    return None


def retry_budget(target: ObjectRef, context: Context) -> RetryBudget | None:
    """The retryConstraint of the XBackendTrafficPolicy of this backend.

    Envoy counts concurrent retries where the specification counts a rate: a minimum of n retries a second is taken as n at
    the same time, which is never less.
    """
    policy = context.traffic_policies.get(target)
    if policy is None or policy.retries is None:
        return None
    found = policy.retries
    return RetryBudget(found.percent, found.interval, max(1, round(found.minimum)))
