"""Traces: the spans of a request, made from its facts after it has ended. Nothing is open while it runs, nothing is on its path.

    gateway.request (server)    request received -> last byte to the client
      queue                     waited in the gateway, where it did
      schedule                  the decision
      upstream (client)         decided -> last byte to the client; the server's own spans are its children

Their ids were made when the request came (picker/trace.py): the server was told that of `upstream`. Where Envoy has a tracer
of its own (XTelemetryPolicy), its spans are the first and the last of these, and queue and schedule join them. Attributes are those of the
semantic conventions for HTTP and generative AI; no prompt, no answer, no header but the user agent, no query string.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from observability.exporters.otlp import SCOPE, nanos
from observability.exporters.push import LAST, Account, Tally, log
from observability.hub import Hub
from observability.log import clean, is_clients
from observability.registry import Registry
from picker import trace
from picker.facts import Decision, Outcome
from picker.ranks import host_port

_MOST_OPEN = 20_000  # sampled requests whose outcome is not known yet
# gen_ai.operation.name, by the end of the path.
_OPERATIONS = {
    "/chat/completions": "chat",
    "/messages": "chat",
    "/responses": "chat",
    "/completions": "text_completion",
    "/embeddings": "embeddings",
}
Ended = tuple[Decision | None, Outcome]


class Exporter(Protocol):
    """opentelemetry-sdk's SpanExporter, as far as we care."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult: ...
    def shutdown(self) -> None: ...


