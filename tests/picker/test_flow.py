"""Saturation and shedding."""

from hypothesis import given, strategies as st

from picker.flow import MAX_CONCURRENCY, MAX_RETRY_AFTER, admit, saturation
from picker.load import Load
from picker.profile import Thresholds
from picker.scorers import FREE_SLOTS

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
