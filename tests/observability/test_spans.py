"""Spans of a request, from its facts: names, times, parents, attributes; a queue that is bounded and counts."""

from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

from observability import catalogue as c
from observability.exporters.otlp import exporter, resource
from observability.exporters.spans import Spans, spans
from observability.registry import Registry
from picker import trace
from picker.facts import Decision, Outcome
from picker.trace import Trace, Tracing, parent
from tests.observability.fake_collector import FakeCollector
from tests.observability.test_push import value

TRACE, CLIENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CLIENT}-01"}
T0 = 1_700_000_000.0
HERE = resource({})


def decision(id_: str = "id", found: Trace | None = None, queue: float = 0.5) -> Decision:
    """Came to the picker 10 ms after it came to Envoy, waited, was decided in 2 ms."""
    return Decision(
        *(id_, T0 + 0.01 + queue, "ns/p", "m", "m-1", "chat", 1, "tenant", True, ("10.0.0.1:80", "10.0.0.2:80"), 2),
        *(100, 64, 400, queue + 0.002),
        queue=queue,
        trace=found or Tracing(0.0).of(id_, HEADERS),
    )


def outcome(of: Decision, **more: Any) -> Outcome:
    figures: dict[str, Any] = {"duration": 3.0, "ttft": 0.9, "output_tokens": 20, "input_tokens": 100, "attempts": 2}
    figures |= {"path": "/v1/chat/completions?key=SECRET", "method": "POST", "user_agent": "openai", "route": "ns/r/0"}
    common = (of.pool, of.model, of.target_model, of.objective, of.priority, of.fairness_id, of.streaming)
    return Outcome(of.id, T0, *common, 200, "", "10.0.0.2:80", trace=of.trace, **figures | more)


def made(found: Decision | None, ended: Outcome) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans(found, ended, HERE)}