class Spans:
    """Have it `listen`, and run `run` in a TaskGroup. For one event loop; spans are built and sent in a thread.

    `capacity` is requests that wait for the exporter, `batch` those of one message, `delay` seconds between two looks.
    """

    def __init__(
        self,
        exporter: Exporter,
        resource: Resource,
        registry: Registry,
        *,
        capacity: int = 2048,
        batch: int = 512,
        delay: float = 5.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._exporter, self._resource = exporter, resource
        self._capacity, self._batch, self._delay, self._clock = capacity, batch, delay, clock
        self._open: dict[str, Decision] = {}
        self._ended: deque[Ended] = deque()
        self._account = Account(registry, "otlp", "traces")

    def listen(self, hub: Hub) -> None:
        hub.on(Decision, self.decision)
        hub.on(Outcome, self.outcome)

    def decision(self, fact: Decision) -> None:
        if not fact.trace.sampled:
            return
        if len(self._open) >= _MOST_OPEN:
            del self._open[next(iter(self._open))]  # its request span is made all the same
        self._open[fact.id] = fact

    def outcome(self, fact: Outcome) -> None:
        if not fact.trace.sampled:
            return
        decision = self._open.pop(fact.id, None)
        if len(self._ended) < self._capacity:
            self._ended.append((decision, fact))
        else:
            self._account.failed("dropped", 1)

    async def run(self) -> None:
        """Send until cancelled; what is there then is still sent."""
        try:
            while True:
                await asyncio.sleep(self._delay)
                await self.flush()
        finally:
            try:
                async with asyncio.timeout(LAST):
                    await self.flush()
            except TimeoutError:
                self._account.failed("dropped", len(self._ended))
            finally:
                self._exporter.shutdown()

    async def flush(self) -> None:
        """Send all that is there."""
        while ended := self.take():
            start = self._clock()
            tally = await asyncio.to_thread(self._send, ended)
            self._account.book(tally, self._clock() - start)

    def take(self) -> list[Ended]:
        """The next batch of requests that have ended, oldest first; they are here no longer."""
        return [self._ended.popleft() for _ in range(min(len(self._ended), self._batch))]

    def _send(self, ended: Sequence[Ended]) -> Tally:
        tally = Tally()
        try:
            made = [span for decision, outcome in ended for span in spans(decision, outcome, self._resource)]
            if self._exporter.export(made) is SpanExportResult.SUCCESS:
                tally.written = len(made)
            else:
                tally.failed["unavailable"] = len(made)
        except Exception:  # noqa: BLE001  our mistake, or the exporter's: it must not end the serving of requests
            log.exception("spans of %d requests are lost", len(ended))
            tally.failed["other"] = len(ended)
        return tally


def spans(decision: Decision | None, outcome: Outcome, resource: Resource) -> Iterator[ReadableSpan]:
    """Those of one request; without a decision, what the outcome alone tells."""
    found, began = outcome.trace, outcome.time
    ended = began + (outcome.duration or 0.0)
    whole = _context(found.trace_id, found.span_id)
    envoys = not found.header and found.span_id != found.parent_id
    if found.span_id == found.parent_id:  # the picker was not asked: nobody has named our span yet
        whole = _context(found.trace_id, trace.span(outcome.id, trace.REQUEST))
    common: dict[str, Any] = {"resource": resource, "instrumentation_scope": SCOPE}
    events = [Event("gen_ai.first_token", timestamp=nanos(began + outcome.ttft))] if outcome.ttft is not None else []
    if decision is not None:
        made = _within(decision, outcome, whole, ended, common)
        yield from (span for span in made if not envoys or span.name != trace.UPSTREAM)
    if envoys:
        return
    yield ReadableSpan(
        trace.REQUEST,
        whole,
        _context(found.trace_id, found.parent_id) if found.parent_id else None,
        attributes=_request(outcome),
        events=events,
        kind=SpanKind.SERVER,
        status=_status(outcome, client=False),
        start_time=nanos(began),
        end_time=nanos(ended),
        **common,
    )


def _within(
    decision: Decision, outcome: Outcome, whole: SpanContext, ended: float, common: dict[str, Any]
) -> Iterator[ReadableSpan]:
    came = decision.time - decision.queue
    left = came + max(decision.seconds, decision.queue)
    trace_id = decision.trace.trace_id

    def child(name: str, start: float, end: float, attributes: dict[str, Any], **more: Any) -> ReadableSpan:
        context = _context(trace_id, trace.span(decision.id, name))
        times: dict[str, Any] = {"start_time": nanos(start), "end_time": nanos(max(start, end))}
        return ReadableSpan(name, context, whole, attributes=_known(attributes), **times, **common, **more)

    if decision.queue:
        yield child(trace.QUEUE, came, decision.time, {"penstock.priority": decision.priority})
    yield child(trace.SCHEDULE, decision.time, left, _schedule(decision))
    yield child(
        trace.UPSTREAM,
        left,
        ended,
        _upstream(outcome),
        kind=SpanKind.CLIENT,
        status=_status(outcome, client=True),
    )


def _request(outcome: Outcome) -> dict[str, Any]:
    return _known(
        {
            **_both(outcome),
            "http.route": outcome.route,
            "url.path": clean(outcome.path.partition("?")[0]),
            "user_agent.original": clean(outcome.user_agent),
            "http.request.body.size": outcome.request_bytes or None,
            "http.response.body.size": outcome.response_bytes or None,
            "penstock.request_id": clean(outcome.id),
            "penstock.pool": outcome.pool,
            "penstock.objective": clean(outcome.objective),
            "penstock.priority": outcome.priority,
            "penstock.fairness_id": clean(outcome.fairness_id),
        }
    )


def _schedule(decision: Decision) -> dict[str, Any]:
    return {
        "penstock.pool": decision.pool,
        "penstock.candidates": decision.candidates,
        "penstock.endpoints": decision.endpoints,
        "penstock.prompt_tokens": decision.prompt_tokens,
        "penstock.predicted_cached_tokens": decision.matched_tokens,
    }


def _upstream(outcome: Outcome) -> dict[str, Any]:
    address, _, port = host_port(outcome.endpoint).rpartition(":")
    return {
        **_both(outcome),
        "server.address": address.strip("[]"),
        "server.port": int(port) if port.isdigit() else None,
        "http.request.resend_count": outcome.attempts - 1 if outcome.attempts > 1 else None,
    }


def _both(outcome: Outcome) -> dict[str, Any]:
    """Of a request to the gateway, and of that to the server. Where a server has several models, `response.model` is the one
    that answered; the conventions are a draft, so the names are data of this function and of nothing else.
    """
    path = outcome.path.partition("?")[0]
    return {
        "http.request.method": outcome.method,
        "http.response.status_code": outcome.status or None,
        "error.type": outcome.reason,
        "gen_ai.operation.name": next((name for end, name in _OPERATIONS.items() if path.endswith(end)), ""),
        "gen_ai.request.model": clean(outcome.model),
        "gen_ai.request.stream": outcome.streaming,
        "gen_ai.response.model": clean(outcome.target_model),
        "gen_ai.usage.input_tokens": outcome.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": outcome.cached_tokens,
        "gen_ai.usage.output_tokens": outcome.output_tokens,
    }


def _known(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None and value != ""}


def _status(outcome: Outcome, *, client: bool) -> Status:
    """An error of the client's is none of the server's, say the conventions; seen from the client, every error is one."""
    failed = bool(outcome.reason) and (client or not is_clients(outcome.reason))
    return Status(StatusCode.ERROR, outcome.reason) if failed else Status()


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
