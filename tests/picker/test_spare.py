"""Spare: batch leaves what the others had of late, and has the pool for itself when there are none."""

from dataclasses import replace

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
        for i, count in enumerate(others):
            for before in range(count):
                self.sent(i, before, 0.0)

    def sent(self, server: int, before: int, now: float) -> None:
        """One more of the others goes to this server, which has so many of them."""
        self.others.sent(f"10.0.0.{server}:80", load(before, 1), now)

    def places(self, seen: View, now: float) -> list[bool]:
        assert self.others.left(0, seen.names, now) is None
        left = self.others.left(-1, seen.names, now)
        return free(seen) if left is None else places(seen, left)


def busy(*others: int) -> Spare:
    return Spare(*others)


def idle(count: int) -> View:
    return view(*[load(0)] * count)


def test_batch_alone_has_the_whole_pool() -> None:
    full = view(load(7), load(8), load(0, 7))
    assert Spare().places(full, 0.0) == [True, False, True]
    spare = busy(8, 8, 8)
    assert not any(spare.places(full, 1.0))
    assert spare.places(full, ALONE) == [True, False, True]


def test_batch_leaves_the_slots_that_the_others_had_there_and_more() -> None:
    spare = busy(0, 4)
    assert spare.places(view(load(0, 5), load(1, 1)), 0.0) == [True, True]
    assert spare.places(view(load(0, 6), load(1, 2)), 0.0) == [False, False]  # 4 others, two more, and 3 of batch
    assert spare.places(view(load(0), load(1, 2)), FADE / 2) == [True, True]  # a peak of a while ago fades


def test_the_others_are_counted_without_batch() -> None:
    spare = Spare()
    spare.others.sent("10.0.0.0:80", load(2, 5), 0.0)  # the third of them
    assert spare.places(view(load(3, 2)), 0.0) == [True]
    assert spare.places(view(load(3, 3)), 0.0) == [False]


def test_a_lower_count_does_not_hide_a_peak_that_has_not_faded() -> None:
    spare = busy(6)
    spare.sent(0, 1, 1.0)
    assert spare.places(view(load(1, 1)), 1.0) == [False]
    spare.sent(0, 1, ALONE * 3)
    assert spare.places(view(load(1, 1)), ALONE * 3) == [True]


def test_an_idle_server_takes_batch_whatever_it_leaves() -> None:
    assert busy(8, 8).places(view(load(0), load(0, 1)), 0.0) == [True, False]  # it is late, not refused for ever


def test_batch_finds_out_that_a_server_without_a_queue_can_do_more() -> None:
    spare, unknown, batch = busy(20), float("inf"), 0
    had: list[int] = []
    for _ in range(4):
        running = 19 + batch  # as its page says; then batch takes what it may
        while spare.places(view(replace(load(19, batch, unknown), running=running)), 0.0)[0]:
            batch += 1
        had.append(batch)
    assert had[0] > 0
    assert had == sorted(set(had))
    assert busy(3).places(view(load(3, 2, unknown)), 0.0) == [True]
    assert busy(3).places(view(load(3, 3, unknown)), 0.0) == [False]  # eight slots are believed in


def test_prompts_that_are_cached_elsewhere_come_to_one_server_in_four() -> None:
    spare = busy(*[1] * 8)
    cached_on_the_last = [0] * 7 + [9]
    found = spare.places(view(*[load(0)] * 8, matched=cached_on_the_last), 0.0)
    assert found == [True, True, *[False] * 5, True]
    full = view(*[load(0, 2)] * 7, load(0, 7), matched=cached_on_the_last)
    assert not any(spare.places(full, 0.0))  # these have more to do than a quarter of their slots
    warm = view(*[load(0, 2)] * 8, matched=[0] * 6 + [9, 9])
    assert spare.places(warm, 0.0) == [False] * 6 + [True, True]


def test_prompts_that_are_cached_nowhere_have_no_better_place() -> None:
    assert all(busy(*[1] * 9).places(idle(9), 0.0))


def test_what_is_known_of_endpoints_that_are_gone_is_forgotten() -> None:
    spare = busy(6, 6)
    spare.places(view(load(0)), 0.0)  # a request for some servers only
    assert spare.places(view(load(0, 1), load(0, 2)), 0.0) == [False, False]
    spare.others.retain({"10.0.0.0:80"})
    assert spare.places(view(load(0, 1), load(0, 2)), 0.0) == [False, True]


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
