"""Requests that were sent to an endpoint and have not ended: +1 at the decision, -1 at Envoy's access log entry.

Exactly one Outcome per request: from the Decision and its entry; from the entry alone (the picker was not asked, or another
one was); or from the Decision alone when no entry came before the deadline. A pure table: `now` is time.monotonic().
Source of the flags: Envoy `data.accesslog.v3.ResponseFlags`, named as in %RESPONSE_FLAGS%.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from picker.facts import Decision, Outcome, Reason
from picker.load import Load
from picker.ranks import answered, host_port
from picker.trace import parent
from xds_server.model.names import FAIRNESS_HEADER, MODEL_HEADER, OBJECTIVE_HEADER

TIMEOUT = 3600.0  # seconds; a stream that is idle ends after 15 minutes, one that is not may take longer
# A scrape says nothing of a request that was still on its way to the server, in seconds.
_SETTLE = 1.0
# Ended ids that are remembered, so that a late or repeated entry is not a second Outcome.
_REMEMBERED = 65536
_MOST = 100_000  # requests in flight: bounds memory, should entries stop coming
_REFUSED = "penstock:"  # in response_code_details: the picker answered, and reported, the request itself

_CANCELLED = frozenset({"DC", "DR"})
_TIMED_OUT = frozenset({"UT", "DT", "SI", "UMSDR"})
_RESET = frozenset({"UC", "UR", "LR", "UPE"})
_NOT_CONNECTED = frozenset({"UF", "UO", "DF"})


@dataclass(frozen=True, slots=True)
class LogEntry:
    """Envoy's access log entry of one HTTP request, as far as we care. Durations are seconds; "" and None: not known."""

    id: str = ""  # of the Decision; "" where the picker was not asked
    route: str = ""
    cluster: str = ""
    endpoint: str = ""  # "ip:port" that served
    status: int = 0
    details: str = ""  # %RESPONSE_CODE_DETAILS%
    flags: frozenset[str] = frozenset()
    time: float = 0.0  # time.time() when the request began
    duration: float | None = None
    ttft: float | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    model: str = ""
    method: str = ""
    path: str = ""
    request_id: str = ""
    user_agent: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)  # request headers that Envoy was told to log
    response_headers: Mapping[str, str] = field(default_factory=dict)
    request_bytes: int = 0
    response_bytes: int = 0
    attempts: int = 0  # 0: it never reached a server
    received: float | None = None  # the request's last byte
    sent: float | None = None  # its first byte to the server, of the last try


def reason(entry: LogEntry) -> Reason:
    """Why the request did not end well, "" if it did: Envoy's flags say more than the status, which they overrule."""
    flags, status = entry.flags, entry.status
    served = 0 < status < 400 or entry.details == "via_upstream"  # the client has seen the server's own headers
    if flags & _CANCELLED or status == 499:
        return "client_cancelled"
    if served and (flags & (_RESET | _TIMED_OUT) or "after_response_started" in entry.details):
        return "stream_aborted"
    if entry.details == "via_upstream" or 0 < status < 400:
        return "upstream_5xx" if status >= 500 else "upstream_4xx" if status >= 400 else ""
    if entry.details.startswith("ext_proc_error"):
        return "picker_unavailable"
    if flags & _TIMED_OUT:
        return "upstream_timeout"
    if flags & _NOT_CONNECTED:
        return "upstream_connect"
    if flags & _RESET:
        return "upstream_reset"
    if flags & {"UH", "NC"}:
        return "no_endpoints"
    return _answered_by_envoy(flags, status, named=bool(entry.headers.get(MODEL_HEADER)))


def _answered_by_envoy(flags: frozenset[str], status: int, *, named: bool) -> Reason:
    if "NR" in flags or status == 404:
        return "model_not_found" if named else "no_route"  # as the client is told: translate/replies.py
    if status == 413:
        return "body_too_large"
    if 400 <= status < 500:
        return "bad_request"
    if status == 504:
        return "upstream_timeout"
    return "no_endpoints" if status >= 500 else "upstream_reset"


@dataclass(slots=True)
class _Pending:
    decision: Decision
    tokens: int
    since: float
    deadline: float
    ghost: bool = False  # the server counts fewer than we do: its entry was probably lost


@dataclass(slots=True)
class _Sent:
    """What one endpoint has of ours; `count`, `tokens`, `sheddable` and `models` leave out the ghosts."""

    requests: dict[str, _Pending] = field(default_factory=dict)  # oldest first
    count: int = 0
    tokens: int = 0
    sheddable: int = 0  # of `count`: those of negative priority
    models: dict[str, int] = field(default_factory=dict)  # requests for each, as the server is asked
    completed: float = float("-inf")  # `since` of the latest sent among those that ended well

    def weigh(self, pending: _Pending, sign: int) -> None:
        self.count += sign
        self.tokens += sign * pending.tokens
        if pending.decision.priority < 0:
            self.sheddable += sign
        model = pending.decision.target_model
        left = self.models.get(model, 0) + sign
        if left:
            self.models[model] = left
        else:
            del self.models[model]


