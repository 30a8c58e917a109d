"""The request log: one JSON line per request, from its Outcome. No prompt, no answer, no header values, no query string.

Field names are those of the OpenTelemetry semantic conventions (http, url, user_agent, gen_ai, error) where they exist,
`penstock.*` else; `severity`, `time`, `message`, `httpRequest` and the trace are the special fields of Cloud Logging, which its
agents lift out of the line (source: Cloud Logging, structured logging). Errors are always logged, successes at a rate. The event
loop never waits for the stream: what the buffer cannot hold is dropped and counted.
"""

from datetime import UTC, datetime
from typing import Any, BinaryIO

import orjson
import xxhash

from observability.catalogue import LOG_RECORDS_DROPPED_TOTAL
from observability.lines import Lines
from picker.facts import Outcome

_LONGEST = 128  # characters of a value that the client chose
_CLIENT = frozenset(
    {"client_cancelled", "shed_priority", "bad_request", "body_too_large", "model_not_found", "no_route"}
)
_CLIENT |= {"upstream_4xx"}


class RequestLog:
    """Tell `outcome` each of them, and run `lines`. For one event loop; only the writing itself is in a thread.

    `rate` of the successes is logged, chosen by the request's id: every replica and every run choose alike. `capacity` is
    lines that wait for the stream. `project` makes trace ids links in Cloud Logging.
    """

    def __init__(self, stream: BinaryIO, *, rate: float = 1.0, capacity: int = 1024, project: str = "") -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate is a share of the successes, in [0, 1], not {rate}")
        self._below = int(rate * 2**64)
        self._project = project
        self.lines: Lines[bytes] = Lines(stream, b"".join, capacity, LOG_RECORDS_DROPPED_TOTAL)

    def outcome(self, fact: Outcome) -> None:
        if self._wanted(fact):
            self.lines.offer(line(fact, self._project))

    def _wanted(self, outcome: Outcome) -> bool:
        return bool(outcome.reason) or xxhash.xxh3_64_intdigest(outcome.id.encode()) < self._below


def line(outcome: Outcome, project: str = "") -> bytes:
    """One line, newline included."""
    return orjson.dumps(record(outcome, project), option=orjson.OPT_APPEND_NEWLINE)


def record(outcome: Outcome, project: str = "") -> dict[str, Any]:
    """The record as plain data; a field that is not known is absent, so a query never meets null."""
    path = clean(outcome.path.partition("?")[0])
    status = outcome.status or None
    fields: dict[str, Any] = {
        "severity": _severity(outcome),
        "time": datetime.fromtimestamp(outcome.time, UTC).isoformat(timespec="milliseconds"),
        "message": " ".join(str(part) for part in (path, status, outcome.reason) if part),
        **_traced(outcome, project),
        "httpRequest": _http_request(outcome, path) if project else None,
        "http.request.method": outcome.method,
        "http.response.status_code": status,
        "http.request.body.size": outcome.request_bytes,
        "http.response.body.size": outcome.response_bytes,
        "http.route": outcome.route,
        "url.path": path,
        "user_agent.original": clean(outcome.user_agent),
        "error.type": outcome.reason,
        "gen_ai.request.model": clean(outcome.model),
        "gen_ai.response.model": clean(outcome.target_model),
        "gen_ai.usage.input_tokens": outcome.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": outcome.cached_tokens,
        "gen_ai.usage.output_tokens": outcome.output_tokens,
        "penstock.request_id": clean(outcome.id),
        "penstock.pool": outcome.pool,
        "penstock.endpoint": outcome.endpoint,
        "penstock.objective": clean(outcome.objective),
        "penstock.priority": outcome.priority,
        "penstock.fairness_id": clean(outcome.fairness_id),
        "penstock.streaming": outcome.streaming,
        "penstock.attempts": outcome.attempts,
        "penstock.duration_seconds": outcome.duration,
        "penstock.time_to_first_token_seconds": outcome.ttft,
        "penstock.queue_seconds": outcome.queue,
        "penstock.predicted_cached_tokens": outcome.predicted_cached_tokens,
    }
    return {name: value for name, value in fields.items() if value is not None and value != ""}


def _severity(outcome: Outcome) -> str:
    if not outcome.reason:
        return "INFO"
    return "WARNING" if is_clients(outcome.reason) else "ERROR"


def is_clients(reason: str) -> bool:
    """Whether the client can mend it."""
    return reason in _CLIENT


def linked(trace_id: str, project: str = "") -> dict[str, str]:
    """The special field of Cloud Logging that leads from a record to its trace."""
    found = f"projects/{project}/traces/{trace_id}" if project else trace_id
    return {"logging.googleapis.com/trace": found} if trace_id else {}


def _traced(outcome: Outcome, project: str) -> dict[str, Any]:
    """With a project, trace and log lead to each other in the console."""
    trace = outcome.trace
    if not trace.trace_id:
        return {}
    return {
        **linked(trace.trace_id, project),
        "logging.googleapis.com/spanId": trace.span_id,
        "logging.googleapis.com/trace_sampled": trace.sampled,
    }


def _http_request(outcome: Outcome, path: str) -> dict[str, Any]:
    """google.logging.type.HttpRequest in JSON: 64-bit numbers are strings, a duration ends in s."""
    fields = {
        "requestMethod": outcome.method,
        "requestUrl": path,
        "status": outcome.status or None,
        "requestSize": str(outcome.request_bytes),
        "responseSize": str(outcome.response_bytes),
        "userAgent": clean(outcome.user_agent),
        "serverIp": outcome.endpoint.rpartition(":")[0].strip("[]"),
        "latency": None if outcome.duration is None else f"{outcome.duration:.6f}s",
    }
    return {name: value for name, value in fields.items() if value}


def clean(value: str) -> str:
    """What a client chose, to be shown: no control characters (a line stays one line for every reader), not endless."""
    kept = value[:_LONGEST]
    return kept if kept.isprintable() else "".join(char if char.isprintable() else "?" for char in kept)
