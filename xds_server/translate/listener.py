"""LDS: one listener per port of the fleet, its HTTP connection manager, and the certificates it refers to (SDS).

Source: Envoy `config.listener.v3`, `HttpConnectionManager`. Cases: tests/golden.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as Mutation,
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiVersion,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    SocketAddress,
    TransportSocket,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction as EscapedSlashes,
    HttpConnectionManagerServerHeaderTransformation as ServerHeader,
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyMutation,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    TlsCertificate,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag

from xds_server.model.graph import Certificate, Chain, Port
from xds_server.model.names import (
    FAIRNESS_HEADER,
    MODEL_HEADER,
    OBJECTIVE_HEADER,
    PICKER_CLUSTER,
    RESERVED_PREFIXES,
    ROUTER,
)
from xds_server.translate import inference, replies
from xds_server.translate.cluster import ads
from xds_server.translate.encode import pack
from xds_server.translate.route_table import routes_by_model, serves_models
from xds_server.translate.settings import DataPlane

# What an Outcome needs of a request that the picker never saw (it was down, or no route matched).
_LOGGED = [MODEL_HEADER, "traceparent", OBJECTIVE_HEADER, FAIRNESS_HEADER]


def listener(port: Port, plane: DataPlane) -> Listener:
    """The listener of a port, named after it: stable whatever is routed there."""
    address, number = plane.socket(port.number)
    secure = any(chain.certificates for chain in port.chains)
    models = any(serves_models(chain) for chain in port.chains)
    return Listener(
        name=f"tcp-{port.number}",
        address=Address(socket_address=SocketAddress(address=address, port_value=number)),
        filter_chains=[_chain(chain, port, plane, models=models) for chain in port.chains],
        listener_filters=[_tls_inspector()] if secure else [],
        per_connection_buffer_limit_bytes=plane.max_body if models else None,
    )


def route_config_name(chain: Chain, port: Port) -> str:
    """An RDS name per chain: "http-80", "https-443/example.com"."""
    if not chain.certificates:
        return f"http-{port.number}"
    return f"https-{port.number}/{chain.hostname or '*'}"


def secret(certificate: Certificate) -> Secret:
    """A certificate under SDS: rotated without draining a connection."""
    chain, key = DataSource(inline_bytes=certificate.chain), DataSource(inline_bytes=certificate.key)
    return Secret(name=certificate.name, tls_certificate=TlsCertificate(certificate_chain=chain, private_key=key))


def _chain(chain: Chain, port: Port, plane: DataPlane, *, models: bool) -> FilterChain:
    manager = _connection_manager(chain, port, plane, models=models)
    found = FilterChain(
        name=route_config_name(chain, port),
        filters=[Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))],
    )
    if chain.certificates:
        found.transport_socket = _tls(chain)
        if chain.hostname:
            found.filter_chain_match = FilterChainMatch(server_names=[chain.hostname])
    return found


def _connection_manager(chain: Chain, port: Port, plane: DataPlane, *, models: bool) -> HttpConnectionManager:
    by_model = routes_by_model(chain)
    router = HttpFilter(name=ROUTER, typed_config=pack(Router()))
    slots = inference.filters(plane, by_model=by_model) if models else []
    return HttpConnectionManager(
        stat_prefix=f"port-{port.number}",
        rds=Rds(config_source=ads(), route_config_name=route_config_name(chain, port)),
        http_filters=[*slots, router],
        access_log=[_access_log()] if models else [],
        local_reply_config=replies.openai() if models else None,
        early_header_mutation_extensions=[_strip_reserved()],
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=EscapedSlashes.UNESCAPE_AND_REDIRECT,
        server_header_transformation=ServerHeader.PASS_THROUGH,
        request_headers_timeout=timedelta(seconds=10),
    )


def _strip_reserved() -> TypedExtensionConfig:
    """Decision headers that a client sends are removed before routing sees them: only the gateway decides."""
    forged = [Mutation(remove=MODEL_HEADER)]
    forged += [
        Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=each)))
        for each in RESERVED_PREFIXES
    ]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack(EarlyMutation(mutations=forged))
    )


def _access_log() -> AccessLog:
    """One entry a request, in batches of 20 ms, to the picker: what became of each decision.

    US_RX_BODY_BEG is the first body byte, so TTFT; headers alone come long before the first token.
    """
    common = CommonGrpcAccessLogConfig(
        log_name="penstock",
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=PICKER_CLUSTER)),
        transport_api_version=ApiVersion.V3,
        buffer_flush_interval=timedelta(milliseconds=20),
        custom_tags=[CustomTag(tag="ttft", value="%COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%")],
    )
    config = HttpGrpcAccessLogConfig(
        common_config=common,
        additional_request_headers_to_log=_LOGGED,
        additional_response_headers_to_log=["content-type"],
    )
    return AccessLog(name="envoy.access_loggers.http_grpc", typed_config=pack(config))


def _tls(chain: Chain) -> TransportSocket:
    certificates = [SdsSecretConfig(name=each.name, sds_config=ads()) for each in chain.certificates]
    context = CommonTlsContext(tls_certificate_sds_secret_configs=certificates, alpn_protocols=["h2", "http/1.1"])
    return TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=pack(DownstreamTlsContext(common_tls_context=context))
    )


def _tls_inspector() -> ListenerFilter:
    return ListenerFilter(name="envoy.filters.listener.tls_inspector", typed_config=pack(TlsInspector()))