class InFlight:
    """The table. Endpoints are "ip:port"; every operation is O(1), `on_scrape` O(requests of that endpoint).

    `timeout`: seconds to wait for an access log entry, longer than the longest answer. `changed` is called with an endpoint
    whenever its count or tokens change.
    """

    def __init__(self, timeout: float = TIMEOUT, changed: Callable[[str], None] = lambda _: None) -> None:
        self._timeout = timeout
        self._changed = changed
        self._where: dict[str, str] = {}  # id -> endpoint, oldest first
        self._asked_for: dict[str, str] = {}  # x-request-id -> id
        self._sent: dict[str, _Sent] = {}
        self._ended: dict[str, None] = {}  # ids, and x-request-ids of what the picker has answered
        # By x-request-id: of clients that left while the picker was asked, of which it has not said anything yet. The log
        # comes over another connection than the question, and may overtake it.
        self._early: dict[str, LogEntry] = {}
        self._earlier: dict[str, LogEntry] = {}  # those that were early at the last sweep

    def __len__(self) -> int:
        return len(self._where)

    def started(self, decision: Decision, uncached_tokens: int, now: float) -> None:
        """A request was sent to `decision.endpoints[0]`; a second decision for the same id replaces the first."""
        if not decision.endpoints:
            raise ValueError(f"decision {decision.id} has no endpoint")
        self._take(decision.id)
        self._ended.pop(decision.id, None)
        endpoint = decision.endpoints[0]
        pending = _Pending(decision, uncached_tokens, now, now + self._timeout)
        sent = self._sent.setdefault(endpoint, _Sent())
        sent.requests[decision.id] = pending
        sent.weigh(pending, 1)
        self._where[decision.id] = endpoint
        if decision.request_id:
            self._asked_for[decision.request_id] = decision.id
        self._changed(endpoint)

    def finished(self, entry: LogEntry) -> Outcome | None:
        """The Outcome of a request that ended; None if it was reported before (refused by the picker, or given up as lost).

        A client that leaves while the picker decides has an entry without our id: its x-request-id is tried too. Where
        nothing is known of that either, the entry is kept until the picker says what it was asked: `early`, or `expired`.
        """
        why = reason(entry)
        left = not entry.id and bool(entry.flags & _CANCELLED)
        if left and entry.request_id in self._ended:
            del self._ended[entry.request_id]  # once: clients may use an id again
            return None
        id_ = entry.id or (self._asked_for.get(entry.request_id, "") if left else "")
        pending = self._take(id_, served=entry.endpoint if not why else "")
        if pending is not None:
            self._remember(pending.decision.id)
            return None if _REFUSED in entry.details else _outcome(pending.decision, entry, why)
        if _REFUSED in entry.details:
            self._ended.pop(entry.request_id, None)
            return None
        if entry.id and entry.id in self._ended:
            return None
        asked = not entry.cluster or entry.cluster.startswith("pool/")  # perhaps: Envoy names none before it routes
        if left and asked and entry.request_id and len(self._early) < _REMEMBERED:
            self._early[entry.request_id] = entry
            return None
        if entry.id:
            self._remember(entry.id)
        return _outcome_of_entry(entry, why)

    def early(self, request_id: str) -> LogEntry | None:
        """The entry, if it has come, of a client that left before the picker said what it had decided: for `finished`, now."""
        return self._early.pop(request_id, None) or self._earlier.pop(request_id, None)

    def reported(self, outcome: Outcome) -> None:
        """The picker has told this Outcome itself: an entry of a client that left is not a second one."""
        if outcome.request_id and self.early(outcome.request_id) is None:
            self._remember(outcome.request_id)

    def expired(self, now: float) -> list[Outcome]:
        """Requests whose entry never came, oldest first; also before their time where there are too many.

        And those of which only an entry came, early, and nothing more since the last call.
        """
        lost: list[Outcome] = [_outcome_of_entry(entry, reason(entry)) for entry in self._earlier.values()]
        self._earlier, self._early = self._early, {}
        while self._where:
            id_, endpoint = next(iter(self._where.items()))
            pending = self._sent[endpoint].requests[id_]
            if pending.deadline > now and len(self._where) <= _MOST:
                break
            self._take(id_)
            self._remember(id_)
            lost.append(_lost(pending.decision))
        return lost

    def count(self, endpoint: str) -> int:
        sent = self._sent.get(endpoint)
        return sent.count if sent else 0

    def sheddable(self, endpoint: str) -> int:
        """Those of negative priority among the requests that `count` counts."""
        sent = self._sent.get(endpoint)
        return sent.sheddable if sent else 0

    def tokens(self, endpoint: str) -> int:
        """Uncached prompt tokens of the requests that `count` counts."""
        sent = self._sent.get(endpoint)
        return sent.tokens if sent else 0

    def models(self, endpoint: str) -> Collection[str]:
        """The models that the requests which `count` counts are for."""
        sent = self._sent.get(endpoint)
        return sent.models if sent else ()

    def on_scrape(self, endpoint: str, load: Load, sent_at: float) -> None:
        """Stop counting what the server no longer has. `sent_at`: when the scrape was sent.

        A request is a ghost when the server counts fewer than we do AND one that was sent later has ended well. The second
        half matters: a hung engine reports stale zeros while requests hang, and there our count is the truth. A ghost is
        not reported: a slow client may still be reading, and its entry comes then.
        """
        sent = self._sent.get(endpoint)
        if sent is None:
            return
        old = [one for one in sent.requests.values() if one.since < sent_at - _SETTLE]
        excess = len(old) - (load.running + load.waiting)
        changed = False
        for one in old:
            ghost = excess > 0 and one.since < sent.completed
            excess -= ghost
            if ghost != one.ghost:
                one.ghost, changed = ghost, True
                sent.weigh(one, -1 if ghost else 1)
        if changed:
            self._changed(endpoint)

    def _take(self, id_: str, *, served: str = "") -> _Pending | None:
        """No longer pending; `served` is the endpoint that answered well, which may be a fallback."""
        endpoint = self._where.pop(id_, None)
        if endpoint is None:
            return None
        sent = self._sent[endpoint]
        pending = sent.requests.pop(id_)
        if not pending.ghost:
            sent.weigh(pending, -1)
        if self._asked_for.get(pending.decision.request_id) == id_:
            del self._asked_for[pending.decision.request_id]
        if served == host_port(endpoint):
            sent.completed = max(sent.completed, pending.since)
        if not sent.requests:  # endpoints come and go: the table must not grow with them
            del self._sent[endpoint]
        self._changed(endpoint)
        return pending

    def _remember(self, id_: str) -> None:
        self._ended[id_] = None
        if len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]


