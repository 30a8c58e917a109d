"""Trust between an Envoy and us, as parts of a cluster: TLS, and the ServiceAccount token of the Envoy.

The same as in the bootstrap, which is plain data; here it is messages. Cases: tests/xds_server/test_translate_trust.py.
"""

from envoy_data_plane.envoy.config.core.v3 import (
    ConfigSource,
    DataSource,
    PathConfigSource,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.credential_injector.v3 import CredentialInjector
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.injected_credentials.generic.v3 import Generic
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SdsSecretConfig,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType as SanType,
    TlsParameters,
    TlsParametersTlsProtocol as Version,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from xds_server.bootstrap import TOKEN_SECRET, Trust
from xds_server.translate.encode import pack


def transport_socket(trust: Trust) -> TransportSocket:
    """TLS 1.3, the server known by our own authority and by its name."""
    name = SubjectAltNameMatcher(san_type=SanType.DNS, matcher=StringMatcher(exact=trust.server_name))
    expected = CertificateValidationContext(
        trusted_ca=DataSource(inline_string=trust.authority), match_typed_subject_alt_names=[name]
    )
    common = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=Version.TLSv1_3, tls_maximum_protocol_version=Version.TLSv1_3
        ),
        alpn_protocols=["h2"],  # gRPC servers end a connection that does not ask for it
        validation_context=expected,
    )
    context = UpstreamTlsContext(sni=trust.server_name, common_tls_context=common)
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))


def credential_filters(trust: Trust) -> list[HttpFilter]:
    """What sends the token with each stream: upstream filters, of which the last must be the codec."""
    source = ConfigSource(path_config_source=PathConfigSource(path=trust.token_sds))
    token = Generic(
        credential=SdsSecretConfig(name=TOKEN_SECRET, sds_config=source),
        header_value_prefix="Bearer ",
    )
    generic = TypedExtensionConfig(name="envoy.http.injected_credentials.generic", typed_config=pack(token))
    injector = CredentialInjector(overwrite=True, credential=generic)
    return [
        HttpFilter(name="envoy.filters.http.credential_injector", typed_config=pack(injector)),
        HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=pack(UpstreamCodec())),
    ]
