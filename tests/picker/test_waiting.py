"""Waiting, with the Picker and the real Signals: late binding, objectives, scale from zero; a test for each defect of the peers'."""

from collections.abc import Mapping
from typing import Any

import pytest

from picker.facts import Decision
from picker.inflight import LogEntry
from picker.latency import Speed
from picker.load import Load
from picker.picker import Answer, Ask, Denied, Picker, Waiting
from picker.request import InferenceRequest
from picker.signals import Signals
from tests.picker.test_picker import A, B, C, FakeSignals, pool, rewrite
from xds_server.model.graph import Endpoint, Objective, Pool
from xds_server.model.objects import RewriteRule

BULK = Objective("bulk", -1)
GOLD = Objective("gold", 10)
ONE_SLOT = Speed(slots=1.0, weights=(0.1, 0.0, 0.0, 0.0), seconds=2.0)


class Counting(FakeSignals):
    """Servers of one slot each; what is in flight is what was begun and has not ended."""

    def __init__(self, *endpoints: Endpoint, speed: Speed = ONE_SLOT) -> None:
        super().__init__()
        self.speed = speed
        self.speeds: dict[str, Speed] = {}  # where they differ
        self.inflight = {str(endpoint): 0 for endpoint in endpoints}

    def loads(self, pool: str) -> Mapping[str, Load]:
        return {
            key: Load(scraped=1e9, inflight=count, speed=self.speeds.get(key, self.speed))
            for key, count in self.inflight.items()
        }

    def started(self, decision: Decision, now: float) -> None:
        super().started(decision, now)
        self.inflight[decision.endpoints[0]] += 1


class Gate:
    """A picker and its clock, as a test drives them."""

    def __init__(self, *endpoints: Endpoint, speed: Speed = ONE_SLOT, **more: Any) -> None:
        self.signals = Counting(A, B, C, speed=speed)
        self.picker = Picker(self.signals)
        self.more = more
        self.pool(*endpoints)
        self.now = 0.0
        self.number = 0

    def pool(self, *endpoints: Endpoint, **more: Any) -> Pool:
        found = pool(*endpoints, **{"objectives": (BULK, GOLD), **self.more, **more})
        self.picker.update({found.name: found})
        return found

    def ask(self, tenant: str = "t", subset: tuple[str, ...] | None = None, **given: Any) -> Answer | Waiting:
        self.number += 1
        headers = {name.replace("_", "-"): value for name, value in given.pop("headers", {}).items()}
        asked = InferenceRequest("/", model="m", fairness_id=tenant, headers=headers, **given)
        return self.picker.decide(Ask(asked, "ns/pool", subset, f"{tenant}{self.number}", self.now, 100.0 + self.now))

    def poll(self, seconds: float = 0.0) -> dict[str, Answer]:
        self.now += seconds
        return dict(self.picker.poll(self.now))

    def end(self, endpoint: Endpoint = A) -> None:
        self.signals.inflight[str(endpoint)] -= 1


def reasons(found: Mapping[str, Answer]) -> dict[str, str]:
    return {id_: "" if isinstance(one, Decision) else one.outcome.reason for id_, one in found.items()}


def test_a_request_waits_for_a_slot_and_is_picked_for_when_one_is_free() -> None:
    gate = Gate(A, B)
    assert [isinstance(gate.ask(), Decision) for _ in range(3)] == [True, True, False]
    assert gate.poll(0.5) == {}
    gate.end(B)
    (found,) = gate.poll(0.5).values()
    assert found.endpoints[0] == str(B)  # late binding: the server that became free
    assert found.endpoints[1:] == (str(A),)  # a fallback may be busy
    assert (found.time, found.seconds, found.queue) == (101.0, 1.0, 1.0)
    assert not gate.picker.waits
    assert gate.picker.next_deadline() is None


def test_where_there_is_room_nobody_waits() -> None:
    gate = Gate(A, speed=Speed())  # it never had a queue: no limit is known
    assert all(isinstance(gate.ask(), Decision) for _ in range(500))


def test_who_waits_first_goes_first_also_before_one_that_comes_just_then() -> None:
    gate = Gate(A)
    gate.ask()
    first = gate.ask()
    gate.end()
    late = gate.ask()
    assert isinstance(late, Waiting)
    assert gate.picker.answers
    assert list(gate.poll()) == [first.id]


