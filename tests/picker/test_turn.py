"""A turn: who has room, who waits, who finds out, who is too late; each a function of the View and the Turn alone."""

import pytest

from picker import room
from picker.errors import NoEndpoint
from picker.latency import Speed
from picker.load import Load
from picker.profile import DEFAULT
from picker.spare import Peaks
from picker.stage import Pick, Profile
from picker.turn import Turn, choose, places
from tests.picker._views import endpoint, fresh, profile, view

A, B = endpoint(1), endpoint(2)
SLOT = Speed(slots=1.0, weights=(0.1, 0.0, 0.0, 0.0), seconds=2.0)
FREE, FULL = fresh(speed=SLOT), fresh(speed=SLOT, inflight=1, running=1)
SEEKER = next(str(n) for n in range(1000) if room.curious(str(n)))
OTHER = next(str(n) for n in range(1000) if not room.curious(str(n)))


def chosen(*loads: Load, profile: Profile = DEFAULT, **turn: object) -> Pick | str:
    return choose(view(A, B, loads=loads), profile, Turn(**{"id": OTHER, **turn}))  # type: ignore[arg-type]


def test_the_free_one_first_and_the_busy_one_as_a_fallback() -> None:
    found = chosen(FULL, FREE)
    assert isinstance(found, Pick)
    assert found.endpoints == (str(B), str(A))


def test_where_nobody_has_room() -> None:
    assert chosen(FULL, FULL) == "full"
    assert chosen(FULL, FULL, whole=False) == "wait"  # others may have more to choose from
    assert chosen(FULL, FULL, priority=-1, others=Peaks({})) == "wait"
    assert isinstance(chosen(FULL, FULL, limited=False), Pick)
    assert isinstance(chosen(FULL, FULL, id=SEEKER), Pick)  # it finds out whether there is one slot more


def test_while_others_have_long_waited_few_wait_in_a_server_and_the_rest_here() -> None:
    quick = Speed(slots=4.0, weights=(0.01, 0.0, 0.0, 0.0), seconds=0.1)
    slow = fresh(speed=Speed(slots=4.0, weights=(5.0, 0.0, 0.0, 0.0)), inflight=1, running=1)
    for inflight, stands, best in ((5, True, A), (6, True, B), (6, False, A)):
        found = chosen(fresh(speed=quick, inflight=inflight, running=4), slow, stands=stands)
        assert isinstance(found, Pick)
        assert found.endpoints[0] == str(best)
    found = chosen(fresh(speed=quick, inflight=5, running=4), slow, priority=-1)
    assert isinstance(found, Pick)
    assert found.endpoints[0] == str(B)  # never in a queue


def test_negative_priority_leaves_slots_to_others() -> None:
    four = fresh(speed=Speed(slots=4.0, seconds=2.0), inflight=2, running=2)
    assert chosen(four, four, priority=-1, others=Peaks({str(A): 4.0, str(B): 4.0})) == "wait"
    assert isinstance(chosen(four, four, priority=-1), Pick)
    assert places(view(A, loads=(four,)), Turn(OTHER)) == ([True], False)


def test_an_objective() -> None:
    slow = fresh(speed=Speed(slots=4.0, weights=(1.0, 0.0, 0.0, 0.0)), inflight=1, running=1)
    assert chosen(slow, slow, left=0.5) == "late"
    assert isinstance(chosen(slow, slow, left=1.5), Pick)
    assert isinstance(chosen(slow, slow, left=0.5, limited=False), Pick)


def test_a_filter_that_only_the_busy_pass_waits_for_them() -> None:
    decode = profile("decode-filter")
    seen = view(endpoint(1, "decode"), endpoint(2, "prefill"), loads=(FULL, FREE))
    assert choose(seen, decode, Turn(OTHER)) == "wait"
    with pytest.raises(NoEndpoint):
        choose(view(endpoint(2, "prefill"), loads=(FREE,)), decode, Turn(OTHER))


def test_who_rests_has_no_room() -> None:
    found = chosen(fresh(resting=200.0), FREE)
    assert isinstance(found, Pick)
    assert found.endpoints == (str(B),)
