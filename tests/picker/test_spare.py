"""Spare: batch leaves what the others had of late, and has the pool for itself when there are none."""

from hypothesis import given, strategies as st

from picker.latency import Speed
from picker.load import Load
from picker.request import InferenceRequest
from picker.room import free
from picker.scorers import View
from picker.spare import ALONE, FADE, Others, places
from xds_server.model.graph import Endpoint

SLOTS = 8


def load(others: int, sheddable: int = 0, slots: float = SLOTS) -> Load:
    return Load(inflight=others + sheddable, sheddable=sheddable, speed=Speed(slots=slots))


def view(*loads: Load, matched: list[int] | None = None) -> View:
    endpoints = [Endpoint(f"10.0.0.{i}", 80) for i in range(len(loads))]
    names = [str(endpoint) for endpoint in endpoints]
    return View(InferenceRequest("/"), "m", endpoints, names, list(loads), matched or [0] * len(loads), 0, 0.0)


class Spare:
    """A pool with both kinds of traffic."""

    def __init__(self, *others: int) -> None:
        """So many requests of the others were in flight at the time 0."""
        self.others = Others()
        if others:
            self.places(view(*map(load, others)), 0.0)
            self.other(view(*map(load, others)), 0.0)

    def other(self, seen: View, now: float) -> None:
        assert self.others.note(seen, 0, now) is None

    def places(self, seen: View, now: float) -> list[bool]:
        left = self.others.note(seen, -1, now)
        return free(seen) if left is None else places(seen, left)


def busy(*others: int) -> Spare:
    return Spare(*others)


def idle(count: int) -> View:
    return view(*[load(0)] * count)


def test_batch_alone_has_the_whole_pool() -> None:
    full = view(load(7), load(8), load(0, 7))
    assert Spare().places(full, 0.0) == [True, False, True]
    spare = busy(8, 8, 8)
    assert not all(spare.places(full, ALONE / 2))
    assert spare.places(full, ALONE) == [True, False, True]


def test_the_more_the_others_had_at_once_the_more_servers_have_no_batch() -> None:
    kept = [busy(*[others] * 8).places(idle(8), 1.0).count(False) for others in (0, 1, 2, 4, 8)]
    assert kept == sorted(kept)
    assert kept[0] == 1  # where one request may come, there is one quiet server
    assert kept[2] == 3  # 17 at once
    assert kept[-1] == 7  # never all: batch is late, not refused for ever


def test_the_servers_without_batch_are_always_the_same() -> None:
    spare = busy(4, 4, 4, 4)
    first = spare.places(view(*[load(0)] * 4), 1.0)
    assert spare.places(view(load(0, 1), load(3), load(1), load(2)), 1.5)[:2] == first[:2] == [False, False]


def test_on_the_rest_batch_leaves_the_slots_that_the_others_had_there() -> None:
    spare = busy(0, 5)
    assert spare.places(view(load(0), load(1, 1)), 0.0) == [False, True]
    assert spare.places(view(load(0), load(1, 2)), 0.0) == [
        False,
        False,
    ]  # 5 others, one of whom is about to come, and 2
    assert spare.places(view(load(0), load(0, 3)), FADE / 2) == [False, True]  # a peak of a while ago fades


def test_a_peak_is_seen_while_there_is_batch_and_forgotten_when_others_stay_away() -> None:
    spare = busy(8, 8, 8, 8)
    spare.other(idle(4), 10 * FADE)  # no batch for so long: nothing is counted, nothing costs anything
    assert spare.places(idle(4), 10 * FADE).count(True) == 3  # as if the others had had next to nothing


def test_prompts_that_are_cached_elsewhere_come_to_one_server_in_four_of_those_with_batch() -> None:
    spare = busy(*[0] * 9)
    cached_on_the_first = [9] + [0] * 8
    found = spare.places(view(*[load(0)] * 9, matched=cached_on_the_first), 0.0)
    assert found.count(True) == 2  # of eight
    full = view(load(0), *[load(0, 2)] * 8, matched=cached_on_the_first)
    assert not any(spare.places(full, 0.0))  # these have more to do than a quarter of their slots
    warm = view(load(0), *[load(0, 2)] * 8, matched=[9, 9] + [0] * 7)
    assert spare.places(warm, 0.0) == [False, True] + [False] * 7


def test_prompts_that_are_cached_nowhere_have_no_better_place() -> None:
    assert busy(*[0] * 9).places(idle(9), 0.0).count(True) == 8


def test_a_request_for_some_servers_leaves_what_is_known_of_the_others() -> None:
    spare = busy(6, 6)
    spare.places(view(load(0)), 0.0)
    assert spare.places(view(load(0), load(0, 2)), 0.0) == [False, False]
    spare.others.retain({"10.0.0.0:80"})
    assert spare.places(view(load(0), load(0, 2)), 0.0) == [False, True]


def test_a_pool_of_one_server_has_batch_in_the_slots_that_the_others_leave() -> None:
    spare = busy(3)
    assert spare.places(view(load(0, 3)), 0.0) == [True]
    assert spare.places(view(load(0, 4)), 0.0) == [False]


Loads = st.lists(
    st.builds(load, st.integers(0, 9), st.integers(0, 9), st.sampled_from([2.0, 8.0, float("inf")])), min_size=1
)


@given(Loads, st.integers(0, 9), st.floats(0.0, 100.0))
def test_batch_goes_only_where_there_is_room_and_an_idle_pool_always_has_some(
    loads: list[Load], others: int, later: float
) -> None:
    spare = busy(*[others] * len(loads))
    found = spare.places(view(*loads), later)
    assert all(one.has_room() for one, has in zip(loads, found, strict=True) if has)
    assert any(spare.places(idle(len(loads)), later))
