"""Intervals: a start stays, and no interval is empty or overlaps another, whatever series come, go and begin anew."""

import pytest
from hypothesis import given, strategies as st

from observability import catalogue as c
from observability.exporters.intervals import GAP, Intervals
from observability.registry import Point, Reading

KEY = (c.PICKS_TOTAL.name, ("ns/p", "e:1"))


def readings(value: float | None) -> list[Reading]:
    gauge = Reading(c.XDS_CONNECTED_CLIENTS, (Point((), 1.0),))
    return [gauge] if value is None else [gauge, Reading(c.PICKS_TOTAL, (Point(KEY[1], value),))]


def test_a_start_stays_until_the_series_begins_anew() -> None:
    intervals = Intervals(100.0)
    assert intervals.update(readings(1), 160.0) == {KEY: 100.0}
    assert intervals.update(readings(1), 220.0) == {KEY: 100.0}
    assert intervals.update(readings(0), 280.0) == {KEY: 220.0 + GAP}
    assert intervals.update(readings(5), 340.0) == {KEY: 220.0 + GAP}


def test_a_series_that_comes_later_was_zero_before() -> None:
    intervals = Intervals(100.0)
    assert intervals.update(readings(None), 160.0) == {}
    assert intervals.update(readings(5), 220.0) == {KEY: 160.0 + GAP}


def test_a_series_that_comes_back_starts_afresh_even_with_more() -> None:
    intervals = Intervals(100.0)
    intervals.update(readings(5), 160.0)
    intervals.update(readings(None), 220.0)
    assert intervals.update(readings(9), 280.0) == {KEY: 220.0 + GAP}


@pytest.mark.parametrize("end", [99.0, 100.0])
def test_no_interval_is_empty(end: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        Intervals(100.0).update(readings(1), end)


@given(st.lists(st.none() | st.integers(0, 5), max_size=30))
def test_intervals_of_a_series_are_equal_or_apart(values: list[int | None]) -> None:
    intervals, end, before = Intervals(0.0), 0.0, None
    for value in values:
        end += 60.0
        start = intervals.update(readings(value), end).get(KEY)
        if start is None:
            continue
        assert start < end
        if before is not None:
            same, last, total = start == before[0], before[1], before[2]
            assert same or start >= last + GAP
            assert not same or value >= total
        before = start, end, value
