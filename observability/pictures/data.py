"""What is drawn: a span of time, and lines of values along it."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from observability.dashboards.model import Panel, Query

MOST = 20  # lines of one panel: as many can be told apart
_LABEL = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class Span:
    """`count` times in whole seconds, `step` apart; the first is `start` (Unix time)."""

    start: int
    step: int
    count: int

    @property
    def end(self) -> int:
        return self.start + self.step * (self.count - 1)

    def coarser(self, count: int) -> "Span":
        """The same span in about `count` steps, and never in more than it has; it ends at the same time."""
        step = self.step * max(self.count // count, 1)
        steps = (self.end - self.start) // step + 1
        return Span(self.end - step * (steps - 1), step, steps)


def span(now: float, seconds: int, count: int = 120) -> Span:
    """The last `seconds` in about `count` steps. Steps are whole, and so are their times: two pages of one hour look alike."""
    step = max(seconds // count, 1)
    end = int(now) // step * step
    steps = seconds // step + 1
    return Span(end - step * (steps - 1), step, steps)


@dataclass(frozen=True, slots=True)
class Series:
    """As the server found it. `values`: one for each step, NaN where there is none."""

    labels: Mapping[str, str]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """`over` a stack it is not stacked."""

    name: str
    values: tuple[float, ...]
    over: bool = False

    @property
    def known(self) -> tuple[float, ...]:
        """The values that there are: at least one."""
        return tuple(value for value in self.values if math.isfinite(value))

    @property
    def last(self) -> float:
        """The newest that there is."""
        return self.known[-1]


@dataclass(frozen=True, slots=True)
class Picture:
    """A panel with what was found for it. `left_out`: lines beyond those that can be told apart. `problem`: of the query."""

    panel: Panel
    span: Span
    lines: tuple[Line, ...] = ()
    left_out: int = 0
    problem: str = ""


def picture(panel: Panel, span: Span, found: Iterable[tuple[Query, Iterable[Series]]]) -> Picture:
    """Lines in the order of their queries, and of their names. Of too many, those with the largest values are shown.

    A line without any value is none: a percentile of nothing is NaN. Nor is the zero that stands for what never happened,
    beside what did.
    """
    lines = [
        Line(named(query, each.labels), each.values, query.over)
        for query, series in found
        for each in _told(series)
        if any(math.isfinite(value) for value in each.values)
    ]
    largest = sorted(range(len(lines)), key=lambda at: -max(lines[at].known))[:MOST]
    shown = tuple(lines[at] for at in sorted(largest))
    return Picture(panel, span, shown, len(lines) - len(shown))


def _told(series: Iterable[Series]) -> list[Series]:
    """In the order of their labels, without the fallback `or vector(0)` where there are others."""
    found = sorted(series, key=lambda one: sorted(one.labels.items()))
    return [each for each in found if each.labels or len(found) == 1 or any(value > 0 for value in each.values)]


def named(query: Query, labels: Mapping[str, str]) -> str:
    """The legend with the values of the labels; without one, the labels. "none" is what a label says that is not there."""
    if not query.legend:
        return ", ".join(f"{key}={labels[key]}" for key in sorted(labels) if key != "__name__") or "value"
    return _LABEL.sub(lambda found: labels.get(found[1]) or "none", query.legend)
