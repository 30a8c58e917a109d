"""Flow control: saturation and shedding; who waits, until when, and what becomes of everybody. Times are arguments."""

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from picker.flow import MAX_CONCURRENCY, MAX_RETRY_AFTER, Drain, FlowControl, Verdict, admit, causes, saturation
from picker.limits import Band, Limits
from picker.load import FREE_SLOTS, Load
from picker.plugins.flow_control import Thresholds
from picker.queues import Item

NOW = 9.0


def full(*loads: Load) -> float:
    return saturation(loads, NOW, Thresholds())


def test_the_formula() -> None:
    assert full() == 1.0
    assert full(Load(scraped=NOW, waiting=5)) == 1.0
    assert full(Load(scraped=NOW, kv_usage=0.4)) == 0.5
    assert full(Load(scraped=NOW, kv_usage=0.8), Load(scraped=NOW)) == 0.5
    assert full(Load(inflight=MAX_CONCURRENCY, waiting=99)) == 1.0  # unknown: by what we sent alone
    assert saturation([Load(scraped=NOW, waiting=5)], NOW, Thresholds(10, 0.8)) == 0.5


def test_an_autoscaler_sees_those_that_wait_in_the_gateway() -> None:
    idle = Load(scraped=NOW)
    assert saturation([idle, idle], NOW, Thresholds(), queued=20) == 2.0


def test_what_fills_a_pool_is_told_by_cause() -> None:
    loads = [
        Load(scraped=NOW, waiting=5, kv_usage=0.4),
        Load(scraped=NOW, utilization=0.5),
        Load(inflight=MAX_CONCURRENCY),
    ]
    found = causes(loads, NOW, Thresholds(), queued=15)
    assert found == pytest.approx(
        {"queue": 1 / 3, "gateway_queue": 1.0, "kv_cache": 0.5 / 3, "inflight": 1 / 3, "utilization": 0.5 / 3}
    )
    assert causes([], NOW, Thresholds()) == dict.fromkeys(found, 0.0)


def test_a_burst_between_two_scrapes_does_not_overshoot() -> None:
    sent = 0
    while admit(-1, full(Load(scraped=NOW, inflight=sent))) is None:
        sent += 1
    assert sent == FREE_SLOTS + 5


@given(st.integers(-5, 5), st.floats(0, 1e6))
def test_only_a_negative_priority_is_shed_and_only_by_a_full_pool(priority: int, filled: float) -> None:
    refused = admit(priority, filled)
    assert (refused is not None) == (priority < 0 and filled >= 1.0)
    if refused is not None:
        assert (refused.status, refused.reason) == (429, "shed_priority")
        assert 1 <= refused.retry_after <= MAX_RETRY_AFTER


# --- the queue --------------------------------------------------------------------------------------------------------


def item(flow: FlowControl, id_: str, now: float = 0.0, *, priority: int = 0, tenant: str = "t", **more: Any) -> Item:
    return flow.item(id_, priority, tenant, **{"tokens": 0, "size": 1, "now": now, "ttl": 60.0, **more})


def joined(flow: FlowControl, *items: Item, now: float = 0.0) -> list[tuple[str, str]]:
    """(id, reason) of those that were refused for it."""
    return [(one.id, refused.reason) for each in items for one, refused in flow.join(each, now)]


def served(flow: FlowControl, now: float, places: int = 10**6, verdict: Verdict = "sent") -> list[str]:
    found: list[str] = []

    def serve(one: Item) -> Verdict:
        if len(found) == places:
            return "full"
        found.append(one.id)
        return verdict

    flow.dispatch(serve, now)
    return found


def test_a_turn_for_each_place() -> None:
    flow = FlowControl()
    joined(flow, *(item(flow, str(number)) for number in range(5)))
    assert served(flow, 1.0, places=2) == ["0", "1"]
    assert len(flow) == 3
    assert served(flow, 2.0) == ["2", "3", "4"]
    assert (len(flow), flow.deadline) == (0, float("inf"))


