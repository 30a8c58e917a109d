"""ExtProcSession by example: every mode, refusals, waits and early ends. Its laws: test_session_laws.py."""

import json
from dataclasses import replace
from typing import Any

import pytest

from picker.facts import Decision, Outcome, Refused
from picker.inflight import reason
from picker.picker import Answer, Ask, Waiting, denied
from picker.session import (
    CHUNK,
    GRACE,
    BodyReply,
    ChunkReply,
    Destination,
    Event,
    ExtProcSession,
    HeadersReply,
    ImmediateReply,
    Mode,
    MoreTime,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    TrailersReply,
    refusal,
)
from picker.splice import LARGE
from picker.trace import Tracing, span

CHAT = {":method": "POST", ":path": "/v1/chat/completions"}
GET = {":method": "GET", ":path": "/v1/models"}
BODY = b'{"model":"m","messages":[]}'
WHERE = Destination("10.0.0.1:80,10.0.0.2:80", "id")


class FakePicker:
    """Decides on every request, or refuses every one; at once, or after it has waited."""

    def __init__(self, target: str = "", refused: Refused | None = None, waits: bool = False) -> None:
        self.target, self.refused, self.waits = target, refused, waits
        self.asked: list[Ask] = []

    def decide(self, ask: Ask) -> Answer | Waiting:
        self.asked.append(ask)
        return Waiting(ask.id, ask.now + 60.0) if self.waits else self.answer(ask)

    def answer(self, ask: Ask) -> Answer:
        if self.refused is not None:
            return denied(ask, self.refused)
        r = ask.request
        return Decision(ask.id, ask.wall, "ns/p", r.model, self.target or r.model, "", 0, "", r.streaming,
                        ("10.0.0.1:80", "10.0.0.2:80"), 2, 0, 0, r.body_bytes, 0.0)  # fmt: skip


def run(session: ExtProcSession, *events: Event) -> list[Reply]:
    return [reply for event in events for reply in session.receive(event, 1.0, 2.0)]


def session_of(picker: FakePicker | None = None, max_body: int = 10**6) -> ExtProcSession:
    return ExtProcSession(picker or FakePicker(), "ns/p", "id", max_body)


# --- examples ---------------------------------------------------------------------------------------------------------


def test_buffered_is_one_decision_and_the_end() -> None:
    picker = FakePicker()
    session = session_of(picker)
    assert run(session, RequestHeaders(CHAT, subset=("10.0.0.1",))) == [HeadersReply("request")]
    assert not session.closed
    assert session.fact is None
    assert run(session, RequestBody(BODY, True)) == [BodyReply("request", WHERE)]
    assert session.closed
    assert isinstance(session.fact, Decision)
    (asked,) = picker.asked
    assert (asked.pool, asked.subset, asked.id, asked.now, asked.wall) == ("ns/p", ("10.0.0.1",), "id", 1.0, 2.0)


def test_a_buffered_body_is_whole_even_if_trailers_follow() -> None:
    session = session_of()
    assert run(session, RequestHeaders(CHAT), RequestBody(BODY, False))[1:] == [BodyReply("request", WHERE)]
    assert run(session, RequestTrailers()) == []


def test_trailers_without_a_body() -> None:
    headers = {":method": "POST", ":path": "/other"}
    assert run(session_of(), RequestHeaders(headers), RequestTrailers())[1:] == [TrailersReply("request", WHERE)]


@pytest.mark.parametrize("mode", ["none", "buffered", "duplex"])
def test_a_request_without_a_body_is_decided_on_its_headers(mode: Any) -> None:
    session = session_of()
    assert run(session, RequestHeaders(GET, True, mode)) == [HeadersReply("request", WHERE)]
    assert session.closed == (mode != "duplex")


