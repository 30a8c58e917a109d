"""XBackends: a name outside of the cluster, or pods by label, with their TLS and protocol beside them.

Source: Gateway API 1.7 XBackend (GEP-4894, experimental). Cases: tests/xds_server/test_resolve_xbackends.py.
"""

from xds_server.model.graph import Backend, Certificate, UpstreamTLS
from xds_server.model.objects import ObjectRef, XBackend
from xds_server.resolve import conditions as c
from xds_server.resolve.certificates import resolve_certificate
from xds_server.resolve.context import Context
from xds_server.resolve.references import Barred, Denied, Ok
from xds_server.resolve.services import Protocol, retry_budget
from xds_server.resolve.tls import authorities, shaped

HTTP2 = frozenset({"HTTP2", "H2C", "GRPC"})


def xbackend(found: XBackend, context: Context, protocol: Protocol) -> Ok[Backend] | Denied:
    """Where it leads, as routes of this protocol use it. TLS that cannot be checked is no backend, never plaintext."""
    ref = found.meta.ref
    if protocol == "UDP":
        return Denied(c.UNSUPPORTED_PROTOCOL, f"{ref} speaks {found.protocol}, not UDP")
    if protocol in ("HTTP", "GRPC") and found.protocol == "TCP":
        return Denied(c.UNSUPPORTED_PROTOCOL, f"{ref}: protocol TCP carries no HTTP; use HTTP, or a TCPRoute")
    if found.protocol == "WSS" and found.tls == "None":
        return Denied(c.UNSUPPORTED_PROTOCOL, f"{ref}: protocol WSS needs TLS; set spec.tls.mode to ServerOnly")
    tls = None if protocol == "Passthrough" else _tls(found, context)
    if isinstance(tls, Denied):
        return Barred(tls.reason, f"{ref}: {tls.message}")
    cluster, http2 = f"backend/{ref.namespace}/{ref.name}", found.protocol in HTTP2
    if protocol == "GRPC" and not http2:
        cluster, http2 = f"{cluster}/h2c", True
    made = Backend(
        cluster,
        ref,
        protocol="h2c" if http2 else "http",
        tls=tls,
        hostname=found.hostname,
        port=found.port,
        budget=retry_budget(ref, context),
    )
    return Ok(shaped(made))


def xbackend_denied(found: XBackend, context: Context) -> Denied | None:
    """What is wrong with it by itself; nothing that depends on a route."""
    checked = _tls(found, context)
    if isinstance(checked, Denied):
        return checked
    if found.protocol == "WSS" and checked is None:
        return Denied(c.INVALID, "protocol WSS needs TLS; set spec.tls.mode to ServerOnly")
    return None


def _tls(found: XBackend, context: Context) -> UpstreamTLS | Denied | None:
    """spec.tls. Without `validation` the system's authorities vouch for the external hostname."""
    if found.tls == "None":
        return None
    validation, source = found.validation, found.meta.ref
    hostname = validation.hostname if validation else found.hostname
    if not hostname:
        return Denied(c.INVALID, "TLS to selected endpoints needs a name to check; set spec.tls.validation.hostname")
    if validation and not validation.system and not validation.authorities:
        return Denied(c.INVALID, "nobody to trust; set spec.tls.validation.caCertificateRefs, or System as well known")
    vouched = authorities(source, validation.authorities if validation else (), context, c.INVALID_KIND)
    if vouched.denied and vouched.authorities is None:
        return Denied(c.NO_VALID_CA_CERTIFICATE, c.sentence(each.message for each in vouched.denied))
    certificate = None
    if found.tls == "ClientAndServer":
        shown = _client_certificate(found.client_certificate, source, context)
        if isinstance(shown, Denied):
            return shown
        certificate = shown.target
    names = validation.names if validation else ()
    return UpstreamTLS(hostname, vouched.authorities, names, certificate)


def _client_certificate(target: ObjectRef | None, source: ObjectRef, context: Context) -> Ok[Certificate] | Denied:
    if target is None:
        message = "mode ClientAndServer needs a certificate to show; set spec.tls.clientCertificateRef"
        return Denied(c.INVALID_CLIENT_CERTIFICATE_REF, message)
    return resolve_certificate(source, target, context.references)
