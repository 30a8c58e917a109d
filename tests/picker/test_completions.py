"""Access log entries as Envoy writes them, through a real gRPC server."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2 as data
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf import json_format

from picker.completions import FLAGS, SERVICE, access_log_handler, log_entry
from picker.inflight import LogEntry

FULL = {
    "common_properties": {
        "start_time": "2026-01-02T03:04:05.500Z",
        "time_to_last_downstream_tx_byte": "1.250s",
        "time_to_last_rx_byte": "0.125s",
        "time_to_first_upstream_tx_byte": "0.250s",
        "duration": "1.3s",
        "upstream_remote_address": {"socket_address": {"address": "10.0.0.1", "port_value": 8000}},
        "upstream_cluster": "pool/ns/p",
        "route_name": "ns/r/0/0",
        "response_flags": {"upstream_connection_failure": True, "unauthorized_details": {"reason": "EXTERNAL_SERVICE"}},
        "metadata": {
            "filter_metadata": {
                "penstock": {"id": "abc"},
                "ai": {"model": "m", "prompt_tokens": 12, "completion_tokens": 3, "cached_tokens": 8},
            }
        },
        "custom_tags": {"ttft": "208013"},
        "upstream_request_attempt_count": 2,
    },
    "request": {
        "path": "/v1/chat/completions",
        "request_id": "r-1",
        "user_agent": "openai",
        "request_body_bytes": 100,
        "request_headers": {"x-gateway-model-name": "m"},
    },
    "response": {
        "response_code": 200,
        "response_code_details": "via_upstream",
        "response_body_bytes": 900,
        "response_headers": {"content-type": "text/event-stream"},
    },
}


def entry_of(fields: dict[str, object]) -> data.HTTPAccessLogEntry:
    return json_format.ParseDict(fields, data.HTTPAccessLogEntry())


def test_anthropics_input_tokens_leave_out_what_was_cached() -> None:
    usage = {"prompt_tokens": 5, "cache_read_tokens": 96, "cache_creation_tokens": 7}
    found = log_entry(entry_of({"common_properties": {"metadata": {"filter_metadata": {"ai": usage}}}}))
    assert (found.input_tokens, found.cached_tokens, found.output_tokens) == (108, 96, None)
    none = log_entry(
        entry_of({"common_properties": {"metadata": {"filter_metadata": {"ai": {"cache_read_tokens": 96}}}}})
    )
    assert none.input_tokens is None


@pytest.mark.parametrize("figure", [math.inf, -math.inf, math.nan, 1e308, 1e12, -1.0])
def test_what_no_server_can_have_counted_is_not_known(figure: float) -> None:
    """A server says what it likes: an entry that cannot be read ends the stream, and the entries of others beside it are lost."""
    entry = entry_of(FULL)
    usage = entry.common_properties.metadata.filter_metadata["ai"].fields
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens"):
        usage[name].number_value = figure
    found = log_entry(entry)
    assert (found.input_tokens, found.output_tokens, found.cached_tokens) == (None, None, None)


def test_a_full_entry() -> None:
    assert log_entry(entry_of(FULL)) == LogEntry(
        id="abc",
        route="ns/r/0/0",
        cluster="pool/ns/p",
        endpoint="10.0.0.1:8000",
        status=200,
        details="via_upstream",
        flags=frozenset({"UF", "UAEX"}),
        time=1767323045.5,
        duration=1.25,
        received=0.125,
        sent=0.25,
        ttft=0.208013,
        input_tokens=12,
        cached_tokens=8,
        output_tokens=3,
        model="m",
        path="/v1/chat/completions",
        request_id="r-1",
        user_agent="openai",
        headers={"x-gateway-model-name": "m"},
        response_headers={"content-type": "text/event-stream"},
        request_bytes=100,
        response_bytes=900,
        attempts=2,
    )


def test_an_empty_entry_is_all_unknown() -> None:
    assert log_entry(data.HTTPAccessLogEntry()) == LogEntry()


@pytest.mark.parametrize("text", ["-", "", "-1", "x"])
def test_no_ttft(text: str) -> None:
    assert log_entry(entry_of({"common_properties": {"custom_tags": {"ttft": text}, "duration": "0.5s"}})).ttft is None


def test_ipv6_is_written_as_envoy_writes_it() -> None:
    address = {"socket_address": {"address": "fd00::1", "port_value": 80}}
    assert log_entry(entry_of({"common_properties": {"upstream_remote_address": address}})).endpoint == "[fd00::1]:80"


def test_every_flag_of_the_api_has_a_name() -> None:
    assert set(FLAGS) == {field.name for field in data.ResponseFlags.DESCRIPTOR.fields}


@asynccontextmanager
async def logging_to(ended: Callable[[LogEntry], None]) -> AsyncIterator[Callable[..., Awaitable[object]]]:
    """Gives a call that sends batches of entries over one stream."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((access_log_handler(ended),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_unary(
                f"/{SERVICE}/StreamAccessLogs",
                request_serializer=als_pb2.StreamAccessLogsMessage.SerializeToString,
                response_deserializer=als_pb2.StreamAccessLogsResponse.FromString,
            )

            async def messages(batches):
                for batch in batches:
                    message = als_pb2.StreamAccessLogsMessage()
                    message.http_logs.log_entry.extend(map(entry_of, batch))
                    yield message

            yield lambda *batches: call(messages(batches))
    finally:
        await server.stop(None)


async def test_the_service_calls_once_per_request() -> None:
    heard: list[LogEntry] = []
    midway = {"common_properties": {"intermediate_log_entry": True}, "request": {"request_id": "r-2"}}
    inner = {"envoy_internal_address": {"server_listener_name": "ask/pool/ns/p"}}
    handed_on = {"common_properties": {"upstream_cluster": "over/pool/ns/p", "upstream_remote_address": inner}}
    not_reached = {"common_properties": {"upstream_cluster": "over/pool/ns/p"}, "request": {"request_id": "r-3"}}
    async with logging_to(heard.append) as send:
        await send([FULL, midway, handed_on], [{"request": {"request_id": "r-2"}}, not_reached])
    assert [entry.request_id for entry in heard] == ["r-1", "r-2", "r-3"]


async def test_an_entry_that_is_our_mistake_takes_no_other_of_its_batch_along() -> None:
    heard: list[str] = []

    def ended(entry: LogEntry) -> None:
        heard.append(entry.request_id)
        if entry.request_id == "r-1":
            raise RuntimeError("our mistake")

    async with logging_to(ended) as send:
        with pytest.raises(grpc.aio.AioRpcError, match="our mistake"):  # Envoy opens another stream
            await send([FULL, {"request": {"request_id": "r-2"}}])
    assert heard == ["r-1", "r-2"]