def _decided(decision: Decision) -> dict[str, Any]:
    """What the decision says of the Outcome."""
    return {
        "id": decision.id,
        "pool": decision.pool,
        "model": decision.model,
        "target_model": decision.target_model,
        "objective": decision.objective,
        "priority": decision.priority,
        "fairness_id": decision.fairness_id,
        "streaming": decision.streaming,
        "queue": decision.seconds,
        "schedule": max(decision.seconds - decision.queue, 0.0),
        "predicted_cached_tokens": decision.matched_tokens,
        **({"trace": decision.trace} if decision.trace.trace_id else {}),  # else a tracer of Envoy's may have named one
    }


def _outcome(decision: Decision, entry: LogEntry, why: Reason) -> Outcome:
    said = _decided(decision)
    if (
        entry.input_tokens and decision.prompt_tokens
    ):  # we estimate tokens, the server counts them: compare in its tokens
        said["predicted_cached_tokens"] = round(decision.matched_tokens / decision.prompt_tokens * entry.input_tokens)
    return replace(
        _outcome_of_entry(entry, why),
        **said,
        endpoint=answered(decision.endpoints, entry.endpoint),
        time=entry.time or decision.time,
        request_bytes=entry.request_bytes or decision.body_bytes,
    )


def _outcome_of_entry(entry: LogEntry, why: Reason) -> Outcome:
    kind, _, name = entry.cluster.partition("/")
    return Outcome(
        id=entry.id or entry.request_id,
        request_id=entry.request_id,
        time=entry.time,
        pool=name if kind == "pool" else "",
        model=entry.model or entry.headers.get(MODEL_HEADER, ""),
        target_model=entry.model or entry.headers.get(MODEL_HEADER, ""),
        objective=entry.headers.get(OBJECTIVE_HEADER, ""),
        priority=0,
        fairness_id=entry.headers.get(FAIRNESS_HEADER, ""),
        streaming=entry.response_headers.get("content-type", "").startswith("text/event-stream"),
        status=entry.status,
        reason=why,
        endpoint=entry.endpoint,
        route=entry.route,
        duration=entry.duration,
        ttft=entry.ttft,
        input_tokens=entry.input_tokens,
        cached_tokens=entry.cached_tokens,
        output_tokens=entry.output_tokens,
        request_bytes=entry.request_bytes,
        response_bytes=entry.response_bytes,
        attempts=entry.attempts,
        trace=parent(entry.headers),
        user_agent=entry.user_agent,
        path=entry.path,
        method=entry.method,
        received=entry.received,
        sent=entry.sent,
    )


def _lost(decision: Decision) -> Outcome:
    return Outcome(
        **_decided(decision),
        time=decision.time,
        status=0,
        reason="lost",
        endpoint=decision.endpoints[0],
        request_bytes=decision.body_bytes,
        request_id=decision.request_id,
    )