def test_tenants_share() -> None:
    gate = Gate(A)
    gate.ask()
    for _ in range(10):
        gate.ask("greedy")
    modest = gate.ask("modest")
    order: list[str] = []
    for _ in range(3):
        gate.end()
        order += gate.poll(0.1)
    assert modest.id in order


def test_a_client_that_leaves_frees_its_place() -> None:
    gate = Gate(A)
    gate.ask()
    one, two = gate.ask(), gate.ask()
    assert gate.picker.queued("ns/pool") == {0: (2, 0)}
    assert gate.picker.cancel(one.id, 0.0)
    assert not gate.picker.cancel(one.id, 0.0)
    gate.end()
    assert list(gate.poll()) == [two.id]
    assert not gate.picker.cancel(two.id, 0.0)


def test_its_time_is_over() -> None:
    gate = Gate(A)
    gate.ask()
    usual, short = gate.ask(), gate.ask(headers={"x_llm_d_inference_ttl": "2s"})
    assert (usual.until, short.until, gate.picker.next_deadline()) == (60.0, 2.0, 2.0)
    assert reasons(gate.poll(2.0)) == {short.id: "queue_ttl"}
    (found,) = gate.poll(58.0).values()
    assert (found.refused.status, found.outcome.reason, found.outcome.queue) == (429, "queue_ttl", 60.0)
    assert found.refused.retry_after == 1


def test_the_pool_says_how_long() -> None:
    gate = Gate(A, queue_ttl=0.0)
    gate.ask()
    assert gate.ask().outcome.reason == "queue_ttl"  # 0s: nobody waits
    gate.pool(A, queue_ttl=7.0, ttft_objective=1.0)
    assert gate.ask(headers={"x_slo_ttft_ms": "30000"}).until == 7.0


def test_an_objective_that_cannot_be_met_is_answered_at_once() -> None:
    gate = Gate(A)
    gate.ask()
    asked = {"headers": {"x_llm_d_slo_ttft_ms": "500"}}
    waits = gate.ask(**asked)
    assert waits.until == pytest.approx(0.4)  # later its first token, 0.1 s after, would be too late
    assert gate.ask(headers={"x_llm_d_slo_ttft_ms": "50"}).outcome.reason == "slo_unreachable"
    for _ in range(8):  # now it is known how fast the queue moves: one a second
        gate.ask()
        gate.end()
        gate.poll(1.0)
    assert isinstance(gate.ask(headers={"x_llm_d_slo_ttft_ms": "200"}), Waiting)  # it is the next: who knows
    found = gate.ask(headers={"x_llm_d_slo_ttft_ms": "200"})
    assert (found.refused.status, found.outcome.reason) == (429, "slo_unreachable")
    assert found.refused.retry_after >= 1


def test_an_objective_that_a_free_server_cannot_meet_is_refused_unless_it_is_idle() -> None:
    """An idle server is the best there is: refusing would be for ever, and nothing would be learned."""
    gate = Gate(A, speed=Speed(slots=4.0, weights=(1.0, 0.0, 0.0, 0.0)))
    asked = {"headers": {"x_slo_ttft_ms": "500"}}
    assert isinstance(gate.ask(**asked), Decision)
    assert gate.ask(**asked).outcome.reason == "slo_unreachable"
    assert isinstance(gate.ask(), Decision)


def test_scale_from_zero() -> None:
    gate = Gate()
    one, two = gate.ask(), gate.ask(headers={"x_llm_d_inference_ttl": "1s"})
    assert isinstance(one, Waiting)
    (found,) = gate.poll(1.0).values()
    assert (found.outcome.id, found.refused.status, found.outcome.reason) == (two.id, 503, "no_endpoints")
    gate.pool(A)
    assert reasons(gate.poll()) == {one.id: ""}


def test_of_a_pool_with_a_failover_nobody_waits_for_the_first_endpoint() -> None:
    other = pool(B, name="other").backend
    gate = Gate()
    found = pool()
    object.__setattr__(found.backend, "failover", (other,))
    gate.picker.update({found.name: found})
    assert gate.ask().outcome.reason == "no_endpoints"


