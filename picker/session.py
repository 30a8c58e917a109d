"""ExtProcSession: the endpoint-picker protocol for one request, without a network, a clock or protobuf.

Events in, replies out. Source: Gateway API Inference Extension proposal 004; Envoy `service.ext_proc.v3`. Three ways to ask:

- none: Envoy sends headers alone; they are decided on at once.
- buffered (ours): headers, answered by "go on"; then the whole body, answered by the decision, after which the stream is over.
- duplex (FULL_DUPLEX_STREAMED, other gateways): nothing is answered before the body has ended; then headers with the decision,
  the body again in chunks, and later the response's phases, each as it came.

A request that has to wait gets its answer from `resume`; until then only a message that asks Envoy for more time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import orjson

from picker.ask import Answer, Ask, Denied, Waiting, denied
from picker.errors import BadRequest
from picker.facts import Decision, Outcome, Reason, Refused
from picker.inflight import LogEntry
from picker.ranks import host_port
from picker.request import MAX_BODY, Dialect, InferenceRequest, parse, without_body
from picker.splice import changed
from picker.trace import UNTRACED, Tracing
from xds_server.model.names import DECISION_HEADER

# Of a refusal: Anthropic's errors have no field for it, and llm-d's header tells less.
REASON_HEADER = "x-penstock-reason"
PLAIN = (("accept-encoding", ""),)  # Envoy reads no usage of what is compressed
GRACE = 5.0  # seconds that Envoy waits longer than the request may wait here: the answer has to arrive
CHUNK = 62000  # bytes: what Envoy is sure to take in one message (64 KiB), less the envelope

Mode = Literal["none", "buffered", "duplex"]
Phase = Literal["request", "response"]


@dataclass(frozen=True, slots=True)
class RequestHeaders:
    headers: Mapping[str, str]  # lower-case names, with :method and :path
    end_of_stream: bool = False
    mode: Mode = "buffered"
    response_duplex: bool = False  # how the response's body comes, if it comes
    subset: tuple[str, ...] | None = None  # x-gateway-destination-endpoint-subset; None where absent


@dataclass(frozen=True, slots=True)
class RequestBody:
    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class RequestTrailers:
    pass


@dataclass(frozen=True, slots=True)
class ResponseHeaders:
    end_of_stream: bool = False
    status: int = 0  # :status; 0 where it was not sent


@dataclass(frozen=True, slots=True)
class ResponseBody:
    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class ResponseTrailers:
    pass


Event = RequestHeaders | RequestBody | RequestTrailers | ResponseHeaders | ResponseBody | ResponseTrailers


@dataclass(frozen=True, slots=True)
class Destination:
    """The decision, as the proxy gets it: as a header and as dynamic metadata, equal."""

    endpoints: str  # "ip:port,ip:port", best first
    id: str
    headers: tuple[tuple[str, str], ...] = ()  # beside it; "" takes away what the client sent
    explained: bool = False  # the client is told the id
    rewritten: tuple[str, str] | None = None  # the model that was asked for, and the one that the server is asked for
    unasked_usage: bool = False  # the stream will tell its usage to us: not for the client, who did not ask
    insert: tuple[int, bytes] | None = None  # what the gateway writes into the body, behind so many bytes


@dataclass(frozen=True, slots=True)
class HeadersReply:
    phase: Phase
    destination: Destination | None = None


@dataclass(frozen=True, slots=True)
class BodyReply:
    """Answers a body that Envoy holds; `body` replaces it, None leaves it."""

    phase: Phase
    destination: Destination | None = None
    body: bytes | None = None
    content_length: bool = False  # the request has one: Envoy answers 500 unless it is set to what the new body has


@dataclass(frozen=True, slots=True)
class ChunkReply:
    """A piece of a body that Envoy gave away (FULL_DUPLEX_STREAMED)."""

    phase: Phase
    body: bytes
    end_of_stream: bool


@dataclass(frozen=True, slots=True)
class TrailersReply:
    phase: Phase
    destination: Destination | None = None


@dataclass(frozen=True, slots=True)
class ImmediateReply:
    """The client's answer, made here."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    details: str


@dataclass(frozen=True, slots=True)
class MoreTime:
    """Answers nothing: Envoy's message_timeout starts anew, with this length. Envoy takes it once for each of its messages."""

    seconds: float


Reply = HeadersReply | BodyReply | ChunkReply | TrailersReply | ImmediateReply | MoreTime


class Decider(Protocol):
    """picker.Picker, as the session sees it."""

    def decide(self, ask: Ask) -> Answer | Waiting: ...


@dataclass(slots=True)
class _Response:
    """What was seen of an answer. Times are monotonic seconds."""

    began: float | None = None  # the request did
    first: float | None = None  # byte of the body
    status: int = 0
    size: int = 0  # bytes of the body
    whole: bool = False

    def add(self, body: bytes, now: float) -> None:
        self.size += len(body)
        if self.first is None and body:
            self.first = now


