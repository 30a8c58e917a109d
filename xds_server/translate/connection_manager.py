"""The HTTP connection manager of a chain: what happens to a request before and after it is routed.

Source: Envoy `HttpConnectionManager`. Cases: tests/golden.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as Mutation,
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, GrpcService, GrpcServiceEnvoyGrpc, TypedExtensionConfig
from envoy_data_plane.envoy.config.listener.v3 import Filter
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction as EscapedSlashes,
    HttpConnectionManagerServerHeaderTransformation as ServerHeader,
    HttpConnectionManagerUpgradeConfig,
    Rds,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag

from xds_server.model.graph import Chain
from xds_server.model.names import (
    FAIRNESS_HEADER,
    MODEL_HEADER,
    OBJECTIVE_HEADER,
    PICKER_CLUSTER,
    RESERVED_PREFIXES,
    REWRITE_HEADERS,
)
from xds_server.translate import replies
from xds_server.translate.config import ads
from xds_server.translate.encode import pack
from xds_server.translate.filters import http_filters
from xds_server.translate.settings import DataPlane
from xds_server.translate.tracing import tracing

# What an Outcome needs of a request that the picker never saw (it was down, or no route matched).
_LOGGED = [MODEL_HEADER, "traceparent", OBJECTIVE_HEADER, FAIRNESS_HEADER]


def connection_manager(
    chain: Chain, name: str, stat_prefix: str, plane: DataPlane, *, models: bool, ours: bool
) -> Filter:
    """Requests of a chain, routed by the route table `name`; `models`: some chain of the port serves pools; `ours`: some asks
    the co-located picker for an endpoint.
    """
    manager = HttpConnectionManager(
        stat_prefix=stat_prefix,
        rds=Rds(config_source=ads(), route_config_name=name),
        http_filters=http_filters(chain, plane, ours=ours),
        access_log=[access_log()] if ours else [],
        local_reply_config=replies.local() if models else None,
        early_header_mutation_extensions=[_strip_reserved(ours=ours)],
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=EscapedSlashes.UNESCAPE_AND_REDIRECT,
        server_header_transformation=ServerHeader.PASS_THROUGH,
        request_headers_timeout=timedelta(seconds=10),
        tracing=tracing(chain.tracing),
    )
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))


def _strip_reserved(*, ours: bool) -> TypedExtensionConfig:
    """Decision headers that a client sends are removed before routing sees them: only the gateway decides.

    That of a rewrite too, which our picker obeys: no client reaches a model that no route offers.
    """
    forged = [Mutation(remove=each) for each in (MODEL_HEADER, *(REWRITE_HEADERS if ours else ()))]
    forged += [
        Mutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=each)))
        for each in RESERVED_PREFIXES
    ]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=pack(EarlyMutation(mutations=forged))
    )


def access_log() -> AccessLog:
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
