"""Exactly one Outcome per request, and counts that never leak."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.facts import Decision, Outcome
from picker.inflight import InFlight, LogEntry, reason
from picker.load import Load
from picker.trace import Trace


def decision(id_: str, *endpoints: str) -> Decision:
    return Decision(
        id=id_,
        time=1000.0,
        pool="ns/pool",
        model="m",
        target_model="m-1",
        objective="chat",
        priority=1,
        fairness_id="tenant",
        streaming=True,
        endpoints=endpoints or ("a:1", "b:1"),
        candidates=2,
        prompt_tokens=100,
        matched_tokens=64,
        body_bytes=400,
        seconds=0.25,
    )


def ended(id_: str, **fields: object) -> LogEntry:
    return LogEntry(**{"id": id_, "status": 200, "details": "via_upstream", "endpoint": "a:1", "time": 999.0, **fields})  # type: ignore[arg-type]


def test_outcome_of_decision_and_entry() -> None:
    table = InFlight()
    table.started(decision("1"), 36, now=0.0)
    assert (table.count("a:1"), table.tokens("a:1"), len(table)) == (1, 36, 1)
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    outcome = table.finished(
        ended(
            "1",
            duration=2.0,
            ttft=0.2,
            input_tokens=101,
            cached_tokens=64,
            output_tokens=9,
            headers=headers,
            received=0.01,
            sent=0.3,
        )
    )
    assert outcome == Outcome(
        id="1",
        time=999.0,
        pool="ns/pool",
        model="m",
        target_model="m-1",
        objective="chat",
        priority=1,
        fairness_id="tenant",
        streaming=True,
        status=200,
        reason="",
        endpoint="a:1",
        duration=2.0,
        ttft=0.2,
        queue=0.25,
        input_tokens=101,
        cached_tokens=64,
        output_tokens=9,
        predicted_cached_tokens=65,  # 64 of 100 as we estimate them, of 101 as the server counts
        request_bytes=400,
        attempts=0,
        trace=Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "b7ad6b7169203331", True),
        schedule=0.25,
        received=0.01,
        sent=0.3,
    )
    assert (table.count("a:1"), table.tokens("a:1"), len(table)) == (0, 0, 0)


def test_another_endpoint_served_and_nothing_leaks() -> None:
    table = InFlight()
    table.started(decision("1"), 10, now=0.0)
    outcome = table.finished(ended("1", endpoint="b:1", attempts=2))
    assert outcome is not None
    assert (outcome.endpoint, outcome.attempts) == ("b:1", 2)
    assert (table.count("a:1"), table.count("b:1"), table.tokens("a:1")) == (0, 0, 0)


def test_lost_after_the_deadline_and_a_late_entry_is_not_a_second_outcome() -> None:
    table = InFlight(timeout=10.0)
    table.started(decision("1"), 10, now=0.0)
    table.started(decision("2"), 10, now=5.0)
    assert table.expired(now=9.0) == []
    lost = table.expired(now=10.0)
    assert [(one.id, one.reason, one.status, one.endpoint) for one in lost] == [("1", "lost", 0, "a:1")]
    assert table.finished(ended("1")) is None
    assert table.count("a:1") == 1


def test_an_entry_alone_is_an_outcome_once() -> None:
    table = InFlight()
    entry = ended(
        "", cluster="pool/ns/p", model="m", request_id="r", response_headers={"content-type": "text/event-stream; x"}
    )
    outcome = table.finished(entry)
    assert outcome is not None
    assert (outcome.id, outcome.pool, outcome.model, outcome.streaming, outcome.endpoint) == (
        "r",
        "ns/p",
        "m",
        True,
        "a:1",
    )
    other = table.finished(ended("of another picker"))
    assert other is not None
    assert table.finished(ended("of another picker")) is None


def test_refused_by_the_picker_was_reported_already() -> None:
    assert InFlight().finished(ended("", status=429, details="penstock:shed_priority")) is None


def test_a_client_that_leaves_during_the_pick_is_found_by_its_request_id() -> None:
    table = InFlight()
    table.started(replace(decision("1"), request_id="r-1"), 10, now=0.0)
    entry = ended("", request_id="r-1", status=0, flags=frozenset({"DC"}), endpoint="")
    alone = table.finished(replace(entry, status=404, flags=frozenset({"NR"})))  # a client may send one id twice
    assert alone is not None
    assert alone.pool == ""
    outcome = table.finished(entry)
    assert outcome is not None
    assert (outcome.id, outcome.pool, outcome.reason) == ("1", "ns/pool", "client_cancelled")
    assert len(table) == 0
    assert not table._asked_for


LEFT = LogEntry(request_id="r-1", flags=frozenset({"DC"}), time=999.0)  # during the pick: no id, and no cluster yet


def told(request_id: str = "r-1", status: int = 0) -> Outcome:
    """An Outcome that the picker tells itself."""
    lone = InFlight().finished(LogEntry(id="of the picker", status=status, request_id=request_id))
    assert lone is not None
    return lone


@pytest.mark.parametrize("status", [0, 429])
def test_a_client_that_left_before_it_was_answered_is_reported_once(status: int) -> None:
    table = InFlight()
    table.reported(told(status=status))  # as the picker tells it, when its stream ends
    assert table.finished(LEFT) is None
    for _ in range(2):
        assert table.expired(0.0) == []


@pytest.mark.parametrize("status", [0, 429])
def test_a_log_that_overtakes_the_picker_is_not_a_second_outcome(status: int) -> None:
    table = InFlight()
    assert table.finished(LEFT) is None
    table.reported(told(status=status))
    for _ in range(2):
        assert table.expired(0.0) == []
    assert table.finished(LEFT) is None  # another request, whose client uses ids twice: it waits for the picker in turn
    assert table.expired(0.0) == []
    assert [found.id for found in table.expired(0.0)] == ["r-1"]


def test_a_log_that_overtakes_the_decision_ends_it() -> None:
    """Nothing is in flight of a client that had left before the picker decided."""
    table = InFlight()
    assert table.finished(LEFT) is None
    table.expired(0.0)
    table.started(replace(decision("1"), request_id="r-1"), 10, now=0.0)
    entry = table.early("r-1")
    assert entry is LEFT
    outcome = table.finished(entry)
    assert outcome is not None
    assert (outcome.id, outcome.request_id, outcome.reason) == ("1", "r-1", "client_cancelled")
    assert (len(table), table.count("a:1")) == (0, 0)
    assert table.early("r-1") is None
    for _ in range(2):
        assert table.expired(0.0) == []


def test_a_client_that_leaves_a_server_without_a_picker_is_reported_at_once() -> None:
    outcome = InFlight().finished(replace(LEFT, cluster="service/ns/plain/80"))
    assert outcome is not None
    assert outcome.reason == "client_cancelled"


def test_a_refusal_whose_entry_came_is_not_remembered() -> None:
    table = InFlight()
    table.reported(told(status=429))
    assert table.finished(LogEntry(request_id="r-1", status=429, details="penstock:shed_priority")) is None
    assert not table._ended


def test_too_many_without_an_entry_are_given_up_before_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picker.inflight._MOST", 2)
    table = InFlight()
    for number in range(5):
        table.started(decision(str(number)), 1, now=0.0)
    assert [lost.id for lost in table.expired(now=1.0)] == ["0", "1", "2"]
    assert len(table) == 2


def test_a_decision_without_endpoints_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="no endpoint"):
        InFlight().started(replace(decision("1"), endpoints=()), 0, 0.0)


def test_ghosts_are_not_counted_unless_the_engine_may_hang() -> None:
    table = InFlight()
    table.started(decision("lost"), 10, now=0.0)
    table.on_scrape("a:1", Load(), sent_at=5.0)
    assert table.count("a:1") == 1  # nothing ended since: the engine may hang, and reports stale zeros
    table.started(decision("later"), 20, now=6.0)
    table.started(decision("now"), 30, now=7.0)
    assert table.finished(ended("later")) is not None
    table.on_scrape("a:1", Load(running=1), sent_at=9.0)
    assert (table.count("a:1"), table.tokens("a:1")) == (1, 30)
    table.on_scrape("a:1", Load(running=2), sent_at=9.5)
    assert table.count("a:1") == 2  # it was there after all
    table.on_scrape("a:1", Load(running=0), sent_at=9.6)
    assert table.finished(ended("lost")) is not None
    assert (table.count("a:1"), table.tokens("a:1")) == (1, 30)


def test_an_answer_of_a_fallback_does_not_vouch_for_an_engine_that_hangs() -> None:
    table = InFlight()
    table.started(decision("hangs"), 10, now=0.0)
    table.started(decision("retried"), 10, now=1.0)
    assert table.finished(ended("retried", endpoint="b:1", attempts=2)) is not None
    table.on_scrape("a:1", Load(), sent_at=9.0)
    assert table.count("a:1") == 1


@pytest.mark.parametrize(
    ("status", "details", "flags", "expected"),
    [
        (200, "via_upstream", "", ""),
        (302, "direct_response", "", ""),
        (404, "via_upstream", "", "upstream_4xx"),
        (503, "via_upstream", "URX", "upstream_5xx"),
        (0, "downstream_remote_disconnect", "DC", "client_cancelled"),
        (200, "http2.remote_reset", "DR", "client_cancelled"),
        (499, "", "", "client_cancelled"),
        (200, "upstream_reset_after_response_started{connection_termination}", "UC", "stream_aborted"),
        (200, "via_upstream", "UR", "stream_aborted"),
        (200, "stream_idle_timeout", "SI", "stream_aborted"),
        (503, "upstream_reset_before_response_started{connection_termination}", "UC", "upstream_reset"),
        (503, "upstream_reset_before_response_started{connection_failure}", "UF URX", "upstream_connect"),
        (504, "response_timeout", "UT", "upstream_timeout"),
        (503, "no_healthy_upstream", "UH", "no_endpoints"),
        (503, "cluster_not_found", "NC", "no_endpoints"),
        (500, "direct_response", "", "no_endpoints"),
        (404, "route_not_found", "NR", "no_route"),
        (413, "request_payload_too_large", "", "body_too_large"),
        (400, "http1.codec_error", "DPE", "bad_request"),
        (500, "ext_proc_error_gRPC_error_14", "", "picker_unavailable"),
        (504, "ext_proc_error_per-message_timeout_exceeded", "", "picker_unavailable"),
    ],
)
def test_reasons(status: int, details: str, flags: str, expected: str) -> None:
    assert reason(LogEntry(status=status, details=details, flags=frozenset(flags.split()))) == expected


def test_a_request_that_no_route_takes_names_the_model_if_it_has_one() -> None:
    entry = LogEntry(status=404, details="route_not_found", flags=frozenset({"NR"}))
    assert reason(entry) == "no_route"
    assert reason(replace(entry, headers={"x-gateway-model-name": "gpt"})) == "model_not_found"


class OneOutcome(RuleBasedStateMachine):
    """Whatever the order of decisions, entries, repeats, deadlines and scrapes: one Outcome per request, no leaks."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.now, self.number = InFlight(timeout=20.0), 0.0, 0
        self.open: set[str] = set()
        self.outcomes: Counter[str] = Counter()

    def heard(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self.outcomes[outcome.id] += 1
            self.open.discard(outcome.id)

    @rule(endpoint=st.sampled_from("abc"), tokens=st.integers(0, 9))
    def start(self, endpoint: str, tokens: int) -> None:
        self.number += 1
        self.open.add(str(self.number))
        self.table.started(decision(str(self.number), f"{endpoint}:1", "z:1"), tokens, self.now)

    @rule(data=st.data(), flag=st.sampled_from(["", "UC", "DC"]))
    def end(self, data: st.DataObject, flag: str) -> None:
        if self.number:
            id_ = str(data.draw(st.integers(1, self.number)))  # open, ended or lost
            self.heard(self.table.finished(ended(id_, endpoint="z:1", flags=frozenset({flag} - {""}))))

    @rule(data=st.data())
    def decide_again(self, data: st.DataObject) -> None:
        if self.open:
            self.table.started(decision(data.draw(st.sampled_from(sorted(self.open))), "c:1"), 1, self.now)

    @rule(seconds=st.floats(0.1, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for outcome in self.table.expired(self.now):
            self.heard(outcome)

    @rule(endpoint=st.sampled_from("abc"), running=st.integers(0, 3))
    def scrape(self, endpoint: str, running: int) -> None:
        self.table.on_scrape(f"{endpoint}:1", Load(running=running), self.now)

    @invariant()
    def at_most_one_each(self) -> None:
        assert all(count == 1 for count in self.outcomes.values())
        assert len(self.table) == len(self.open)
        assert all(
            0 <= self.table.count(f"{e}:1") <= len(self.open) and self.table.tokens(f"{e}:1") >= 0 for e in "abc"
        )

    def teardown(self) -> None:
        for outcome in self.table.expired(self.now + 100.0):
            self.heard(outcome)
        assert set(self.outcomes) == {str(number) for number in range(1, self.number + 1)}
        assert all(self.table.count(f"{e}:1") == 0 == self.table.tokens(f"{e}:1") for e in "abc")
        assert not self.table._sent


OneOutcome.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestOneOutcome = OneOutcome.TestCase
