"""Queues: whose turn it is. Laws: nobody is lost, nobody starves, tenants share, and the earliest of a tenant is first."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from picker.queues import REMEMBERED, SCAN, STANDING, Item, Queues

TENANTS = st.sampled_from(["a", "b", "c"])


def item(
    id_: str, flow: str = "a", priority: int = 0, cost: float = 1.0, key: float = 0.0, size: int = 1, *,
    since: float = 0.0, patient: bool = False,
) -> Item:  # fmt: skip
    return Item(id_, priority, flow, cost, size, since, 60.0, key, patient=patient)


def turns(queues: Queues, count: int, now: float = 0.0) -> list[Item]:
    found = []
    for _ in range(min(count, len(queues))):
        taken = next(queues.order(now))
        queues.remove(taken, charge=True)
        found.append(taken)
    return found


def test_first_come_first_served() -> None:
    queues = Queues()
    for number in range(5):
        queues.add(item(str(number), key=1.0))
    assert [one.id for one in turns(queues, 5)] == ["0", "1", "2", "3", "4"]


def patient(queues: Queues, count: int) -> None:
    for second in range(count):
        queues.add(item(f"p{second}", key=second + 5.0, since=float(second), patient=True))


def test_in_a_queue_that_stands_the_newest_of_those_in_no_hurry_is_first() -> None:
    queues = Queues()
    patient(queues, 5)
    assert next(queues.order(STANDING)).id == "p0"
    assert [one.id for one in turns(queues, 5, STANDING + 0.1)] == ["p4", "p3", "p2", "p1", "p0"]


def test_a_queue_that_was_empty_does_not_stand() -> None:
    queues = Queues()
    patient(queues, 2)
    turns(queues, 2, 100.0)
    queues.add(item("x", since=100.0, patient=True))
    queues.add(item("y", since=101.0, patient=True, key=1.0))
    assert next(queues.order(104.0)).id == "x"
    assert next(queues.order(106.0)).id == "y"


def test_a_band_stands_for_itself() -> None:
    queues = Queues()
    assert not queues.stands(0, 99.0)
    patient(queues, 1)
    assert not queues.stands(0, STANDING)
    assert queues.stands(0, STANDING + 0.1)
    assert not queues.stands(1, STANDING + 0.1)


def test_in_a_queue_that_stands_those_with_a_deadline_have_every_second_turn_in_its_order() -> None:
    queues = Queues()
    patient(queues, 3)
    for second in range(3):
        queues.add(item(f"d{second}", key=second + 0.5))
    assert [one.id for one in queues.order(1.0)] == ["d0", "d1", "d2", "p0", "p1", "p2"]
    assert [one.id for one in turns(queues, 6, 9.0)] == ["d0", "p2", "d1", "p1", "d2", "p0"]


def test_how_many_are_before_a_deadline_in_a_queue_that_stands() -> None:
    queues = Queues()
    patient(queues, 50)
    for second in range(3):
        queues.add(item(f"d{second}", key=second + 0.5))
    new = item("new", key=99.0)
    assert queues.ahead(new, 1.0) == 53
    assert queues.ahead(new, 9.0) == 6
    queues.add(new)
    assert 6 <= [one.id for one in turns(queues, 9, 9.0)].index("new") <= 7


def test_a_tenant_with_a_thousand_requests_waits_behind_one_with_one() -> None:
    queues = Queues()
    for number in range(1000):
        queues.add(item(f"greedy-{number}", "greedy"))
    turns(queues, 10)
    queues.add(item("modest", "modest"))
    assert "modest" in [one.id for one in turns(queues, 2)]


def test_who_sends_one_request_at_a_time_does_not_get_every_second_turn_of_ten_tenants() -> None:
    """Its share is remembered while it is idle: else it would be first again each time it comes back."""
    queues = Queues()
    for flow in range(10):
        for number in range(100):
            queues.add(item(f"{flow}-{number}", str(flow)))
    queues.add(item("x", "x"))
    served = 0
    for number in range(110):
        (taken,) = turns(queues, 1)
        if taken.flow == "x":
            served += 1
            queues.add(item(f"x-{number}", "x"))
    assert served in (10, 11)


def test_weights_are_shares() -> None:
    queues = Queues({"a": 3.0})
    for number in range(400):
        queues.add(item(f"a{number}", "a"))
        queues.add(item(f"b{number}", "b"))
    counts = Counter(one.flow for one in turns(queues, 200))
    assert counts["a"] == pytest.approx(150, abs=2)


def test_the_higher_band_is_first_but_the_lower_ones_get_their_share() -> None:
    queues = Queues(share=0.1)
    for number in range(300):
        for priority in (10, 0, -1):
            queues.add(item(f"{priority}/{number}", priority=priority))
    counts = Counter(one.priority for one in turns(queues, 200))
    assert counts[0] >= 15
    assert counts[-1] >= 15
    assert counts[10] >= 150


def test_all_shares_together_are_at_most_half() -> None:
    queues = Queues(share=0.5)
    for number in range(100):
        for priority in range(20):
            queues.add(item(f"{priority}/{number}", priority=priority))
    assert Counter(one.priority for one in turns(queues, 100))[19] >= 48


def test_who_is_passed_over_is_bounded() -> None:
    queues = Queues()
    for number in range(1000):
        queues.add(item(str(number), flow=str(number % 7)))
    tried = list(queues.order())
    assert len(tried) == SCAN + 1
    assert len({one.id for one in tried}) == len(tried)


def test_tenants_that_are_named_by_clients_are_not_remembered_for_ever() -> None:
    queues = Queues()
    queues.add(item("old", "old", cost=1.0))
    for number in range(3 * REMEMBERED):
        queues.add(item(str(number), f"t{number}", cost=1e9))
    turns(queues, 10**6)
    assert len(queues._bands[0]._idle) <= REMEMBERED


def test_ahead_is_no_more_than_really_go_before() -> None:
    queues = Queues()
    for number in range(20):
        queues.add(item(str(number), flow="a", key=float(number)))
    assert queues.ahead(item("new", "a", key=10.0)) == 11
    assert queues.ahead(item("new", "b", key=99.0)) == 0  # a tenant that waits for nothing else is soon
    assert queues.ahead(item("new", "a", priority=-1)) == 20


def test_the_last_of_the_lowest_goes_first() -> None:
    queues = Queues()
    assert queues.last(below=0) is None
    for number, priority in enumerate((-1, -5, -5, 0)):
        queues.add(item(str(number), priority=priority))
    assert queues.last(below=0).id == "2"
    assert queues.last(below=-5) is None


def test_an_id_waits_once() -> None:
    queues = Queues()
    queues.add(item("a"))
    with pytest.raises(ValueError, match="already"):
        queues.add(item("a"))


@given(st.lists(st.tuples(TENANTS, st.integers(1, 50)), min_size=1, max_size=60))
def test_tenants_that_wait_are_never_further_apart_than_one_request(wanted: list[tuple[str, int]]) -> None:
    queues = Queues()
    for number, (flow, cost) in enumerate(wanted):
        queues.add(item(str(number), flow, cost=float(cost)))
    given_to = Counter({flow: 0.0 for flow, _ in wanted})
    while all(any(one.flow == flow for one in queues) for flow in given_to):  # all are backlogged
        (taken,) = turns(queues, 1)
        given_to[taken.flow] += taken.cost
        assert max(given_to.values()) - min(given_to.values()) <= 50


class Machine(RuleBasedStateMachine):
    """Against a plain list of those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.queues = Queues()
        self.model: dict[str, Item] = {}
        self.number = 0

    waiting = Bundle("waiting")

    @rule(
        target=waiting,
        flow=TENANTS,
        priority=st.integers(-1, 1),
        cost=st.integers(1, 9),
        key=st.integers(0, 5),
        patient=st.booleans(),
    )
    def add(self, flow: str, priority: int, cost: int, key: int, patient: bool) -> str:
        self.number += 1
        new = item(str(self.number), flow, priority, cost, key, size=cost, patient=patient)
        self.queues.add(new)
        self.model[new.id] = new
        return new.id

    @rule(id_=consumes(waiting))
    def cancel(self, id_: str) -> None:
        if (found := self.model.pop(id_, None)) is not None:
            self.queues.remove(found)
        assert self.queues.get(id_) is None

    @rule(depth=st.integers(0, 3), now=st.sampled_from([0.0, 2 * STANDING]))
    def turn(self, depth: int, now: float) -> None:
        tried = list(islice(self.queues.order(now), depth + 1))
        if tried:
            taken = tried[-1]
            del self.model[taken.id]  # it waited, and has one turn
            self.queues.remove(taken, charge=True)

    @rule()
    def the_earliest_of_a_tenant_is_first(self) -> None:
        first = next(self.queues.order(), None)
        if first is not None:
            same = [one for one in self.model.values() if (one.flow, one.priority) == (first.flow, first.priority)]
            assert (first.key, first.number) == min((one.key, one.number) for one in same)

    @invariant()
    def all_that_wait_are_there(self) -> None:
        queues, model = self.queues, self.model
        assert {one.id for one in queues} == model.keys()
        assert (len(queues), queues.size) == (len(model), sum(one.size for one in model.values()))
        for priority, (count, size) in queues.bands().items():
            held = [one.size for one in model.values() if one.priority == priority]
            assert (count, size) == (len(held), sum(held)) == queues.held(priority)
        for now in (0.0, 2 * STANDING):
            order = [one.id for one in queues.order(now)]
            assert len(set(order)) == len(order)
            assert bool(order) == bool(model)


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestMachine = Machine.TestCase
