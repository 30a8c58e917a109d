"""ExtProcSession against a model of Envoy: every mode, any chunking, waits, early ends, and messages that have no place."""

import json
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, strategies as st

from picker.facts import Decision, Outcome, Refused
from picker.session import (
    CHUNK,
    BodyReply,
    ChunkReply,
    Destination,
    Event,
    ExtProcSession,
    HeadersReply,
    ImmediateReply,
    MoreTime,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    TrailersReply,
)
from tests.picker.test_session import BODY, CHAT, GET, FakePicker, session_of


@dataclass
class Envoy:
    """What Envoy accepts: it fails the request on a reply that it does not expect."""

    mode: str
    response_duplex: bool
    destination: Destination | None = None
    sent: bytes = b""
    received: bytes = b""
    response: bytes = b""
    mutated: bytes | None = None
    ended: bool = False
    patient: bool = False
    immediate: ImmediateReply | None = None
    expects: list[tuple[type, str]] = field(default_factory=list)  # phases that wait for their reply, in order

    def take(self, reply: Reply) -> None:
        assert self.immediate is None, "nothing follows an immediate reply"
        if isinstance(reply, ImmediateReply):
            self.immediate = reply
            return
        if isinstance(reply, MoreTime):
            assert self.expects, "a message waits for its reply"
            assert not self.patient, "asked once"
            self.patient = True
            return
        if isinstance(reply, ChunkReply):
            assert len(reply.body) <= CHUNK
            if reply.phase == "request":
                assert self.mode == "duplex"
                assert self.destination is not None, "the headers come first"
                assert not self.ended
                self.received += reply.body
                self.ended = reply.end_of_stream
            else:
                assert self.response_duplex
                self.response += reply.body
            return
        assert (type(reply), reply.phase) == self.expects.pop(0)
        if isinstance(reply, BodyReply) and reply.phase == "request":
            self.mutated = reply.body
        if reply.destination is not None:
            assert self.destination is None, "decided once"
            self.destination = reply.destination


CHUNKS = st.lists(st.integers(0, 150_000), max_size=3)
BODIES = st.one_of(
    st.just(BODY),
    st.builds(
        lambda n: json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * n}]}).encode(),
        st.integers(0, 200_000),
    ),
    st.binary(max_size=20),
)


@dataclass(frozen=True)
class Case:
    mode: str
    response_duplex: bool
    body: bytes | None
    cuts: list[int]  # where the body is cut into messages
    trailers: bool
    headers: dict[str, str]
    leave: int  # after so many messages the client goes away


CASES = st.builds(
    Case,
    mode=st.sampled_from(["none", "buffered", "duplex"]),
    response_duplex=st.booleans(),
    body=st.none() | BODIES,
    cuts=CHUNKS,
    trailers=st.booleans(),
    headers=st.sampled_from([CHAT, GET, {":method": "POST", ":path": "/other"}]),
    leave=st.integers(0, 12),
)
PICKERS = st.builds(
    FakePicker, st.sampled_from(["", "n"]), st.sampled_from([None, Refused(503, "no_endpoints", "m")]), st.booleans()
)


@given(CASES, PICKERS)
def test_envoy_is_always_content(case: Case, picker: FakePicker) -> None:
    mode, body, trailers = case.mode, case.body, case.trailers
    envoy, session = Envoy(mode, case.response_duplex), ExtProcSession(picker, "ns/p", "id")
    steps = 0

    def send(event: Event, *expected: tuple[type, str]) -> bool:
        nonlocal steps
        if session.closed or steps == case.leave:
            return False
        steps += 1
        envoy.expects += expected
        for reply in session.receive(event, 1.0, 2.0):
            envoy.take(reply)
        if session.waiting is not None and steps != case.leave:
            for reply in session.resume(picker.answer(picker.asked[0])):
                envoy.take(reply)
        return envoy.immediate is None and not session.closed

    def converse() -> None:
        if not send(RequestHeaders(case.headers, body is None, mode, case.response_duplex), (HeadersReply, "request")):
            return
        if body is not None and mode == "buffered":
            send(RequestBody(body, not trailers), (BodyReply, "request"))
            return
        if body is not None and mode == "duplex":
            edges = sorted({min(cut, len(body)) for cut in case.cuts} | {0, len(body)})
            pieces = [body[a:b] for a, b in pairwise(edges)] or [b""]
            for index, piece in enumerate(pieces):
                if not send(RequestBody(piece, not trailers and index == len(pieces) - 1)):
                    return
            if trailers and not send(RequestTrailers(), (TrailersReply, "request")):
                return
        if not send(ResponseHeaders(), (HeadersReply, "response")):
            return
        for piece, end in ((b"r" * 100_000, False), (b"", True)):
            if not send(ResponseBody(piece, end), *(() if case.response_duplex else ((BodyReply, "response"),))):
                return

    converse()
    session.disconnect(3.0)
    if steps == 0:
        assert session.fact is None
        return
    assert len(picker.asked) <= 1
    assert isinstance(session.fact, (Decision, Outcome))  # exactly one, whatever happened
    assert (envoy.destination is not None) == isinstance(session.fact, Decision)
    if isinstance(session.fact, Outcome):
        assert (envoy.immediate is None) == (session.fact.reason == "client_cancelled")
        return
    names = (session.fact.model, session.fact.target_model)
    rewritten = names if names[0] and names[0] != names[1] else None
    assert envoy.destination == Destination(",".join(session.fact.endpoints), session.fact.id, (), rewritten=rewritten)
    forwarded = envoy.received if mode == "duplex" else envoy.mutated
    if forwarded is not None and rewritten is not None:
        assert json.loads(forwarded) == json.loads(body) | {"model": "n"}
    elif mode == "duplex":
        assert forwarded == (body or b"")
    if mode == "duplex" and body is not None:
        assert envoy.ended != trailers


EVENTS = st.one_of(
    st.builds(RequestHeaders, st.sampled_from([CHAT, GET, {}]), st.booleans(), st.sampled_from(["none", "buffered", "duplex"]), st.booleans()),
    st.builds(RequestBody, st.sampled_from([b"", BODY, b"x"]), st.booleans()),
    st.just(RequestTrailers()),
    st.builds(ResponseHeaders, st.booleans()),
    st.builds(ResponseBody, st.binary(max_size=3), st.booleans()),
    st.just(ResponseTrailers()),
)  # fmt: skip


@given(st.lists(EVENTS, max_size=8))
def test_no_order_of_messages_crashes_it(events: list[Event]) -> None:
    picker = FakePicker()
    session = session_of(picker)
    for event in events:
        was_closed, fact = session.closed, session.fact
        replies = session.receive(event, 1.0, 2.0)
        assert not (was_closed and replies)
        assert fact is None or session.fact is fact
    assert len(picker.asked) <= 1
