"""Figures and axes: round ticks that hold all values, units that people read."""

import math
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given, strategies as st

from observability.dashboards.model import Unit
from observability.pictures.scale import clock, figure, scale

UNITS = get_args(Unit)
VALUES = st.lists(st.floats(-1e12, 1e12).filter(lambda each: not each or abs(each) > 1e-9), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (0.0000125, "s", "12.5 µs"),
        (0.0283, "s", "28.3 ms"),
        (0.9997, "s", "1 s"),
        (42.0, "s", "42 s"),
        (150.0, "s", "2.5 min"),
        (7200.0, "s", "2 h"),
        (0.9995, "10^2.%", "99.95 %"),
        (0.999, "10^2.%", "99.9 %"),
        (1.0, "10^2.%", "100 %"),
        (0.0002, "10^2.%", "0.02 %"),
        (0.455, "10^2.%", "45.5 %"),
        (12.0, "10^2.%", "1200 %"),
        (999.7, "{token}", "1 k tok"),
        (45_900.0, "{token}/s", "45.9 k tok/s"),
        (116.4, "1/s", "116 /s"),
        (0.0, "1/s", "0 /s"),
        (7960.0, "By", "7.77 KiB"),
        (2.0**30, "By", "1 GiB"),
        (0.613, "1", "0.613"),
        (-0.0545, "1/s", "-0.0545 /s"),
        (math.nan, "s", "none"),
        (math.inf, "s", "∞"),
        (-math.inf, "1", "-∞"),
    ],
)
def test_figures(value: float, unit: Unit, text: str) -> None:
    assert figure(value, unit) == text


@given(VALUES, st.sampled_from(UNITS), st.booleans(), st.booleans())
def test_an_axis_holds_all_values_and_its_ticks_rise_within_it(
    values: list[float], unit: Unit, log: bool, zero: bool
) -> None:
    axis = scale(values, unit, log=log, zero=zero)
    assert axis.low < axis.high
    assert list(axis.ticks) == sorted(set(axis.ticks))
    assert 1 <= len(axis.ticks) <= 8
    assert all(-1e-6 <= axis.place(tick) <= 1 + 1e-6 for tick in axis.ticks)
    held = [value for value in values if value > 0] if axis.log else values
    slack = (axis.high - axis.low) * 1e-8
    for value in held:
        assert axis.low - slack <= value <= axis.high + slack
    low, high = min(values), max(values)
    assert axis.place(low) <= axis.place(high)


@pytest.mark.parametrize(
    ("values", "unit", "log", "zero", "ticks"),
    [
        ([0.0, 137.0], "1/s", False, True, (0, 50, 100, 150)),
        ([0.0], "1/s", False, True, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ([-0.13, 0.17], "1/s", False, True, (-0.2, -0.1, 0, 0.1, 0.2)),
        ([0.004, 0.071], "s", True, True, (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)),
        ([1e-5, 8.0], "s", True, True, (1e-5, 1e-3, 0.1, 10.0)),
        ([3600.0, 5000.0], "s", False, True, (0, 1800, 3600, 5400)),
        ([0.0, 10_600.0], "By", False, True, (0, 5 * 1024, 10 * 1024, 15 * 1024)),
        ([300.0, 3900.0], "By", True, True, (256, 512, 1024, 2048, 4096)),
        ([0.9917, 1.0], "10^2.%", False, False, (0.99, 0.992, 0.994, 0.996, 0.998, 1.0)),
        ([0.0, 0.0], "s", True, True, (0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    ],
)
def test_ticks_are_round(values: list[float], unit: Unit, log: bool, zero: bool, ticks: tuple[float, ...]) -> None:
    assert scale(values, unit, log=log, zero=zero).ticks == pytest.approx(ticks)


def test_what_is_outside_is_at_the_edge() -> None:
    linear, log = scale([0.0, 10.0], "1"), scale([1.0, 100.0], "1", log=True)
    assert (linear.place(-5.0), linear.place(5.0), linear.place(50.0)) == (0.0, 0.5, 1.0)
    assert (log.place(0.0), log.place(10.0), log.place(1e6)) == (0.0, pytest.approx(0.5), 1.0)


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("start", "end", "labels"),
    [
        ("2026-11-28T03:00:07", "2026-11-28T03:01:00", ["03:00:15", "03:00:30", "03:00:45", "03:01:00"]),
        ("2026-11-28T02:10:00", "2026-11-28T03:09:00", ["02:15", "02:30", "02:45", "03:00"]),
        (
            "2026-11-27T13:00:00",
            "2026-11-28T13:30:00",
            ["28 Nov 00:00", "28 Nov 12:00"],
        ),
        ("2026-11-20T12:00:00", "2026-11-28T12:00:00", ["21 Nov", "23 Nov", "25 Nov", "27 Nov"]),
    ],
)
def test_times_of_an_axis_are_round(start: str, end: str, labels: list[str]) -> None:
    assert [label for _, label in clock(at(start), at(end), 4)] == labels