def test_who_cannot_be_served_holds_up_nobody() -> None:
    flow = FlowControl()
    joined(flow, *(item(flow, str(number)) for number in range(3)))
    found: list[str] = []

    def serve(one: Item) -> Verdict:
        if one.id == "0":
            return "wait"
        found.append(one.id)
        return "sent"

    flow.dispatch(serve, 1.0)
    assert found == ["1", "2"]
    assert flow.queues.get("0") is not None


def test_an_objective_is_a_deadline_and_those_without_one_are_not_starved() -> None:
    flow = FlowControl()
    joined(
        flow,
        item(flow, "patient"),
        item(flow, "loose", objective=2.0),
        item(flow, "tight", objective=0.5),
        *(item(flow, f"later-{n}", now=5.0, objective=0.5) for n in range(2)),
    )
    assert served(flow, 0.1) == ["tight", "loose", "patient", "later-0", "later-1"]


@pytest.mark.parametrize(("ordering", "order"), [("fcfs", ["a", "b"]), ("edf", ["b", "a"])])
def test_other_orderings(ordering: Any, order: list[str]) -> None:
    flow = FlowControl(Limits(band=Band(ordering=ordering)))
    joined(flow, item(flow, "a"), item(flow, "b", now=0.1, ttl=1.0))
    assert served(flow, 0.2) == order


def test_without_fairness_there_is_one_queue() -> None:
    flow = FlowControl(Limits(band=Band(fair=False)))
    joined(flow, *(item(flow, f"a{n}", tenant="a") for n in range(3)), item(flow, "b", tenant="b"))
    assert served(flow, 0.2)[-1] == "b"


def test_bounds_of_requests_and_bytes_of_a_band_and_of_all() -> None:
    flow = FlowControl(Limits(requests=3, size=100, band=Band(requests=2, size=50)))
    assert joined(flow, item(flow, "a", size=40), item(flow, "b", size=20)) == [("b", "queue_full")]
    assert joined(flow, item(flow, "c", size=10), item(flow, "d", size=0)) == [("d", "queue_full")]
    assert joined(flow, item(flow, "n", priority=-1, size=50), now=1.0) == []
    assert [one.id for one in flow.queues] == ["a", "c", "n"]
    assert joined(flow, item(flow, "m", priority=-1), now=1.0) == [("m", "queue_full")]


def test_negative_priority_makes_way_in_a_full_queue() -> None:
    flow = FlowControl(Limits(requests=2))
    joined(flow, item(flow, "low", priority=-2), item(flow, "bulk", priority=-1))
    assert joined(flow, item(flow, "a")) == [("low", "shed_priority")]
    assert joined(flow, item(flow, "b", priority=5)) == [("bulk", "shed_priority")]
    assert joined(flow, item(flow, "c", priority=9)) == [
        ("c", "queue_full")
    ]  # nobody is shed whose priority is not negative


def test_what_time_is_over_is_answered_and_why() -> None:
    flow = FlowControl()
    joined(
        flow,
        item(flow, "ttl", ttl=3.0),
        item(flow, "slo", objective=2.0),
        item(flow, "bulk", priority=-1, ttl=1.0),
        item(flow, "late"),
    )
    assert flow.deadline == 1.0
    assert not flow.expired(0.99, endpoints=True)
    found = [(one.id, refused.reason, refused.status) for one, refused in flow.expired(3.0, endpoints=True)]
    assert found == [("bulk", "shed_priority", 429), ("slo", "slo_unreachable", 429), ("ttl", "queue_ttl", 429)]
    ((one, refused),) = flow.expired(60.0, endpoints=False)
    assert (one.id, refused.status, refused.reason, refused.retry_after) == ("late", 503, "no_endpoints", None)


def test_cancel_and_clear() -> None:
    flow = FlowControl()
    joined(flow, item(flow, "a"), item(flow, "b"))
    assert flow.cancel("a", 1.0).id == "a"
    assert flow.cancel("a", 1.0) is None
    ((one, refused),) = flow.clear("shutting_down", 2.0)
    assert (one.id, refused.status, len(flow)) == ("b", 503, 0)


