"""A secret that a client or a server sends reaches no sink; what clients choose and we do show is bounded. docs/exporting.md lists it.

Everything between Envoy's messages and the sinks is real: ext_proc messages, the picker, the access log, all that `penstock run`
subscribes, every door. The secret is put into every place that has no business outside, one or several at a time.
"""

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2
from google.cloud.monitoring_v3 import CreateTimeSeriesRequest
from hypothesis import HealthCheck, given, settings, strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace.export import SpanExportResult

from observability.decisions import DecisionLog, explained, listed
from observability.exporters.cloud_monitoring import CloudMonitoring
from observability.exporters.otlp import Otlp, resource
from observability.exporters.prometheus import openmetrics, text
from observability.exporters.spans import Spans
from observability.log import RequestLog
from penstock.gateway import Gateway
from penstock.settings import Settings
from picker.completions import log_entry
from picker.facts import Decision, Outcome
from picker.session import ExtProcSession
from picker.trace import Tracing
from picker.wire import decode
from tests.observability.test_cloud_monitoring import T0, TARGET
from xds_server.model.graph import Backend, Endpoint, Graph, Pool
from xds_server.model.names import FAIRNESS_HEADER, MODEL_HEADER, OBJECTIVE_HEADER
from xds_server.model.objects import ObjectRef

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRETS = st.text("0123456789abcdef", min_size=16, max_size=40).map("canary-{}".format)
HEADERS = (
    *(
        "authorization",
        "proxy-authorization",
        "cookie",
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "x-amz-security-token",
    ),
    *("tracestate", "baggage", "referer", "origin", "x-forwarded-for", "x-anything"),
)
PLACES = (*HEADERS, "traceparent", "query", "prompt", "message", "tool", "user", "metadata", "broken body", "answer")


class Client:
    """MetricServiceClient and both exporters, as far as the doors use them: keeps the bytes that would leave."""

    def __init__(self) -> None:
        self.bytes: list[bytes] = []

    def create_time_series(self, request: Any, **_: Any) -> None:
        self.bytes.append(CreateTimeSeriesRequest.pb(request).SerializeToString())


class Metrics(Client):
    def export(self, data: Any) -> MetricExportResult:
        self.bytes.append(encode_metrics(data).SerializeToString())
        return MetricExportResult.SUCCESS


class Traces(Client):
    def export(self, data: Any) -> SpanExportResult:
        self.bytes.append(encode_spans(data).SerializeToString())
        return SpanExportResult.SUCCESS


class World:
    """A gateway with every door; Envoy's part is played by `request`."""

    def __init__(self) -> None:
        self.gateway = Gateway(Settings(decisions_rate=1.0), Path("/nowhere"))
        self.decisions = DecisionLog(io.BytesIO(), project="p")
        self.gateway.decisions.on_record = self.decisions.offer
        ref = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", "p")
        pools = {"ns/p": Pool(ref, Backend("pool/ns/p", ref, pool=True), (Endpoint("10.0.0.1", 80),))}
        self.gateway.graphs.set(Graph(pools=pools))
        self.gateway.apply(Graph(pools=pools))
        self.log = RequestLog(io.BytesIO(), project="p")
        self.traces, self.metrics, self.monitoring = Traces(), Metrics(), Client()
        self.spans = Spans(self.traces, resource({}), self.gateway.registry)  # type: ignore[arg-type]
        self.gateway.facts.on(Outcome, self.log.outcome)
        self.spans.listen(self.gateway.facts)

    def request(self, headers: Mapping[str, str], body: bytes, number: int, tracing: Tracing) -> None:
        session = ExtProcSession(self.gateway.picker, "ns/p", f"{number:024x}", tracing=tracing)
        asked = external_processor_pb2.ProcessingRequest()
        for name, value in headers.items():
            asked.request_headers.headers.headers.add(key=name, raw_value=value.encode())
        sent = external_processor_pb2.ProcessingRequest()
        sent.request_body.body, sent.request_body.end_of_stream = body, True
        for message in (asked, sent):
            event = decode(message.SerializeToString())
            assert event is not None
            session.receive(event, 1.0, T0)
        assert session.fact is not None
        self.gateway.asked(session.fact)
        self.gateway.ended(log_entry(entry_of(headers, session.fact)))

    async def sinks(self) -> dict[str, bytes]:
        """Every byte that leaves, by where."""
        snapshot = self.gateway.registry.snapshot()
        await self.spans.flush()
        await CloudMonitoring(self.monitoring, TARGET, T0).write(snapshot, T0 + 60)  # type: ignore[arg-type]
        await Otlp(self.metrics, resource({}), T0).write(snapshot, T0 + 60)  # type: ignore[arg-type]
        return {
            "text": text(snapshot),
            "openmetrics": openmetrics(snapshot),
            "log": b"".join(self.log.lines.take()),
            "decisions": b"".join(
                line for one in self.decisions.lines.take() for line in self.decisions._lines_of(one)
            ),
            "/decisions": listed(self.gateway.decisions.latest(100)),
            "/decisions/ID": b"".join(explained(one) for one in self.gateway.decisions.latest(100)),
            "status": orjson.dumps(self.gateway.report.status()),
            "cloud monitoring": b"".join(self.monitoring.bytes),
            "otlp metrics": b"".join(self.metrics.bytes),
            "otlp traces": b"".join(self.traces.bytes),
        }


