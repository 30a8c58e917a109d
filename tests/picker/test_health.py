"""Who rests, for how long, and how it comes back."""

import pytest
from hypothesis import given, strategies as st

from picker.health import Health, healthy
from picker.load import Load

BAD = ("upstream_connect", "upstream_reset", "stream_aborted", "upstream_5xx", "upstream_timeout")


def health() -> Health:
    found = Health()
    found.update(["a:1", "b:1"])
    return found


def rests(found: Health, now: float, endpoint: str = "a:1") -> bool:
    return found.until(endpoint) > now


@pytest.mark.parametrize("reason", BAD)
def test_two_failures_in_a_row_are_enough(reason: str) -> None:
    found = health()
    for now in (0.0, 0.1):
        found.started("a:1", 0, now)
        found.ended("a:1", reason, now, now + 0.01)
    assert rests(found, 0.12)
    assert not rests(found, 0.12, "b:1")
    assert found.rests >= 1
    assert set(found.resting(0.12)) == {"a:1"}


def test_one_5xx_may_be_the_fault_of_the_request_a_refused_connection_is_not() -> None:
    found = health()
    found.ended("a:1", "upstream_5xx", 0.0, 0.1)
    assert not rests(found, 0.1)
    found.ended("a:1", "", 0.0, 0.2)
    found.ended("a:1", "upstream_5xx", 0.2, 0.3)
    assert not rests(found, 0.3)
    found.ended("b:1", "upstream_connect", 0.0, 0.1)
    assert rests(found, 0.1, "b:1")


@pytest.mark.parametrize(
    "reason", ["upstream_4xx", "client_cancelled", "bad_request", "lost", "picker_unavailable", ""]
)
def test_what_is_not_the_endpoints_fault_never_counts(reason: str) -> None:
    found = health()
    for i in range(100):
        found.started("a:1", 0, i / 10)
        found.ended("a:1", reason, i / 10, i / 10 + 0.05)
    assert not rests(found, 10.0)
    assert not found.rests


def test_who_fails_half_of_the_time_rests_too() -> None:
    found = health()
    for i in range(40):
        found.ended("a:1", "upstream_5xx" if i % 4 else "", float(i), i + 0.1)
    assert found.rests


def test_those_that_were_sent_before_the_rest_are_no_news() -> None:
    found = health()
    for i in range(50):  # a pod dies with fifty requests
        found.ended("a:1", "upstream_reset", 0.0, 5.0 + i / 1000)
    assert found.rests == 1
    assert not rests(found, 5.6)


def test_rests_grow_and_requests_trickle_back() -> None:
    found, now, sent = health(), 0.0, []
    for _ in range(1200):  # a request every 50 ms; it fails for 20 s
        now += 0.05
        if not rests(found, now):
            sent.append(now)
            found.started("a:1", 0, now)
            found.ended("a:1", "upstream_connect" if now < 20 else "", now, now + 0.01)
    failed = [at for at in sent if at < 20]
    assert len(failed) <= 8
    assert min(at for at in sent if at >= 20) < 20 + 32
    back = [at for at in sent if at >= 20]
    assert back[4] - back[0] < 2.0
    assert not found.resting(now)


def test_one_that_comes_back_only_to_fail_gets_a_trickle_only() -> None:
    found, now, sent = health(), 0.0, 0
    for i in range(6000):
        now += 0.01
        if not rests(found, now):
            sent += 1
            found.started("a:1", 0, now)
            if i:
                found.ended("a:1", "upstream_5xx", now, now + 0.3)
    assert sent < 200


def test_who_hangs_while_its_peers_answer() -> None:
    found = health()
    for i in range(8):
        found.started("a:1", i, i / 10)
    for i in range(60):
        now = 0.8 + i / 10
        found.started("b:1", 0, now)
        found.ended("b:1", "", now, now + 0.09)
        found.check("a:1", 8, 1.0, now + 0.09)
    assert rests(found, 7.0) or "a:1" in found.resting(7.0)
    for _ in range(20):  # time alone does not bring it back
        found.started("a:1", 8, 30.0)
    assert "a:1" in found.resting(30.0)
    found.ended("a:1", "", 0.0, 31.0)
    for i in range(8):
        found.started("a:1", 3, 32.0 + i)
        found.ended("a:1", "", 32.0 + i, 32.5 + i)
    assert not found.resting(41.0)


def test_who_hangs_takes_few_with_it_and_has_its_traffic_back_soon() -> None:
    """Seen with a stopped vLLM: a request a second was sent to try it, and none of them ever ended."""
    found = health()
    stuck = 8
    for i in range(stuck):
        found.started("a:1", i, i / 10)
    now, tried = 0.8, 0
    while now < 60.8:
        found.ended("b:1", "", now, now + 0.09)
        found.check("a:1", stuck, 1.0, now + 0.09)
        if "a:1" in found.resting(now) and not rests(found, now):
            found.started("a:1", stuck + tried, now)
            tried += 1
        now += 0.1
    assert 3 <= tried <= 8
    found.ended("a:1", "", 0.0, now)  # it goes on, and with it those that are stuck
    found.ended("a:1", "", 0.1, now)
    assert not rests(found, now + 2.0)


def test_slow_is_not_hanging() -> None:
    found = health()
    found.started("a:1", 0, 0.0)
    found.started("a:1", 1, 0.1)
    found.ended("b:1", "", 9.0, 9.9)
    found.check("a:1", 2, 10.0, 10.0)  # a request takes 10 s there
    assert not rests(found, 10.0)
    found.check("a:1", 1, 1.0, 10.0)  # one request may be long
    assert not rests(found, 10.0)


def test_nobody_hangs_where_nobody_answers() -> None:
    found = health()
    found.started("a:1", 0, 0.0)
    found.check("a:1", 5, 1.0, 100.0)
    assert not rests(found, 100.0)


def test_all_are_candidates_where_all_rest() -> None:
    assert healthy([Load(resting=5.0), Load(), Load(resting=1.0)], 2.0) == [1, 2]
    assert healthy([Load(resting=5.0), Load(resting=9.0)], 2.0) == [0, 1]
    assert healthy([], 0.0) == []


def test_endpoints_that_are_gone_are_forgotten() -> None:
    found = health()
    found.ended("a:1", "upstream_connect", 0.0, 0.1)
    found.update(["b:1"])
    found.update(["a:1"])
    assert not rests(found, 0.2)
    for call in (found.started, found.retried):
        call("x:1", 0, 0.0)
    found.ended("x:1", "upstream_5xx", 0.0, 0.0)
    found.check("x:1", 9, 1.0, 9.0)
    assert len(found._patients) == 1


@given(st.lists(st.tuples(st.sampled_from([*BAD, ""]), st.floats(0, 2), st.booleans()), max_size=80))
def test_whatever_happened_ten_good_requests_make_it_well(steps: list[tuple[str, float, bool]]) -> None:
    found, now = health(), 0.0
    for reason, after, check in steps:
        found.started("a:1", 1, now)
        found.ended("a:1", reason, now, now + after)
        now += after
        if check:
            found.check("a:1", 4, 0.1, now)
        assert found.until("a:1") <= now + 61
    now += 100
    for i in range(10):
        assert found.until("a:1") <= now + i
        found.started("a:1", 0, now + i)
        found.ended("a:1", "", now + i, now + i + 0.01)
    assert not found.resting(now + 20)
