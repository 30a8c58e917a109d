"""A client's trace, through the real Envoy, to the model server and to a collector; what has a tracer of Envoy's beside ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.settings import Export
from picker.trace import Tracing, parent
from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, service, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import World, world
from tests.observability.fake_collector import FakeCollector

pytestmark = pytest.mark.envoy
TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CLIENT}-01", f"00-{TRACE}-{CLIENT}-00"
BODY = {"model": "m", "messages": [{"role": "user", "content": "canary-prompt"}]}


@asynccontextmanager
async def traced(folder: Path, server: Backend, tracing: Tracing, more: str = "") -> AsyncIterator[World]:
    text = documents(GATEWAY, pool("base", [server.address]), route("all", rule("/v1", to_pool("base"))), more)  # type: ignore[list-item]
    export = Export(("otlp",), tracing=tracing)
    async with world(folder, {"all.yaml": text}, export=export) as found:
        yield found


async def ask(gateway: World, server: Backend, **headers: str) -> str:
    """The traceparent that the server got."""
    answer = await gateway.post("/v1/chat/completions?key=canary-query", BODY, **headers)
    assert answer.status == 200
    outcome = await gateway.outcome_of(answer)
    assert outcome.trace.sampled == (server.seen[-1].headers.get("traceparent", "").endswith("-01"))
    return server.seen[-1].headers.get("traceparent", "")


def by_name(spans: list[Any]) -> dict[str, Any]:
    return {span.name: span for span in spans}


async def test_the_server_continues_our_span_of_the_clients_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = FakeCollector()
    with collector.http() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        async with backend() as server, traced(tmp_path, server, Tracing(0.0)) as gateway:
            told = await ask(gateway, server, traceparent=SAMPLED, tracestate="vendor=1", authorization="canary-key")
            assert server.seen[-1].headers["tracestate"] == "vendor=1"
            assert await ask(gateway, server, traceparent=UNSAMPLED) == UNSAMPLED
            assert await ask(gateway, server) == ""
    assert not collector.wrong
    found = by_name(collector.spans)
    assert sorted(span.name for span in collector.spans) == ["gateway.request", "schedule", "upstream"]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert found["gateway.request"].parent_span_id.hex() == CLIENT
    assert found["upstream"].parent_span_id == found["schedule"].parent_span_id == found["gateway.request"].span_id
    assert (parent({"traceparent": told}).trace_id, parent({"traceparent": told}).span_id) == (
        TRACE,
        found["upstream"].span_id.hex(),
    )
    whole = found["gateway.request"]
    for span in (found["schedule"], found["upstream"]):
        assert whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= whole.end_time_unix_nano
    assert b"canary" not in b"".join(collector.raw)


async def test_a_share_of_the_others_begins_a_trace_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = FakeCollector()
    with collector.grpc() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        async with backend() as server, traced(tmp_path, server, Tracing(1.0)) as gateway:
            told = await ask(gateway, server)
            page = await gateway.openmetrics()
    whole = by_name(collector.spans)["gateway.request"]
    assert not whole.parent_span_id
    assert parent({"traceparent": told}).trace_id == whole.trace_id.hex()
    assert (
        f'trace_id="{whole.trace_id.hex()}",span_id="{whole.span_id.hex()}"' in page
    )  # the exemplar leads to the span


TELEMETRY = """
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XTelemetryPolicy
metadata: {name: traces}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]
  tracing: {mode: Enabled, provider: {backendRef: {name: otel, port: 80}}, samplingRate: {numerator: 1, denominator: 1}}
"""


async def test_where_envoy_traces_the_decision_joins_its_spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, envoys = FakeCollector(), FakeCollector()
    with ours.http() as endpoint, envoys.grpc() as other:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        more = documents(service("otel", other.removeprefix("http://")), TELEMETRY)
        async with backend() as server, traced(tmp_path, server, Tracing(1.0), more) as gateway:
            answers = [await gateway.post("/v1/chat/completions", BODY, traceparent=SAMPLED)]
            answers.append(await gateway.post("/v1/chat/completions", BODY))
            traces = [(await gateway.outcome_of(answer)).trace.trace_id for answer in answers]
            await until(lambda: len(envoys.spans) >= 4, "the spans of Envoy")
    told = [parent(seen.headers) for seen in server.seen]
    assert traces == [each.trace_id for each in told]
    assert traces[0] == TRACE
    ingress = {span.trace_id.hex(): span for span in envoys.spans if span.name == "ingress"}
    asked = {span.trace_id.hex(): span for span in envoys.spans if span.name != "ingress"}
    assert [each.span_id for each in told] == [ingress[trace].span_id.hex() for trace in traces]
    assert {span.name for span in ours.spans} == {"schedule"}  # nothing twice
    assert {span.trace_id.hex(): span.parent_span_id for span in ours.spans} == {
        trace: asked[trace].span_id for trace in traces
    }