class ExtProcSession:
    """One request. Feed each event to `receive`; send what it returns; end the stream once `closed`.

    `fact` is None until the request is decided: then, for good, the Decision or the Outcome of a refusal. While `waiting`, the
    id of the Ask, is not None, its answer is to be given to `resume`; if the stream ends, it is to be cancelled.
    """

    __slots__ = (
        *("_ask_usage", "_body", "_decider", "_held", "_id", "_inserts", "_max_body", "_pool", "_response", "_size"),
        *("_start", "_tracing", "closed", "fact", "waiting"),
    )

    def __init__(
        self,
        decider: Decider,
        pool: str,
        decision_id: str,
        max_body: int = MAX_BODY,
        tracing: Tracing = UNTRACED,
        *,
        ask_usage: bool = False,
        inserts: bool = False,
    ) -> None:
        """`ask_usage`: the gateway takes what streams tell of usage away from clients that did not ask, so all are asked;
        `inserts`: it can write into a body itself, which then need not go back.
        """
        self._decider = decider
        self._tracing = tracing
        self._pool = pool  # "ns/name", or "" where the gateway did not say
        self._id = decision_id
        self._max_body = max_body
        self._ask_usage = ask_usage
        self._inserts = inserts
        self._start: RequestHeaders | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._response = _Response()
        self._held: tuple[InferenceRequest, bytes, bool] | None = None  # request, body, trailers: while it waits
        self.waiting: str | None = None
        self.closed = False
        self.fact: Decision | Outcome | None = None

    def receive(self, event: Event, now: float, wall: float) -> list[Reply]:
        """The replies to one event; a message that has no place here gets none. `now` is monotonic, `wall` time.time()."""
        if self.closed or self.waiting is not None:  # a duplex gateway may say more, but not of the request
            return []
        match event:
            case RequestHeaders():
                return self._headers(event, now, wall) if self._start is None else []
            case RequestBody():
                return self._request_body(event, now, wall)
            case RequestTrailers():
                return self._decide(now, wall, trailers=True) if self.fact is None and self._start is not None else []
            case ResponseHeaders():
                self._response.status = event.status
                self.closed = self._response.whole = event.end_of_stream
                return [HeadersReply("response")]
            case ResponseBody():
                self._response.add(event.body, now)
                self.closed = self._response.whole = event.end_of_stream
                if self._start is not None and self._start.response_duplex:
                    return list(_chunks("response", event.body, event.end_of_stream))
                return [BodyReply("response")]
            case ResponseTrailers():
                self.closed = self._response.whole = True
                return [TrailersReply("response")]

    def ended(self, now: float) -> LogEntry | None:
        """What an access log would say of a decided request, once the stream is over; None where the log itself will.

        Only a gateway with FULL_DUPLEX_STREAMED bodies keeps the stream for as long as the request lives. Where it sends no
        response, that it ended is all that is known; where the response breaks off, that is put down to the client.
        """
        start, found = self._start, self._response
        if start is None or start.mode != "duplex" or not isinstance(self.fact, Decision):
            return None
        began = found.began if found.began is not None else now
        return LogEntry(
            id=self.fact.id,
            endpoint=host_port(self.fact.endpoints[0]),
            status=found.status,
            details="via_upstream",
            flags=frozenset() if found.whole or not found.status else frozenset({"DC"}),
            time=self.fact.time,
            duration=now - began,
            ttft=None if found.first is None else found.first - began,
            method=start.headers.get(":method", ""),
            path=start.headers.get(":path", "").partition("?")[0],
            request_id=start.headers.get("x-request-id", ""),
            user_agent=start.headers.get("user-agent", ""),
            request_bytes=self._size,
            response_bytes=found.size,
            attempts=1,
        )

    def disconnect(self, wall: float) -> None:
        """The stream ended. Before a decision that means that the client, or Envoy, gave up.

        Envoy's access log entry of it has no id of ours, so the Outcome has the id that both know: x-request-id.
        """
        self.closed = True
        if self.fact is None and self._start is not None:
            ask = self._unread(self._start, wall)
            found = denied(ask, Refused(0, "client_cancelled", "")).outcome
            self.fact = replace(found, id=ask.request.request_id or self._id)

    def _headers(self, event: RequestHeaders, now: float, wall: float) -> list[Reply]:
        self._start = event
        self._response.began = now
        if event.end_of_stream or event.mode == "none":
            return self._decide(now, wall)
        return [HeadersReply("request")] if event.mode == "buffered" else []

    def _request_body(self, event: RequestBody, now: float, wall: float) -> list[Reply]:
        start = self._start
        if self.fact is not None or start is None:
            return []
        self._size += len(event.body)
        if self._size > self._max_body:
            self._body.clear()
            error = BadRequest(f"the body is larger than {self._max_body} bytes", "", 413, "body_too_large")
            return self._bad(start, error, wall)
        self._body.append(event.body)
        # Buffered bodies come whole, in one message; it does not end the stream where trailers follow.
        return self._decide(now, wall) if event.end_of_stream or start.mode == "buffered" else []

    def _decide(self, now: float, wall: float, trailers: bool = False) -> list[Reply]:
        start = self._start
        assert start is not None  # noqa: S101 -- no caller without it
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        try:
            if start.mode == "none" and not start.end_of_stream:
                request = without_body(start.headers)
            else:
                request = parse(start.headers, body, self._max_body)
        except BadRequest as error:
            return self._bad(start, error, wall)
        trace = self._tracing.of(self._id, start.headers)
        found = self._decider.decide(Ask(request, self._pool, start.subset, self._id, now, wall, trace))
        self._held = (request, body, trailers)
        if isinstance(found, Waiting):
            self.waiting = found.id
            return [] if start.mode == "duplex" else [MoreTime(found.until - now + GRACE)]
        return self.resume(found)

    def resume(self, found: Answer) -> list[Reply]:
        """The replies to a request that was decided; `found` is the answer to it."""
        start, held = self._start, self._held
        if start is None or held is None or self.fact is not None:
            return []
        request, body, trailers = held
        self._held = self.waiting = None
        if isinstance(found, Denied):
            return self._refuse(found, request.dialect, "")
        self.fact = found
        rewrite = (request.model, found.target_model) if request.model not in ("", found.target_model) else None
        usage = request.usage if self._ask_usage else "told"
        inserts = self._inserts and start.mode == "buffered"
        rewritten, insert = changed(body, found.target_model if rewrite else "", usage, inserts=inserts)
        unasked = usage != "told"
        headers = (*found.headers, *found.trace.headers, *(PLAIN if unasked else ()))
        destination = Destination(
            ",".join(map(host_port, found.endpoints)), found.id, headers, found.explained, rewrite, unasked, insert
        )
        replies: list[Reply] = [HeadersReply("request", destination)]
        self.closed = start.mode != "duplex"
        if start.end_of_stream or start.mode == "none":
            return replies
        if start.mode == "buffered":
            if trailers:
                return [TrailersReply("request", destination)]
            told = rewritten is not None and "content-length" in start.headers
            return [BodyReply("request", destination, rewritten, told)]
        body = body if rewritten is None else rewritten
        if body or not trailers:
            replies += _chunks("request", body, not trailers)
        if trailers:
            replies.append(TrailersReply("request"))
        return replies

    def _bad(self, start: RequestHeaders, error: BadRequest, wall: float) -> list[Reply]:
        ask = self._unread(start, wall)
        found = denied(ask, Refused(error.status, error.reason, error.message))
        return self._refuse(found, ask.request.dialect, error.param)

    def _unread(self, start: RequestHeaders, wall: float) -> Ask:
        """What is known of a request whose body could not be read."""
        trace = self._tracing.of(self._id, start.headers)
        return Ask(without_body(start.headers, self._size), self._pool, start.subset, self._id, 0.0, wall, trace)

    def _refuse(self, found: Denied, dialect: Dialect, param: str) -> list[Reply]:
        self.fact, self.closed = found.outcome, True
        return [refusal(found.refused, dialect, param, self._id if found.explained else "")]


