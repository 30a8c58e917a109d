"""TLS to clients and to backends, and the secrets that both refer to (SDS).

Source: Gateway API 1.7 GatewayTLSConfig, BackendTLSPolicy; Envoy `extensions.transport_sockets.tls.v3`. Cases: tests/golden,
tests/xds_server/test_translate_tls.py.
"""

from collections.abc import Iterable

from envoy_data_plane.envoy.config.core.v3 import DataSource, TransportSocket
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CertificateValidationContextTrustChainVerification as TrustChain,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext as CombinedValidation,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType as SanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol as Version,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from xds_server.model.graph import Authorities, Backend, Certificate, Chain, ServerTLS, UpstreamTLS
from xds_server.translate.config import ads
from xds_server.translate.encode import pack

SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # of the image that Envoy runs in
_HTTP_ALPN = ("h2", "http/1.1")
_SAN_TYPES = {"Hostname": SanType.DNS, "URI": SanType.URI}


def downstream(tls: ServerTLS, *, http: bool) -> TransportSocket:
    """How clients of a chain are met."""
    common = _common(tls.certificates, _HTTP_ALPN if http else ())
    context = DownstreamTlsContext(common_tls_context=common)
    if tls.clients:
        chain = TrustChain.VERIFY_TRUST_CHAIN if tls.clients.required else TrustChain.ACCEPT_UNTRUSTED
        common.combined_validation_context = CombinedValidation(
            default_validation_context=CertificateValidationContext(trust_chain_verification=chain),
            validation_context_sds_secret_config=_sds(tls.clients.authorities.name),
        )
        context.require_client_certificate = tls.clients.required
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def upstream(tls: UpstreamTLS, *, http2: bool) -> TransportSocket:
    """How a backend is spoken to; the server's name is checked, not only its issuer."""
    shown = (tls.certificate,) if tls.certificate else ()
    common = _common(shown, ("h2",) if http2 else ("http/1.1",))
    if tls.verify:
        expected = CertificateValidationContext(match_typed_subject_alt_names=_names(tls))
        if tls.authorities is None:
            expected.trusted_ca = DataSource(filename=SYSTEM_AUTHORITIES)
            common.validation_context = expected
        else:
            common.combined_validation_context = CombinedValidation(
                default_validation_context=expected,
                validation_context_sds_secret_config=_sds(tls.authorities.name),
            )
    context = UpstreamTlsContext(common_tls_context=common, sni=tls.hostname)
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def secrets(chains: Iterable[Chain], backends: Iterable[Backend]) -> dict[str, Secret]:
    """By name: everything that chains and clusters refer to, so that it is rotated without draining a connection."""
    found: dict[str, Secret] = {}
    for server in (chain.tls for chain in chains if chain.tls):
        found |= {each.name: certificate(each) for each in server.certificates}
        if server.clients:
            found[server.clients.authorities.name] = authorities(server.clients.authorities)
    for client in (backend.tls for backend in backends if backend.tls):
        if client.certificate:
            found[client.certificate.name] = certificate(client.certificate)
        if client.authorities and client.verify:
            found[client.authorities.name] = authorities(client.authorities)
    return found


def certificate(found: Certificate) -> Secret:
    chain, key = DataSource(inline_bytes=found.chain), DataSource(inline_bytes=found.key)
    return Secret(name=found.name, tls_certificate=TlsCertificate(certificate_chain=chain, private_key=key))


def authorities(found: Authorities) -> Secret:
    trusted = CertificateValidationContext(trusted_ca=DataSource(inline_bytes=found.pem))
    return Secret(name=found.name, validation_context=trusted)


def _common(certificates: Iterable[Certificate], alpn: tuple[str, ...]) -> CommonTlsContext:
    versions = TlsParameters(
        tls_minimum_protocol_version=Version.TLSv1_2,
        tls_maximum_protocol_version=Version.TLSv1_3,  # as a client, Envoy would stop at 1.2
    )
    return CommonTlsContext(
        tls_params=versions,
        tls_certificate_sds_secret_configs=[_sds(each.name) for each in certificates],
        alpn_protocols=list(alpn),
    )


def _names(tls: UpstreamTLS) -> list[SubjectAltNameMatcher]:
    """One of them must be in the certificate. With names of its own, a policy's hostname is but the SNI."""
    wanted = tls.names or (("Hostname", tls.hostname),)
    return [
        SubjectAltNameMatcher(san_type=_SAN_TYPES[kind], matcher=StringMatcher(exact=value)) for kind, value in wanted
    ]


def _sds(name: str) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=ads())