def test_endpoints_that_go_leave_those_who_wait_to_their_time() -> None:
    gate = Gate(A)
    gate.ask()
    waits = gate.ask()
    gate.pool()
    assert gate.poll(1.0) == {}
    assert reasons(gate.poll(59.0)) == {waits.id: "no_endpoints"}


def test_a_pool_that_goes_and_a_gateway_that_ends_answer_everybody() -> None:
    gate = Gate(A)
    gate.ask()
    one = gate.ask()
    gate.picker.close(1.0)
    assert reasons(gate.poll()) == {one.id: "shutting_down"}
    two = gate.ask()
    gate.picker.update({})
    assert reasons(gate.poll()) == {two.id: "no_endpoints"}
    assert not gate.picker.waits


def test_a_queue_is_not_emptied_onto_a_server_that_has_just_come() -> None:
    gate = Gate(speed=Speed())
    waits = [gate.ask() for _ in range(100)]
    gate.pool(A)
    assert 1 <= len(gate.poll()) < len(waits)
    gate.pool(A, B)
    assert len({found.endpoints[0] for found in gate.poll().values()}) == 1  # B: A has enough


def test_who_is_held_back_holds_up_nobody() -> None:
    gate = Gate(A, speed=Speed(slots=4.0, seconds=2.0))
    for _ in range(3):
        gate.ask()
    bulk = gate.ask(objective="bulk")
    assert isinstance(bulk, Waiting)
    assert isinstance(gate.ask(), Waiting | Decision)
    assert len(gate.signals.begun) + len(gate.poll()) >= 4


def test_negative_priority_waits_a_moment_and_is_shed_where_the_pool_is_full() -> None:
    gate = Gate(A)
    gate.ask()
    moment = gate.ask(objective="bulk")
    assert moment.until == 3.0
    assert reasons(gate.poll(3.0)) == {moment.id: "shed_priority"}
    for _ in range(5):
        gate.ask()
    assert gate.ask(objective="bulk").outcome.reason == "shed_priority"
    assert isinstance(gate.ask(), Waiting)  # others never are, for their priority


def test_negative_priority_leaves_to_the_others_what_they_had_before_it_came() -> None:
    eight = Speed(slots=8.0, weights=(0.1, 0.0, 0.0, 0.0), seconds=2.0)
    found = []
    for at_once in (1, 6):
        gate = Gate(A, speed=eight)
        for _ in range(at_once):
            gate.ask()
        gate.signals.inflight[str(A)] = 1
        found.append(gate.ask(objective="bulk"))
    assert [isinstance(one, Decision) for one in found] == [True, False]


def test_a_queue_that_stands_is_told_to_whoever_picks() -> None:
    """One server is much quicker than the other: it is given all that wait, but not in a queue that stands."""
    quick = Speed(slots=4.0, weights=(0.01, 0.0, 0.0, 0.0), seconds=1.0)
    slow = Speed(slots=4.0, weights=(5.0, 0.0, 0.0, 0.0), seconds=1.0)
    found = {}
    for seconds in (1.0, 10.0):
        gate = Gate(A, B)
        gate.signals.speeds = {str(A): quick, str(B): slow}
        gate.signals.inflight.update({str(A): 5, str(B): 4})
        waiting = [gate.ask() for _ in range(4)]
        assert all(isinstance(one, Waiting) for one in waiting)
        gate.end(B)
        found[seconds] = [one.endpoints[0] for one in gate.poll(seconds).values()]
    assert found[1.0] == [str(A)] * 4
    assert found[10.0] == [str(A), str(B)]


def test_a_queue_that_is_full_refuses() -> None:
    gate = Gate(A)
    gate.picker._states["ns/pool"].flow.configure(type(gate.picker._states["ns/pool"].flow.limits)(requests=2))
    gate.ask()
    found = [gate.ask() for _ in range(3)]
    assert [isinstance(one, Denied) for one in found] == [False, False, True]
    assert (found[2].refused.status, found[2].outcome.reason) == (429, "queue_full")


def test_a_subset_that_is_busy_waits_and_holds_up_nobody() -> None:
    gate = Gate(A, B)
    gate.ask(subset=("10.0.0.1",))
    only_a = gate.ask(subset=("10.0.0.1",))
    assert isinstance(only_a, Waiting)
    assert isinstance(gate.ask(), Waiting | Decision)
    assert len(gate.signals.begun) + len(gate.poll()) >= 2  # whoever may go anywhere went to B
    assert gate.ask(subset=()).outcome.reason == "no_endpoints"