def _chunks(phase: Phase, body: bytes, end_of_stream: bool) -> Iterator[ChunkReply]:
    """`body` in pieces that fit one message; one empty piece where only the end is to be told."""
    last = max(0, len(body) - 1) // CHUNK
    for index in range(last + 1):
        piece = body[index * CHUNK : (index + 1) * CHUNK]
        yield ChunkReply(phase, piece, end_of_stream and index == last)


# --- refusals ---------------------------------------------------------------------------------------------------------

# Status -> `type` of the error object. Sources: OpenAI and Anthropic API references, error codes.
_OPENAI = {413: "invalid_request_error", 429: "rate_limit_error", 503: "service_unavailable_error"}
_ANTHROPIC = {404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error"}
_DROPPED: Mapping[Reason, str] = {  # llm-d router, pkg/common/error
    "shed_priority": "rejected-saturated",
    "queue_full": "rejected-saturated",
    "slo_unreachable": "rejected-saturated",
    "queue_ttl": "rejected-ttl-expired",
    "no_endpoints": "rejected-no-endpoints",
    "shutting_down": "rejected-shutting-down",
}


def refusal(refused: Refused, dialect: Dialect, param: str = "", decision: str = "") -> ImmediateReply:
    """What the client reads: an error object in the words of the API that it spoke. `decision`: the id that it is told."""
    error: dict[str, object]
    if dialect == "anthropic":
        kind = _ANTHROPIC.get(refused.status, "invalid_request_error")
        error = {"type": "error", "error": {"type": kind, "message": refused.message}}
    else:
        kind = _OPENAI.get(refused.status, "invalid_request_error")
        error = {"error": {"message": refused.message, "type": kind, "param": param or None, "code": refused.reason}}
    headers = [("content-type", "application/json"), (REASON_HEADER, refused.reason)]
    if refused.retry_after is not None:
        headers.append(("retry-after", str(refused.retry_after)))
    if refused.reason in _DROPPED:
        headers.append(("x-llm-d-request-dropped-reason", _DROPPED[refused.reason]))
    if decision:
        headers.append((DECISION_HEADER, decision))
    return ImmediateReply(refused.status, tuple(headers), orjson.dumps(error), f"penstock:{refused.reason}")
