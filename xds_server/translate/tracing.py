"""Spans of requests, sent to an OTLP collector.

Source: Gateway API XTelemetryPolicy; Envoy `HttpConnectionManager.Tracing`, `OpenTelemetryConfig`. Cases:
tests/xds_server/test_translate_filters.py.
"""

from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc, HeaderValue, TypedExtensionConfig
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManagerTracing
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers.v3 import AlwaysOnSamplerConfig
from envoy_data_plane.envoy.type.tracing.v3 import CustomTag, CustomTagHeader, CustomTagLiteral
from envoy_data_plane.envoy.type.v3 import Percent

from xds_server.model.graph import Tracing
from xds_server.model.policy import TraceAttribute
from xds_server.translate.encode import pack

# Attributes of OpenTelemetry's semantic conventions, in Envoy's words.
_ATTRIBUTES = {
    "client.address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "http.request.body.size": "%BYTES_RECEIVED%",
    "http.request.method": "%REQ(:METHOD)%",
    "http.response.body.size": "%BYTES_SENT%",
    "http.response.status_code": "%RESPONSE_CODE%",
    "http.route": "%ROUTE_NAME%",
    "network.protocol.name": "%PROTOCOL%",
    "server.address": "%REQ(:AUTHORITY)%",
    "server.port": "%DOWNSTREAM_LOCAL_PORT%",
    "url.path": "%PATH(NQ)%",
    "url.scheme": "%REQ(:SCHEME)%",
    "user_agent.original": "%REQ(USER-AGENT)%",
}


def tracing(found: Tracing | None) -> HttpConnectionManagerTracing | None:
    """None where nobody asks for spans, or nobody would receive them."""
    if found is None or found.collector is None or found.policy.mode == "Disabled":
        return None
    policy = found.policy
    config = OpenTelemetryConfig(
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=found.collector.cluster),
            initial_metadata=[HeaderValue(key=name.lower(), value=value) for name, value in policy.headers],
        ),
        service_name=policy.service_name or "penstock",
    )
    if not policy.parent_based:  # a sampler decides without looking at the parent
        always = pack(AlwaysOnSamplerConfig())
        config.sampler = TypedExtensionConfig(
            name="envoy.tracers.opentelemetry.samplers.always_on", typed_config=always
        )
    numerator, denominator = policy.sampling or (100, 100)
    share = Percent(value=100 * numerator / denominator)
    return HttpConnectionManagerTracing(
        random_sampling=share,
        overall_sampling=None if policy.parent_based else share,
        custom_tags=[tag for each in policy.attributes if (tag := _tag(each))],
        operation=policy.span_name.replace("%", "%%"),
        provider=TracingHttp(name="envoy.tracers.opentelemetry", typed_config=pack(config)),
    )


def _tag(found: TraceAttribute) -> CustomTag | None:
    match found.kind:
        case "Literal":
            return CustomTag(tag=found.name, literal=CustomTagLiteral(value=found.value))
        case "Header":
            return CustomTag(tag=found.name, request_header=CustomTagHeader(name=found.value.lower()))
        case "Attribute":
            value = _ATTRIBUTES.get(found.value)
            return CustomTag(tag=found.name, value=value) if value else None