def test_retry_after_is_how_long_the_queue_takes() -> None:
    flow = FlowControl(Limits(requests=50))
    assert flow.refusal("queue_full", 0.0).retry_after == 1  # nothing is known
    joined(flow, *(item(flow, str(n)) for n in range(50)))
    for second in range(1, 31):
        served(flow, second / 2, places=1)
    assert flow.drain.rate == pytest.approx(2.0, rel=0.1)
    assert flow.refusal("queue_full", 15.0).retry_after == pytest.approx(10, abs=1)
    assert flow.delay(item(flow, "new", 15.0, objective=1.0), 15.0) < 1.0  # those that are in no hurry let it pass


def test_the_time_in_which_nobody_waits_does_not_count() -> None:
    drain = Drain()
    for start in (0.0, 1000.0, 2000.0):
        drain.run(start, waits=True)
        for turn in range(1, 5):
            drain.run(start + turn, waits=turn < 4)
            drain.turn()
    assert drain.rate == pytest.approx(1.0, rel=0.2)
    drain.forget()
    assert drain.rate is None


def test_refused_turns_are_not_charged() -> None:
    """A tenant whose requests came too late was given nothing."""
    flow = FlowControl()
    joined(
        flow, *(item(flow, f"a{n}", tenant="a") for n in range(4)), *(item(flow, f"b{n}", tenant="b") for n in range(4))
    )
    verdicts = iter(["refused"] * 3)
    order: list[str] = []

    def serve(one: Item) -> Verdict:
        order.append(one.id)
        return next(verdicts, "sent")  # type: ignore[return-value]

    flow.dispatch(serve, 1.0)
    assert order[:5] == ["a0", "a1", "a2", "a3", "b0"]


class Machine(RuleBasedStateMachine):
    """Whoever joins has one end: served, refused, expired or cancelled; bounds hold at all times."""

    LIMITS = Limits(requests=8, size=60, band=Band(requests=5, size=40), negative_band=Band(requests=4))

    def __init__(self) -> None:
        super().__init__()
        self.flow = FlowControl(self.LIMITS)
        self.now = 0.0
        self.number = 0
        self.waiting: dict[str, Item] = {}

    def end(self, id_: str) -> Item:
        return self.waiting.pop(id_)  # KeyError: it had an end before

    @rule(
        priority=st.integers(-1, 1), size=st.integers(0, 50), ttl=st.floats(0.1, 9),
        objective=st.none() | st.floats(0.1, 9), tenant=st.sampled_from("abc"),
    )  # fmt: skip
    def join(self, **given: Any) -> None:
        self.number += 1
        new = item(self.flow, str(self.number), self.now, **given)
        self.waiting[new.id] = new
        for one, refused in self.flow.join(new, self.now):
            assert refused.status == 429
            assert one is new or one.priority < min(new.priority, 0)
            self.end(one.id)

    @rule(places=st.integers(0, 3), refuse=st.booleans())
    def dispatch(self, places: int, refuse: bool) -> None:
        for id_ in served(self.flow, self.now, places, "refused" if refuse else "sent"):
            self.end(id_)

    @rule(seconds=st.floats(0, 5))
    def time(self, seconds: float) -> None:
        self.now += seconds
        found = [one for one, _ in self.flow.expired(self.now, endpoints=True)]
        assert [one.until for one in found] == sorted(one.until for one in found)
        for one in found:
            assert self.end(one.id).until <= self.now
        assert self.flow.deadline > self.now

    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: Any) -> None:
        if self.waiting:
            id_ = pick.choice(sorted(self.waiting))
            assert self.flow.cancel(id_, self.now) is self.end(id_)

    @invariant()
    def bounds_hold(self) -> None:
        flow, limits = self.flow, self.LIMITS
        assert {one.id for one in flow.queues} == self.waiting.keys()
        assert flow.deadline == min((one.until for one in self.waiting.values()), default=float("inf"))
        assert len(flow) <= limits.requests
        assert flow.queues.size <= limits.size
        for priority, (count, size) in flow.queues.bands().items():
            assert count <= limits.of(priority).requests
            assert size <= limits.of(priority).size


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestMachine = Machine.TestCase