def entry_of(headers: Mapping[str, str], fact: Any) -> accesslog_pb2.HTTPAccessLogEntry:
    """As Envoy writes it: the path with its query, and of the headers those that it was told to log."""
    found = accesslog_pb2.HTTPAccessLogEntry()
    common = found.common_properties
    common.start_time.FromSeconds(int(T0))
    common.duration.FromSeconds(2)
    common.upstream_cluster = "pool/ns/p"
    common.custom_tags["ttft"] = "208013"
    if isinstance(fact, Decision):
        common.metadata.filter_metadata["penstock"].fields["id"].string_value = fact.id
        found.response.response_code_details = "via_upstream"
    common.metadata.filter_metadata["ai"].fields["completion_tokens"].number_value = 7
    found.request.request_method = base_pb2.POST
    found.request.path = headers[":path"]
    found.request.user_agent = headers.get("user-agent", "")
    for name in (MODEL_HEADER, "traceparent", OBJECTIVE_HEADER, FAIRNESS_HEADER):
        if name in headers:
            found.request.request_headers[name] = headers[name]
    found.response.response_code.value = 200
    found.response.response_headers["content-type"] = "text/event-stream"
    return found


def request_with(secret: str, places: set[str]) -> tuple[dict[str, str], bytes]:
    """The headers and the body of a request that has the secret in these places."""

    def at(place: str, other: str = "x") -> str:
        return secret if place in places else other

    query = f"?key={secret}&x=1" if "query" in places else ""
    headers = {":method": "POST", ":path": f"/v1/chat/completions{query}", "user-agent": "openai/2"}
    headers |= {name: f"Bearer {secret}" for name in HEADERS if name in places}
    headers["traceparent"] = f"00-{secret}-{secret}-01" if "traceparent" in places else TRACEPARENT
    message = {"role": "user", "content": at("message")}
    body = {"model": "m", "stream": True, "messages": [message], "user": at("user"), "metadata": {"k": at("metadata")}}
    body |= {"tools": [{"type": "function", "function": {"name": at("tool")}}], "prompt": at("prompt")}
    if "broken body" in places:
        return headers, b'{"model": "m", "messages": [{"content": "' + secret.encode()
    return headers, orjson.dumps(body)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=SECRETS, requests=st.lists(st.sets(st.sampled_from(PLACES), min_size=1), min_size=1, max_size=4))
async def test_a_secret_reaches_no_sink(
    caplog: pytest.LogCaptureFixture, secret: str, requests: list[set[str]]
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    world = World()
    for number, places in enumerate([{"query"}, *requests]):
        world.request(*request_with(secret, places), number, Tracing(1.0))
    for sink, found in (await world.sinks()).items():
        assert found, f"{sink} has nothing, so it shows nothing"
        assert secret.encode() not in found, sink
    assert secret not in caplog.text


@pytest.mark.parametrize("place", PLACES)
async def test_each_place_alone(place: str) -> None:
    world = World()
    for number, tracing in enumerate((Tracing(1.0), Tracing(0.0), Tracing())):
        world.request(*request_with("canary-0123456789", {place}), number, tracing)
    assert not [sink for sink, found in (await world.sinks()).items() if b"canary" in found]


async def test_the_test_would_see_a_secret() -> None:
    """The user agent is shown by design: the same requests, the same sinks."""
    world = World()
    headers, body = request_with("x", set())
    world.request(headers | {"user-agent": "canary-agent"}, body, 1, Tracing(1.0))
    found = await world.sinks()
    assert {sink for sink, shown in found.items() if b"canary-agent" in shown} == {"log", "otlp traces"}


DECISIONS = {"decisions", "/decisions", "/decisions/ID"}
SHOWN = {  # what clients choose -> the sinks that show it, bounded
    "model": {"text", "openmetrics", "log", "cloud monitoring", "otlp metrics", "otlp traces"} | DECISIONS,
    FAIRNESS_HEADER: {"log", "otlp traces", "decisions", "/decisions/ID"},
    "user-agent": {"log", "otlp traces"},
    "path": {"log", "otlp traces", "decisions", "/decisions/ID"},
}


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("length", [20, 2000])  # a longer model is refused
async def test_what_clients_choose_is_shown_by_these_sinks_and_bounded(name: str, length: int) -> None:
    chosen = "canary" + "y" * (length - 6)
    headers, body = request_with("x", set())
    if name == "model":
        body = orjson.dumps({**orjson.loads(body), "model": chosen})
    elif name == "path":
        headers[":path"] = f"/v1/{chosen}"
    else:
        headers[name] = chosen
    world = World()
    world.request(headers, body, 1, Tracing(1.0))
    found = await world.sinks()
    other = (
        {"text", "openmetrics", "cloud monitoring", "otlp metrics"} if length > 128 else set()
    )  # is what they say then
    assert {sink for sink, shown in found.items() if b"canary" in shown} == SHOWN[name] - other
    most = {sink: 1000 if sink in DECISIONS else 128 for sink in found}  # to decide again, records need the whole name
    assert not [sink for sink, shown in found.items() if b"y" * (most[sink] + 1) in shown]