def test_a_stream_that_would_tell_no_usage_is_asked_to_where_it_is_hidden_again() -> None:
    silent = b'{"model":"m","messages":[],"stream":true}'
    ask = b'{"stream_options":{"include_usage":true},'
    where = replace(WHERE, headers=(("accept-encoding", ""),), unasked_usage=True)

    def replies(body: bytes, target: str = "", mode: Mode = "buffered", *, ask_usage: bool = True) -> list[Reply]:
        session = ExtProcSession(FakePicker(target), "ns/p", "id", ask_usage=ask_usage)
        return run(session, RequestHeaders(CHAT | {"content-length": "1"}, mode=mode), RequestBody(body, True))[-1:]

    assert replies(silent) == [BodyReply("request", where, ask + silent[1:], content_length=True)]
    both = replace(where, rewritten=("m", "n"))
    rewritten = silent.replace(b'"m"', b'"n"')
    assert replies(silent, "n") == [BodyReply("request", both, ask + rewritten[1:], content_length=True)]
    assert replies(silent, mode="duplex") == [ChunkReply("request", ask + silent[1:], True)]
    assert replies(silent, ask_usage=False) == replies(BODY) == [BodyReply("request", WHERE)]
    asked = ask + silent[1:]
    assert replies(asked) == [BodyReply("request", WHERE)]


def test_a_large_body_does_not_go_back_where_the_gateway_can_write_into_it() -> None:
    body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%b"}]}' % (b"x" * LARGE)
    text = b'"stream_options":{"include_usage":true},'
    where = replace(WHERE, headers=(("accept-encoding", ""),), unasked_usage=True)

    def reply(mode: Mode, target: str = "") -> Reply:
        session = ExtProcSession(FakePicker(target), "ns/p", "id", ask_usage=True, inserts=True)
        return run(session, RequestHeaders(CHAT | {"content-length": "1"}, mode=mode), RequestBody(body, True))[1]

    assert reply("buffered") == BodyReply("request", replace(where, insert=(1, text)))
    both = replace(where, rewritten=("m", "n"))
    new = body[:1] + text + body[1:].replace(b'"m"', b'"n"', 1)
    assert reply("buffered", "n") == BodyReply("request", both, new, content_length=True)
    assert reply("duplex") == ChunkReply("request", (body[:1] + text + body[1:])[:CHUNK], False)


def test_where_no_body_is_sent_the_headers_are_all() -> None:
    assert run(session_of(), RequestHeaders(CHAT, False, "none")) == [HeadersReply("request", WHERE)]


def test_a_rewritten_model_travels_in_the_body_and_both_names_in_the_decision() -> None:
    where = replace(WHERE, rewritten=("m", "n"))
    replies = run(session_of(FakePicker("n")), RequestHeaders(CHAT), RequestBody(BODY, True))
    assert replies[1] == BodyReply("request", where, b'{"model":"n","messages":[]}')
    told = CHAT | {"content-length": "27"}
    replies = run(session_of(FakePicker("n")), RequestHeaders(told), RequestBody(BODY, True))
    assert replies[1] == BodyReply("request", where, b'{"model":"n","messages":[]}', content_length=True)
    assert run(session_of(), RequestHeaders(told), RequestBody(BODY, True))[1] == BodyReply("request", WHERE)
    replies = run(session_of(FakePicker("n")), RequestHeaders(CHAT, mode="duplex"), RequestBody(BODY, True))
    assert replies[1] == ChunkReply("request", b'{"model":"n","messages":[]}', True)


def test_duplex_defers_and_echoes() -> None:
    session = session_of()
    assert run(session, RequestHeaders(CHAT, mode="duplex", response_duplex=True), RequestBody(BODY[:5], False)) == []
    assert run(session, RequestBody(BODY[5:], True)) == [
        HeadersReply("request", WHERE),
        ChunkReply("request", BODY, True),
    ]
    assert run(session, ResponseHeaders(), ResponseBody(b"data: 1", False), ResponseBody(b"", True)) == [
        HeadersReply("response"),
        ChunkReply("response", b"data: 1", False),
        ChunkReply("response", b"", True),
    ]
    assert session.closed


def test_the_end_of_a_duplex_stream_is_what_an_access_log_would_tell() -> None:
    whole, broken, unseen = session_of(), session_of(), session_of()
    for session in (whole, broken, unseen):
        run(session, RequestHeaders(CHAT, mode="duplex", response_duplex=True), RequestBody(BODY, True))
    run(whole, ResponseHeaders(status=200), ResponseBody(b"abc", False), ResponseBody(b"", True))
    run(broken, ResponseHeaders(status=200), ResponseBody(b"abc", False))
    told = [session.ended(9.0) for session in (whole, broken, unseen)]
    assert [(entry.status, entry.response_bytes, reason(entry)) for entry in told if entry] == [
        (200, 3, ""),
        (200, 3, "client_cancelled"),
        (0, 0, ""),  # the gateway sends no response: that it ended is all we know
    ]
    buffered, refused = session_of(), session_of()
    run(buffered, RequestHeaders(CHAT), RequestBody(BODY, True))
    run(refused, RequestHeaders(CHAT, mode="duplex"), RequestBody(b"{", True))
    assert [session.ended(9.0) for session in (buffered, refused, session_of())] == [None, None, None]


