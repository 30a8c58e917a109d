"""The end of every request, from Envoy: `envoy.service.accesslog.v3.AccessLogService` as a grpc.aio handler.

Envoy batches the entries (20 ms), so the transport's price is paid per batch. What Envoy must be told to log, seen to work on
1.40: custom tag `ttft` = %COMMON_DURATION(DS_RX_BEG:US_RX_BODY_BEG:us)%; dynamic metadata `penstock` (id) from ext_proc and
`ai` (model, prompt_tokens, completion_tokens, cached_tokens, and of Anthropic's answers cache_read_tokens and
cache_creation_tokens) from json_to_metadata and, of streams, the Lua of xds_server/translate/usage.py; request headers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from picker.inflight import LogEntry
from xds_server.model.names import AI_NAMESPACE, PENSTOCK_NAMESPACE, STAND_IN_PREFIX

SERVICE = "envoy.service.accesslog.v3.AccessLogService"
TTFT_TAG = "ttft"
_ABSURD = 1e12  # tokens of one request

# ResponseFlags field -> the short name of %RESPONSE_FLAGS%.
FLAGS: Mapping[str, str] = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
_NO_FLAGS: frozenset[str] = frozenset()
_METHODS: Mapping[int, str] = {number: name for name, number in base_pb2.RequestMethod.items() if number}


def log_entry(entry: accesslog_pb2.HTTPAccessLogEntry) -> LogEntry:
    """One entry as a plain value."""
    common, request, response = entry.common_properties, entry.request, entry.response
    metadata = common.metadata.filter_metadata
    usage = metadata[AI_NAMESPACE].fields if AI_NAMESPACE in metadata else {}
    return LogEntry(
        id=metadata[PENSTOCK_NAMESPACE].fields["id"].string_value if PENSTOCK_NAMESPACE in metadata else "",
        route=common.route_name,
        cluster=common.upstream_cluster,
        endpoint=_address(common.upstream_remote_address),
        status=response.response_code.value,
        details=response.response_code_details,
        flags=_flags(common.response_flags) if common.HasField("response_flags") else _NO_FLAGS,
        time=common.start_time.seconds + common.start_time.nanos / 1e9,
        duration=_duration(common),
        ttft=_microseconds(common.custom_tags.get(TTFT_TAG, "")),
        input_tokens=_input(usage),
        cached_tokens=_first(usage, "cached_tokens", "cache_read_tokens"),
        output_tokens=_number(usage, "completion_tokens"),
        model=usage["model"].string_value if "model" in usage else "",
        method=_METHODS.get(request.request_method, ""),
        path=request.original_path or request.path,
        request_id=request.request_id,
        user_agent=request.user_agent,
        headers=dict(request.request_headers),
        response_headers=dict(response.response_headers),
        request_bytes=request.request_body_bytes,
        response_bytes=response.response_body_bytes,
        attempts=common.upstream_request_attempt_count,
        received=_seconds(common, "time_to_last_rx_byte"),
        sent=_seconds(common, "time_to_first_upstream_tx_byte"),
    )


def access_log_handler(
    ended: Callable[[LogEntry], None], admit: Callable[[Any], Awaitable[object]] | None = None
) -> grpc.GenericRpcHandler:
    """The service, for `grpc.aio.Server.add_generic_rpc_handlers`. `ended` is called once per request, in Envoy's order;
    `admit` with the context of each stream, to abort those that may not come in.
    """

    async def stream(
        messages: AsyncIterator[als_pb2.StreamAccessLogsMessage], context: Any
    ) -> als_pb2.StreamAccessLogsResponse:
        if admit is not None:
            await admit(context)
        async for message in messages:
            failed: Exception | None = None
            for entry in message.http_logs.log_entry:
                common = entry.common_properties  # a long stream may be logged before it ends
                if not common.intermediate_log_entry and not _handed_on(common):
                    try:
                        ended(log_entry(entry))
                    except Exception as error:  # noqa: BLE001  told below; the others of the batch would else be in flight for ever
                        failed = error
            if failed is not None:
                raise failed
        return als_pb2.StreamAccessLogsResponse()

    method = grpc.stream_unary_rpc_method_handler(
        stream,
        request_deserializer=als_pb2.StreamAccessLogsMessage.FromString,
        response_serializer=als_pb2.StreamAccessLogsResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"StreamAccessLogs": method})


def _handed_on(common: accesslog_pb2.AccessLogCommon) -> bool:
    """Whether a listener of ours within Envoy got it, and logs it with the decision: xds_server/translate/pool.py."""
    reached: bool = common.upstream_remote_address.HasField("envoy_internal_address")
    return reached and common.upstream_cluster.startswith(STAND_IN_PREFIX)


def _flags(flags: accesslog_pb2.ResponseFlags) -> frozenset[str]:
    return frozenset(name for field, _ in flags.ListFields() if (name := FLAGS.get(field.name)))


def _address(address: Any) -> str:
    """As Endpoint writes it: "ip:port", "[ip]:port" for IPv6; "" for none or for a pipe."""
    socket = address.socket_address
    if not socket.address:
        return ""
    return (
        f"[{socket.address}]:{socket.port_value}" if ":" in socket.address else f"{socket.address}:{socket.port_value}"
    )


def _duration(common: accesslog_pb2.AccessLogCommon) -> float | None:
    """To the last byte to the client; where the client saw none, how long the stream lived."""
    found = _seconds(common, "time_to_last_downstream_tx_byte")
    return _seconds(common, "duration") if found is None else found


def _seconds(common: accesslog_pb2.AccessLogCommon, name: str) -> float | None:
    """A duration since the request began, None where there is none."""
    if not common.HasField(name):
        return None
    found = getattr(common, name)
    return float(found.seconds + found.nanos / 1e9)


def _microseconds(text: str) -> float | None:
    """Seconds from "208013"; None from "-", Envoy's word for none."""
    return int(text) / 1e6 if text.isdecimal() else None


def _input(usage: Mapping[str, Any]) -> int | None:
    """All tokens of the prompt: Anthropic's `input_tokens` are those alone that were neither read from the cache nor written to it."""
    found = _number(usage, "prompt_tokens")
    if found is None:
        return None
    return found + (_number(usage, "cache_read_tokens") or 0) + (_number(usage, "cache_creation_tokens") or 0)


def _first(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((found for name in names if (found := _number(usage, name)) is not None), None)


def _number(fields: Mapping[str, Any], name: str) -> int | None:
    """Tokens; None also for what no server can have counted."""
    found = fields[name].number_value if name in fields else -1.0
    return int(found) if 0.0 <= found < _ABSURD else None
