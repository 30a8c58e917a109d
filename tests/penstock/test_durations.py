"""Durations of the command line."""

import argparse

import pytest

from penstock.durations import duration, in_seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("28d", 2_419_200), ("1w", 604_800)]
)
def test_as_prometheus_writes_them(text: str, seconds: int) -> None:
    assert duration(text) == text
    assert in_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "5 m", "1.5h", "1y", "9999w", "5m]) or vector(1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"write e\.g\."):
        duration(text)