def test_a_response_body_that_envoy_keeps_is_only_acknowledged() -> None:
    session = session_of()
    run(session, RequestHeaders(GET, True, "duplex"))
    assert run(session, ResponseHeaders(), ResponseBody(b"x", False), ResponseTrailers()) == [
        HeadersReply("response"),
        BodyReply("response"),
        TrailersReply("response"),
    ]


def test_bad_requests_are_answered_in_the_clients_dialect() -> None:
    session = session_of()
    (reply,) = run(session, RequestHeaders(CHAT), RequestBody(b'{"model":3}', True))[1:]
    assert isinstance(reply, ImmediateReply)
    assert (reply.status, reply.details) == (400, "penstock:bad_request")
    error = json.loads(reply.body)["error"]
    assert error == {
        "message": "the field 'model' must be a string that is not empty",
        "type": "invalid_request_error",
        "param": "model",
        "code": "bad_request",
    }
    assert isinstance(session.fact, Outcome)
    assert (session.fact.status, session.fact.reason, session.fact.request_bytes) == (400, "bad_request", 11)
    anthropic = {":method": "POST", ":path": "/v1/messages"}
    (reply,) = run(session_of(), RequestHeaders(anthropic), RequestBody(b"", True))[1:]
    assert json.loads(reply.body) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "the body is empty; JSON is needed"},
    }


def test_a_body_that_is_too_large_is_refused_before_its_end() -> None:
    session = session_of(max_body=10)
    assert run(session, RequestHeaders(CHAT, mode="duplex"), RequestBody(b"x" * 10, False)) == []
    (reply,) = run(session, RequestBody(b"x", False))
    assert (reply.status, session.fact.reason, session.closed) == (413, "body_too_large", True)
    assert run(session, RequestBody(b"x", True)) == []


@pytest.mark.parametrize(
    ("refused", "headers", "kind"),
    [
        (Refused(429, "shed_priority", "m", 3), {"retry-after": "3", "x-llm-d-request-dropped-reason": "rejected-saturated"}, "rate_limit_error"),
        (Refused(503, "no_endpoints", "m"), {"x-llm-d-request-dropped-reason": "rejected-no-endpoints"}, "service_unavailable_error"),
        (Refused(404, "model_not_found", "m"), {}, "invalid_request_error"),
    ],
)  # fmt: skip
def test_refusals(refused: Refused, headers: dict[str, str], kind: str) -> None:
    session = session_of(FakePicker(refused=refused))
    (reply,) = run(session, RequestHeaders(GET, True))
    told = {"content-type": "application/json", "x-penstock-reason": refused.reason}
    assert dict(reply.headers) == told | headers
    assert json.loads(reply.body)["error"]["type"] == kind
    assert (reply.status, reply.details) == (refused.status, f"penstock:{refused.reason}")
    assert session.fact.reason == refused.reason
    assert json.loads(refusal(refused, "anthropic").body)["type"] == "error"


def test_an_early_end_is_an_outcome_once() -> None:
    session = session_of()
    run(session, RequestHeaders(CHAT, mode="duplex"), RequestBody(b"abc", False))
    session.disconnect(3.0)
    fact = session.fact
    assert (fact.reason, fact.status, fact.time, fact.request_bytes) == ("client_cancelled", 0, 3.0, 3)
    session.disconnect(4.0)
    assert session.fact is fact
    known = session_of()
    run(known, RequestHeaders({**CHAT, "x-request-id": "r-1"}))
    known.disconnect(3.0)
    assert known.fact.id == "r-1"  # Envoy's entry of it has no other
    nothing = session_of()
    nothing.disconnect(3.0)
    assert nothing.fact is None  # no request, no fact


MORE = MoreTime(60.0 + GRACE)