def test_a_subset_that_names_nobody_is_refused_also_behind_others_and_with_an_objective() -> None:
    gate = Gate(A)
    gate.ask(), gate.ask()
    assert gate.ask(subset=(), headers={"x_slo_ttft_ms": "500"}).outcome.reason == "no_endpoints"


# --- defects of the peers (llm-d router 0.10; reference 4 and 11.3) ---------------------------------------------------


def test_11_dispatch_counts_at_once_and_not_at_the_next_scrape() -> None:
    """R#2066: everything admitted inside one scrape window saw the same stale saturation."""
    signals = Signals()
    found = pool(A)
    signals.update({found.name: found.endpoints})
    picker = Picker(signals)
    picker.update({found.name: found})
    signals.scraped(str(A), Load(scraped=0.0, running=4, waiting=2), 0.0)  # full: it has four slots
    signals.scraped(str(A), Load(scraped=0.1), 0.1)  # now idle: the only figures for a long time
    answers = [picker.decide(Ask(InferenceRequest("/"), "", None, str(n), 0.2, 0.2)) for n in range(20)]
    sent = [one for one in answers if isinstance(one, Decision)]
    assert 1 <= len(sent) <= 4
    signals.finished(LogEntry(id="0", endpoint=str(A), status=200, details="via_upstream"))
    assert [id_ for id_, _ in picker.poll(0.3)] == [str(len(sent))]  # and no scrape was needed for the next


def test_1_and_12_denials_are_429_or_503_with_retry_after() -> None:
    gate = Gate(A, queue_ttl=0.0)
    gate.ask()
    assert (gate.ask().refused.status, gate.ask().refused.retry_after) == (429, 1)


def test_one_hot_server_is_not_hidden_by_idle_ones_nor_does_it_hide_them() -> None:
    """The mean over endpoints says half full; what counts is who has room."""
    gate = Gate(A, B)
    gate.signals.inflight[str(A)] = 50
    found = gate.ask()
    assert found.endpoints[0] == str(B)
    assert isinstance(gate.ask(), Waiting)


def test_a_higher_band_that_cannot_be_served_does_not_stop_the_lower_ones() -> None:
    """Their head of line stops the whole cycle; here only what waits for the same place waits."""
    gate = Gate(A, B)
    gate.ask(), gate.ask()
    gold = gate.ask(objective="gold", subset=("10.0.0.1",))
    other = gate.ask()
    gate.end(B)
    assert list(gate.poll()) == [other.id]
    gate.end(A)
    assert list(gate.poll()) == [gold.id]


def test_unfinished_requests_are_never_forgotten_by_time_alone() -> None:
    """R#2295: a reaper released live requests after five minutes, and the pool collapsed."""
    gate = Gate(A)
    gate.ask()
    gate.now = 1000.0
    assert isinstance(gate.ask(), Waiting)


def test_a_conversation_keeps_its_model_while_it_waits() -> None:
    gate = Gate(A, rewrites=(rewrite(RewriteRule((), (("a", 1), ("b", 1)))),))
    first = gate.ask(session_id="s")
    gate.ask(session_id="s")
    gate.end()
    (found,) = gate.poll().values()
    assert found.target_model == first.target_model


def test_a_model_whose_only_server_is_full_holds_up_nobody_else() -> None:
    gate = Gate(A, B)
    served = gate.picker._served
    served.update(map(str, (A, B)))
    served.listed(str(A), frozenset({"m", "other"}), 0.0, 1e9)
    served.listed(str(B), frozenset({"other"}), 0.0, 1e9)

    def ask(model: str, number: int) -> Answer | Waiting:
        asked = InferenceRequest("/", model=model)
        return gate.picker.decide(Ask(asked, "ns/pool", None, f"{model}{number}", gate.now, 100.0))

    assert ask("m", 1).endpoints == (str(A),)
    assert isinstance(ask("m", 2), Waiting)
    assert ask("other", 1).endpoints[0] == str(B)
    gate.end(B)
    assert isinstance(ask("m", 3), Waiting)
    assert isinstance(ask("other", 2), Decision)
    gate.end(A)
    assert list(gate.poll()) == ["m2"]