def seconds(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return round(span.start_time / 1e9 - T0, 6), round(span.end_time / 1e9 - T0, 6)


def test_a_request_is_four_spans_in_the_clients_trace() -> None:
    of = decision()
    found = made(of, outcome(of))
    assert {name: seconds(span) for name, span in found.items()} == {
        "gateway.request": (0.0, 3.0),
        "queue": (0.01, 0.51),
        "schedule": (0.51, 0.512),
        "upstream": (0.512, 3.0),
    }
    assert {span.context.trace_id for span in found.values()} == {int(TRACE, 16)}
    whole = found.pop("gateway.request")
    assert whole.parent.span_id == int(CLIENT, 16)
    assert {span.parent.span_id for span in found.values()} == {whole.context.span_id}
    assert (whole.kind, found["upstream"].kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    told = parent({"traceparent": of.trace.header})
    assert int(told.span_id, 16) == found["upstream"].context.span_id  # what the server continues


def test_attributes_are_those_of_the_conventions() -> None:
    of = decision()
    found = made(of, outcome(of))
    whole = dict(found["gateway.request"].attributes or {})
    assert whole["http.request.method"] == "POST"
    assert whole["http.response.status_code"] == 200
    assert whole["url.path"] == "/v1/chat/completions"
    assert whole["gen_ai.operation.name"] == "chat"
    assert (whole["gen_ai.request.model"], whole["gen_ai.response.model"]) == ("m", "m-1")
    assert whole["gen_ai.usage.output_tokens"] == 20
    assert "SECRET" not in str(whole)
    (event,) = found["gateway.request"].events
    assert (event.name, event.timestamp) == ("gen_ai.first_token", (T0 + 0.9) * 1e9)
    upstream = dict(found["upstream"].attributes or {})
    assert (upstream["server.address"], upstream["server.port"]) == ("10.0.0.2", 80)
    assert upstream["http.request.resend_count"] == 1
    assert (found["schedule"].attributes or {})["penstock.endpoints"] == ("10.0.0.1:80", "10.0.0.2:80")


def test_a_request_that_did_not_wait_has_no_queue() -> None:
    of = decision(queue=0.0)
    assert set(made(of, outcome(of))) == {"gateway.request", "schedule", "upstream"}


def test_a_trace_of_our_own_has_no_parent() -> None:
    of = decision(found=Tracing(1.0).of("id", {}))
    assert made(of, outcome(of))["gateway.request"].parent is None


@pytest.mark.parametrize(
    ("reason", "server", "client"),
    [
        ("upstream_5xx", StatusCode.ERROR, StatusCode.ERROR),
        ("upstream_4xx", StatusCode.UNSET, StatusCode.ERROR),
        ("client_cancelled", StatusCode.UNSET, StatusCode.ERROR),
        ("", StatusCode.UNSET, StatusCode.UNSET),
    ],
)
def test_a_mistake_of_the_clients_is_no_error_of_the_server(
    reason: Any, server: StatusCode, client: StatusCode
) -> None:
    of = decision()
    found = made(of, replace(outcome(of), reason=reason))
    assert (found["gateway.request"].status.status_code, found["upstream"].status.status_code) == (server, client)


def test_a_request_that_the_picker_did_not_see_is_a_span_of_the_clients_trace() -> None:
    ended = replace(outcome(decision()), trace=parent(HEADERS), reason="no_route", status=404)
    found = made(None, ended)
    assert set(found) == {"gateway.request"}
    assert found["gateway.request"].context.span_id == int(trace.span("id", trace.REQUEST), 16)
    assert found["gateway.request"].parent.span_id == int(CLIENT, 16)


def test_a_clock_of_another_host_gives_no_span_of_negative_length() -> None:
    of = decision()
    for span in made(of, outcome(of, duration=0.1)).values():
        start, end = seconds(span)
        assert start <= end


class Exporter:
    def __init__(self) -> None:
        self.batches: list[list[ReadableSpan]] = []
        self.result, self.closed = SpanExportResult.SUCCESS, False

    def export(self, found: Any) -> SpanExportResult:
        self.batches.append(list(found))
        return self.result

    def shutdown(self) -> None:
        self.closed = True


async def test_only_sampled_requests_are_kept_and_batches_are_bounded() -> None:
    out, registry = Exporter(), Registry()
    doing = Spans(out, HERE, registry, batch=3)
    for number in range(7):
        of = decision(str(number))
        doing.decision(of)
        doing.outcome(outcome(of))
        ignored = decision(f"not-{number}", Tracing(0.0).of("x", {}))
        doing.decision(ignored)
        doing.outcome(outcome(ignored))
    assert not doing._open
    await doing.flush()
    assert [len(batch) for batch in out.batches] == [12, 12, 4]
    assert value(registry, c.EXPORTED_TOTAL.name, signal="traces") == 28


async def test_what_does_not_fit_is_dropped_and_counted() -> None:
    out, registry = Exporter(), Registry()
    doing = Spans(out, HERE, registry, capacity=2)
    for number in range(5):
        of = decision(str(number))
        doing.decision(of)
        doing.outcome(outcome(of))
    assert not doing._open
    assert value(registry, c.EXPORT_ERRORS_TOTAL.name, signal="traces", reason="dropped") == 3
    out.result = SpanExportResult.FAILURE
    await doing.flush()
    assert value(registry, c.EXPORT_ERRORS_TOTAL.name, signal="traces", reason="unavailable") == 8


async def test_spans_arrive_at_a_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = FakeCollector()
    with collector.http() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        out = exporter("trace")
        doing = Spans(out, HERE, Registry())
        of = decision()
        doing.decision(of)
        doing.outcome(outcome(of))
        await doing.flush()
        out.shutdown()
    assert not collector.wrong
    assert sorted(span.name for span in collector.spans) == ["gateway.request", "queue", "schedule", "upstream"]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_the_spans_of_an_envoy_that_traces_are_not_made_twice() -> None:
    envoys = Tracing(1.0).beneath(f"00-{TRACE}-{'a' * 16}-01").of("id", {})
    of = decision(found=envoys)
    found = made(of, outcome(of))
    assert set(found) == {"queue", "schedule"}
    assert {span.parent.span_id for span in found.values()} == {int("a" * 16, 16)}
    assert not made(None, outcome(of))  # refused: Envoy's own span says so


async def test_an_exporter_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Exporter):
        def export(self, found: Any) -> SpanExportResult:
            raise KeyError("not ours")

    registry = Registry()
    doing = Spans(Broken(), HERE, registry)
    doing.outcome(outcome(decision()))
    await doing.flush()
    assert value(registry, c.EXPORT_ERRORS_TOTAL.name, signal="traces", reason="other") == 1
    assert "not ours" in caplog.text
