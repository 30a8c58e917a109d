"""Lengths of time as Prometheus writes them."""

import argparse
import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def duration(text: str) -> str:
    """An argparse type: as Prometheus writes them, e.g. 90s, 5m, 1h30m."""
    if not re.fullmatch(r"(\d+[smhdw])+", text) or not 0 < in_seconds(text) <= 366 * 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write e.g. 90s, 5m, 1h30m, at most 52w")
    return text


def in_seconds(text: str) -> int:
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhdw])", text))