@pytest.mark.parametrize(
    ("events", "before", "after"),
    [
        ([RequestHeaders(GET, True)], [MORE], [HeadersReply("request", WHERE)]),
        ([RequestHeaders(GET, False, "none")], [MORE], [HeadersReply("request", WHERE)]),
        ([RequestHeaders(CHAT), RequestBody(BODY, True)], [HeadersReply("request"), MORE], [BodyReply("request", WHERE)]),
        ([RequestHeaders({":path": "/other"}), RequestTrailers()], [HeadersReply("request"), MORE], [TrailersReply("request", WHERE)]),
        ([RequestHeaders(CHAT, mode="duplex"), RequestBody(BODY, True)], [], [HeadersReply("request", WHERE), ChunkReply("request", BODY, True)]),
    ],
)  # fmt: skip
def test_a_request_that_waits_asks_for_more_time_and_is_answered_later(
    events: list[Event], before: list[Reply], after: list[Reply]
) -> None:
    picker = FakePicker(waits=True)
    session = session_of(picker)
    assert run(session, *events) == before
    assert (session.waiting, session.closed, session.fact) == ("id", False, None)
    assert session.resume(picker.answer(picker.asked[0])) == after
    assert (session.waiting, isinstance(session.fact, Decision)) == (None, True)
    assert session.resume(picker.answer(picker.asked[0])) == []  # once


def test_a_request_that_waited_may_be_refused_or_left() -> None:
    refused = FakePicker(refused=Refused(429, "queue_ttl", "m", 2), waits=True)
    session = session_of(refused)
    run(session, RequestHeaders({":method": "POST", ":path": "/v1/messages"}), RequestBody(BODY, True))
    (reply,) = session.resume(refused.answer(refused.asked[0]))
    assert (reply.status, json.loads(reply.body)["error"]["type"]) == (429, "rate_limit_error")
    assert dict(reply.headers)["x-llm-d-request-dropped-reason"] == "rejected-ttl-expired"
    left = session_of(FakePicker(waits=True))
    run(left, RequestHeaders(GET, True))
    left.disconnect(3.0)
    assert left.fact.reason == "client_cancelled"


def test_what_comes_while_it_waits_has_no_place() -> None:
    session = session_of(FakePicker(waits=True))
    run(session, RequestHeaders(CHAT, mode="duplex"), RequestBody(BODY, True))
    assert run(session, RequestBody(BODY, True), RequestTrailers(), ResponseHeaders()) == []
    assert not session.closed


def test_whoever_asked_why_is_told_the_id_also_of_a_refusal() -> None:
    class Explaining(FakePicker):
        def decide(self, ask: Ask) -> Any:
            return replace(self.answer(ask), explained=True)

    for picker in (Explaining(), FakePicker()):
        (reply,) = run(ExtProcSession(picker, "ns/pool", "id"), RequestHeaders(GET, end_of_stream=True))
        assert reply.destination.explained == isinstance(picker, Explaining)
    full = Refused(429, "queue_full", "too many")
    for picker in (Explaining(refused=full), FakePicker(refused=full)):
        (reply,) = run(ExtProcSession(picker, "ns/pool", "id"), RequestHeaders(GET, end_of_stream=True))
        assert (("penstock-decision", "id") in reply.headers) == isinstance(picker, Explaining)


# --- traces -----------------------------------------------------------------------------------------------------------


class TracedPicker(FakePicker):
    def answer(self, ask: Ask) -> Answer:
        found = super().answer(ask)
        return replace(found, trace=ask.trace) if isinstance(found, Decision) else found


def test_the_server_is_told_of_the_span_that_it_continues() -> None:
    client = {**CHAT, "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    session = ExtProcSession(TracedPicker(), "ns/p", "id", tracing=Tracing(0.0))
    _, reply = run(session, RequestHeaders(client), RequestBody(BODY, True))
    assert isinstance(session.fact, Decision)
    told = f"00-0af7651916cd43dd8448eb211c80319c-{span('id', 'upstream')}-01"
    assert reply == BodyReply("request", replace(WHERE, headers=(("traceparent", told),)))


def test_a_refusal_belongs_to_a_trace_too() -> None:
    session = ExtProcSession(FakePicker(), "ns/p", "id", tracing=Tracing(1.0))
    run(session, RequestHeaders(CHAT), RequestBody(b"no JSON", True))
    assert isinstance(session.fact, Outcome)
    assert session.fact.trace == Tracing(1.0).of("id", {})
    assert session.fact.method == "POST"
