"""TLS at both ends of a Gateway: whose certificates clients must show, and which one the Gateway shows to backends.

Sources: Gateway API 1.7 GatewayTLSConfig (GEP-91, GEP-3155), BackendTLSPolicy. A broken reference is said in status and
never makes a check weaker: without any authority that holds, nothing is served. Cases: tests/xds_server/test_resolve_tls.py.
"""

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from xds_server.model.graph import Authorities, Backend, Certificate, ClientCheck
from xds_server.model.objects import ClientValidation, ClusterTrustBundle, ConfigMap, Gateway, ObjectRef
from xds_server.resolve import conditions as c
from xds_server.resolve.certificates import resolve_certificate
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied, Ok

CA_KEY = "ca.crt"
TRUST_BUNDLE = ("certificates.k8s.io", "ClusterTrustBundle")
CONFIG_MAP = ("", "ConfigMap")


@dataclass(frozen=True, slots=True)
class Vouched:
    """What caCertificateRefs come to: the authorities that hold, and why the other references do not."""

    authorities: Authorities | None  # None: no reference holds
    denied: tuple[Denied, ...] = ()


def client_check(gateway: Gateway, port: int, context: Context) -> ClientCheck | Denied | None:
    """What a TLS listener of this port asks of clients; Denied where no authority holds: such a listener serves nobody.

    The reason is that of the listener's ResolvedRefs; its Accepted then says NoValidCACertificate. Where only some
    references hold, `client_check_denied` has the reasons for ResolvedRefs, and the listener serves.
    """
    wanted = client_validation(gateway, port)
    if wanted is None:
        return None
    found = authorities(gateway.meta.ref, wanted.authorities, context)
    if found.authorities is None:
        return found.denied[0] if found.denied else Denied(c.INVALID_CA_CERTIFICATE_REF, "caCertificateRefs is empty")
    return ClientCheck(found.authorities, required=not wanted.insecure_fallback)


def client_check_denied(gateway: Gateway, port: int, context: Context) -> tuple[Denied, ...]:
    """Every CA reference of this port that names nothing usable, also where others do."""
    wanted = client_validation(gateway, port)
    return authorities(gateway.meta.ref, wanted.authorities, context).denied if wanted else ()


def client_validation(gateway: Gateway, port: int) -> ClientValidation | None:
    """frontend.perPort replaces frontend.default, also by nothing."""
    return dict(gateway.tls.clients_by_port).get(port, gateway.tls.clients)


def insecure_fallback(gateway: Gateway) -> bool:
    """Whether InsecureFrontendValidationMode must be said of the Gateway."""
    asked = (gateway.tls.clients, *(each for _, each in gateway.tls.clients_by_port))
    return any(each is not None and each.insecure_fallback for each in asked)


def gateway_certificate(gateway: Gateway, context: Context) -> Certificate | Denied | None:
    """tls.backend.clientCertificateRef: what the Gateway shows to backends that it speaks TLS to."""
    target = gateway.tls.client_certificate
    if target is None:
        return None
    match resolve_certificate(gateway.meta.ref, target, context.references):
        case Ok(certificate):
            return certificate
        case Denied(reason, message):
            reason = reason if reason == c.REF_NOT_PERMITTED else c.INVALID_CLIENT_CERTIFICATE_REF
            return Denied(reason, f"spec.tls.backend.clientCertificateRef: {message}")


def authorities(
    source: ObjectRef, targets: Iterable[ObjectRef], context: Context, kind_reason: str = c.INVALID_CA_CERTIFICATE_KIND
) -> Vouched:
    """The certificates of all references that hold, as one bundle; its name is its content."""
    found: list[bytes] = []
    denied: list[Denied] = []
    for target in dict.fromkeys(targets):
        one = _bundle(source, target, context, kind_reason)
        if isinstance(one, Denied):
            denied.append(one)
        else:
            found.append(one)
    if not found:
        return Vouched(None, tuple(denied))
    pem = b"\n".join(each.strip() for each in dict.fromkeys(found)) + b"\n"
    return Vouched(Authorities(f"authorities/{digest(pem)}", pem), tuple(denied))


def shaped(backend: Backend) -> Backend:
    """A backend under the name that its TLS gives it: who speaks TLS to it, or shows another certificate, has another cluster.

    A retry budget names nothing: it is the same for everybody who uses the backend.
    """
    base, tls = backend.cluster.partition("~")[0], backend.tls
    if tls is None:
        return backend if base == backend.cluster else replace(backend, cluster=base)
    vouched, shown = tls.authorities, tls.certificate
    words = (tls.hostname, vouched.name if vouched else "", shown.name if shown else "", repr(tls.names), tls.verify)
    return replace(backend, cluster=f"{base}~{digest(repr(words).encode())[:16]}")


def present(backend: Backend, certificate: Certificate) -> Backend:
    """The backend as a Gateway with this client certificate reaches it; the same one where no TLS is spoken to it."""
    if backend.tls is None or backend.tls.certificate is not None:
        return backend  # an XBackend may bring a certificate of its own
    return shaped(replace(backend, tls=replace(backend.tls, certificate=certificate)))


def digest(content: bytes) -> str:
    """Short, but strong: who finds another content with this name would be trusted in its place."""
    return hashlib.sha256(content).hexdigest()[:32]


def _bundle(source: ObjectRef, target: ObjectRef, context: Context, kind_reason: str) -> bytes | Denied:
    match (target.group, target.kind):
        case kind if kind == CONFIG_MAP:
            held = context.references.find(source, target, ConfigMap, c.INVALID_CA_CERTIFICATE_REF)
            if isinstance(held, Denied):
                return held
            if CA_KEY not in held.target.data:
                return Denied(c.INVALID_CA_CERTIFICATE_REF, f"{target} has no key {CA_KEY}; add the CA's certificate")
            pem = held.target.data[CA_KEY]
        case kind if kind == TRUST_BUNDLE:
            bundle = context.state.get(ClusterTrustBundle, replace(target, namespace=""))  # it is cluster-scoped
            if bundle is None:
                return Denied(c.INVALID_CA_CERTIFICATE_REF, f"{target} does not exist")
            pem = bundle.authorities
        case _:
            what = f"{target.group}/{target.kind}" if target.group else target.kind
            return Denied(kind_reason, f"{what} cannot hold CA certificates; use a ConfigMap with the key {CA_KEY}")
    if not _holds(pem):
        return Denied(c.INVALID_CA_CERTIFICATE_REF, f"{target} holds no PEM certificates, or broken ones")
    return pem.encode()


@functools.lru_cache(maxsize=1024)
def _holds(pem: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(pem.encode()))
    except (ValueError, UnsupportedAlgorithm):
        return False
