"""Room: limits are those that the servers were seen to have, and nobody is held back without a reason."""

from typing import Any

from hypothesis import given, strategies as st

from picker.latency import Speed
from picker.load import FREE_SLOTS, MAX_CONCURRENCY, STALE_ERRORS, Load
from picker.request import InferenceRequest
from picker.room import after_slot, allowed, curious, free, in_time
from picker.scorers import View
from xds_server.model.graph import Endpoint

has_room = Load.has_room


def load(inflight: int, slots: float = 8.0, **speed: Any) -> Load:
    return Load(inflight=inflight, speed=Speed(slots=slots, **speed))


def view(*loads: Load, prompt: bytes = b"") -> View:
    endpoints = [Endpoint(f"10.0.0.{i}", 80) for i in range(len(loads))]
    names = [str(endpoint) for endpoint in endpoints]
    return View(InferenceRequest("/", prompt=prompt), "m", endpoints, names, list(loads), [0] * len(loads), 0, 0.0)


def test_a_server_takes_as_many_as_it_has_slots() -> None:
    assert has_room(load(7))
    assert not has_room(load(8))
    assert not has_room(load(5, foreign=3.0))


def test_short_requests_are_sent_before_a_slot_is_free() -> None:
    assert has_room(load(8, seconds=0.03))
    assert not has_room(load(8, seconds=3.0))


def test_a_server_that_has_just_come_is_not_given_all_that_wait() -> None:
    """Its slots are not known: as many as it runs, and a few, until the next scrape; then twice as many."""
    new = Load(inflight=FREE_SLOTS)
    assert has_room(new)
    assert has_room(new, crowded=True)
    assert not has_room(Load(inflight=FREE_SLOTS + 1), crowded=True)
    assert has_room(Load(inflight=30, running=20, inflight_at_scrape=20), crowded=True)
    assert not has_room(Load(inflight=21, running=20, waiting=1, inflight_at_scrape=21), crowded=True)
    assert has_room(Load(inflight=MAX_CONCURRENCY - 1, errors=STALE_ERRORS), crowded=True)  # nobody can look into it
    assert not has_room(Load(inflight=MAX_CONCURRENCY, errors=STALE_ERRORS), crowded=True)


def test_one_request_in_some_finds_out_whether_there_is_one_slot_more() -> None:
    assert 10 < sum(curious(str(n)) for n in range(32 * 20)) < 40
    eight = Speed(slots=8.0)
    assert has_room(Load(inflight=8, running=8, speed=eight), probe=True)
    assert not has_room(Load(inflight=9, running=8, speed=eight), probe=True)
    assert not has_room(Load(inflight=8, running=8, waiting=1, speed=eight), probe=True)
    assert not has_room(Load(inflight=8, running=5, speed=eight), probe=True)


@given(st.integers(0, 10**6), st.floats(0, 100), st.floats(0, 10**6))
def test_what_is_not_known_or_idle_holds_nobody_back(inflight: int, slots: float, foreign: float) -> None:
    assert has_room(load(inflight, float("inf"), foreign=foreign))
    assert has_room(load(0, slots, foreign=foreign))


@given(st.lists(st.builds(load, st.integers(0, 20), st.sampled_from([4.0, 8.0, float("inf")])), min_size=1, max_size=6))
def test_free_is_has_room_and_whoever_has_room_is_allowed(loads: list[Load]) -> None:
    found = view(*loads)
    places = free(found)
    assert places == [has_room(one) for one in loads]
    for how in ({"crowded": True}, {"probe": True}, {"crowded": True, "probe": True}):
        assert free(found, **how) == [has_room(one, **how) for one in loads]
    chosen = allowed(found, places)
    assert bool(chosen) == any(places)
    assert set(chosen) >= {i for i, has in enumerate(places) if has}


def test_a_queue_that_is_sooner_than_a_slow_server_is_allowed() -> None:
    quick = load(8, seconds=0.1, weights=(0.01, 0.0, 0.0, 0.0))
    slow = load(1, weights=(5.0, 0.0, 0.0, 0.0))
    assert allowed(view(quick, slow), [False, True]) == [0, 1]
    assert allowed(view(slow, quick), [False, True]) == [1]


def test_a_queue_of_a_server_takes_no_more_than_it_may() -> None:
    slow = load(1, weights=(5.0, 0.0, 0.0, 0.0))
    for waiting, allowed_there in ((0, True), (1, True), (2, False)):
        quick = load(8 + waiting, seconds=0.1, weights=(0.01, 0.0, 0.0, 0.0))
        assert (0 in allowed(view(quick, slow), [False, True], queue=2)) is allowed_there
        assert 0 in allowed(view(quick, slow), [False, True])


def test_after_slot_is_what_comes_after_the_wait() -> None:
    busy, idle = load(8, seconds=8.0, weights=(0.5, 0.0, 0.0, 0.0)), load(0, weights=(2.0, 0.0, 0.0, 0.0))
    assert after_slot(view(busy, idle)) == 0.5


def test_an_objective_is_met_where_there_is_room_or_waited_for_or_given_up() -> None:
    full, cold = load(8, seconds=8.0, weights=(0.5, 0.0, 0.0, 0.0)), load(1, weights=(2.0, 0.0, 0.0, 0.0))
    found = view(full, cold)  # 1.5 s with its queue, and 2 s
    assert in_time(found, [False, True], 2.5) == [1]  # never in a queue, however short
    assert in_time(found, [False, True], 1.8) == []
    assert in_time(found, [False, True], 1.0) is None
    assert in_time(view(full, load(0, weights=(2.0, 0.0, 0.0, 0.0))), [False, True], 1.0) == [1]  # nothing to hope for


def test_negative_priority_goes_only_where_there_is_room() -> None:
    quick = load(8, seconds=0.1, weights=(0.01, 0.0, 0.0, 0.0))
    slow = load(1, weights=(5.0, 0.0, 0.0, 0.0))
    assert allowed(view(quick, slow), [False, True], queue=0) == [1]
