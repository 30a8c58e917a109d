"""Figures as people read them, and axes with round ticks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from observability.dashboards.model import Unit

_TIMES = (1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d")
_BYTES = tuple((1024.0**power, name) for power, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB")))
_COUNTS = (1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")
_AFTER = {"1/s": "/s", "{token}/s": "tok/s", "{token}": "tok"}
_ROUND = 1.0, 2.0, 5.0, 10.0
_ROUND_60 = 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0
_CLOCK = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200),
    *(86_400, 2 * 86_400, 7 * 86_400),
)  # seconds


def figure(value: float, unit: Unit) -> str:
    """With its unit, in about three digits: `12.5 ms`, `3.2 MiB`, `99.95 %`, `1.4 k tok/s`."""
    if not math.isfinite(value):
        return "none" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if unit == "10^2.%":
        return f"{_percent(value * 100)} %"
    size, name = _prefix(max(abs(value), float(f"{abs(value):.3g}")), unit)  # 999.7 ms is 1 s, not 1000 ms
    return " ".join(part for part in (_digits(value / size), name, _AFTER.get(unit, "")) if part)


def _percent(value: float) -> str:
    """99.95 stays apart from 100, and 0.02 from 0."""
    near = min(abs(value), abs(100 - value))
    text = f"{value:.{0 if abs(value) >= 200 else 1 if near >= 1 else 2}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _prefix(size: float, unit: Unit) -> tuple[float, str]:
    steps = {"s": _TIMES, "By": _BYTES}.get(unit, _COUNTS)
    if unit == "s" and not size:
        return 1.0, "s"
    if unit == "s" and size < 100:
        steps = steps[:3]  # 90 s, and not 1.5 min
    return next((step for step in reversed(steps) if size >= step[0]), steps[0] if unit == "s" else (1.0, steps[0][1]))


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to a place between 0 (bottom) and 1 (top)."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """What lies outside is at the edge."""
        if self.log:
            if value <= self.low:
                return 0.0
            return min(math.log(value / self.low) / math.log(self.high / self.low), 1.0)
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def scale(values: Iterable[float], unit: Unit, *, log: bool = False, zero: bool = True, most: int = 5) -> Scale:
    """That holds these finite values, with up to about `most` ticks; without `log` it holds 0, too, unless `zero` is False."""
    found = list(values)
    positive = [value for value in found if value > 0]
    if log and positive:
        return _log(min(positive), max(positive), unit, most)
    found += [0.0] if zero else []
    low, high = min(found), max(found)
    if low == high:
        high = low + (abs(low) or 1.0)
    base, rounds = _base(high - low, unit)
    step = _step((high - low) / base / most, rounds) * base
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, tuple(_clean(at * step) for at in range(first, last + 1)))


def _base(size: float, unit: Unit) -> tuple[float, Sequence[float]]:
    """What ticks are multiples of, so that they read round: 64 KiB, 30 min."""
    if unit == "By":
        return _prefix(size, unit)[0], _ROUND
    if unit == "s" and size >= 100:
        return (60.0, _ROUND_60) if size < 7200 else (3600.0, _ROUND)
    return 1.0, _ROUND


def _step(least: float, rounds: Sequence[float]) -> float:
    if least >= 1 and rounds is _ROUND_60:
        return next((each for each in rounds if each >= least), 60.0 * math.ceil(least / 60))
    power = 10.0 ** math.floor(math.log10(least))
    return next(each for each in _ROUND if each * power >= least * (1 - 1e-9)) * power


def _log(low: float, high: float, unit: Unit, most: int) -> Scale:
    """Ticks at 1, 2 and 5 where a few decades are seen, else at decades; of bytes, at powers of two."""
    if unit == "By":
        first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
        last = max(last, first + 1)
        every = max(math.ceil((last - first) / most), 1)
        return Scale(2.0**first, 2.0**last, tuple(2.0**power for power in range(first, last + 1, every)), log=True)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [_clean(digit * 10.0**power) for power in decades for digit in (1, 2, 5)]
    bottom = max((each for each in marks if each <= low), default=marks[0])
    top = min((each for each in marks if each >= high and each > bottom), default=marks[-1])
    inside = [each for each in marks if bottom <= each <= top]
    if len(inside) > most + 2:
        whole = [each for each in inside if math.log10(each) == round(math.log10(each))]
        inside = whole[:: max(math.ceil(len(whole) / (most + 1)), 1)]
    return Scale(bottom, top, tuple(inside), log=True)


def _clean(value: float) -> float:
    """0.30000000000000004 -> 0.3."""
    return float(f"{value:.12g}")


def clock(start: int, end: int, most: int) -> list[tuple[int, str]]:
    """Round times of the span in UTC, at most about `most` of them, as an axis says them: days only where there are several."""
    seconds = max(end - start, 1)
    step = next((each for each in _CLOCK if seconds / each <= most), _CLOCK[-1])
    form = "%d %b" if step >= 86_400 else "%H:%M:%S" if step < 60 else "%H:%M"
    if form == "%H:%M" and seconds > 86_400:
        form = "%d %b %H:%M"
    first = -(-start // step) * step
    return [(at, datetime.fromtimestamp(at, UTC).strftime(form)) for at in range(first, end + 1, step)]
