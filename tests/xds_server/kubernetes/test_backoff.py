"""Backoff: grows, ends, and never comes sooner than the server asked."""

from hypothesis import given, strategies as st

from xds_server.kubernetes.backoff import Backoff


def test_it_doubles_up_to_the_ceiling() -> None:
    backoff = Backoff(base=1.0, ceiling=5.0)
    assert [backoff.delay(attempt, lambda: 1.0) for attempt in (1, 2, 3, 4, 1000)] == [1, 2, 4, 5, 5]


@given(st.integers(0, 10**6), st.floats(0, 0.999), st.floats(0, 100))
def test_it_is_at_least_half_and_at_least_what_the_server_asked(attempt: int, dice: float, asked: float) -> None:
    delay = Backoff(base=0.5, ceiling=10.0).delay(attempt, lambda: dice, asked)
    assert max(0.25, asked) <= delay <= max(10.0, asked)
