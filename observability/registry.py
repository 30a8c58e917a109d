"""The registry: pre-bound series, no locks, well under a microsecond an operation; exporters read its `snapshot()`.

One event loop owns it, so nothing is locked. A series is bound once (where undeclared names and labels are errors) and
then only added to. Figures: benchmarks/record.py.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from observability.catalogue import METRICS, OTHER, Kind, Metric


class UndeclaredError(Exception):
    """Our mistake: a metric, label or label value that the catalogue does not have."""


class Counter:
    """Only grows."""

    __slots__ = ("value",)

    def __init__(self, _metric: Metric) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def read(self) -> float:
        return self.value


class Gauge:
    __slots__ = ("value",)

    def __init__(self, _metric: Metric) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def read(self) -> float:
        return self.value


class Exemplar(NamedTuple):
    """One observation, and the trace that it belongs to."""

    value: float
    trace_id: str
    span_id: str
    time: float  # time.time(), roughly: of the request


@dataclass(frozen=True, slots=True)
class Distribution:
    """`counts[i]` observations fell in (bounds[i-1], bounds[i]]; the last count is above every bound. Not cumulative.

    `exemplars` are indices of buckets, ascending, with the last traced observation that fell there.
    """

    counts: tuple[int, ...]
    sum: float
    exemplars: tuple[tuple[int, Exemplar], ...] = ()

    def within(self, start: float, end: float) -> tuple[Exemplar, ...]:
        """The exemplars of an interval, in the order of their values."""
        return tuple(each for _, each in self.exemplars if start <= each.time <= end)


class Histogram:
    """`take` is for those who keep observations until there are many: half the cost of `observe` for each."""

    __slots__ = ("_counts", "_sum", "bounds", "exemplars")

    def __init__(self, metric: Metric) -> None:
        self.bounds = metric.buckets
        self.exemplars: dict[int, tuple[float, str, str, float]] = {}
        self._counts = [0] * (len(metric.buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1  # a value equal to a bound is in its bucket: `le`
        self._sum += value

    def take(self, values: list[float]) -> None:
        """Observe all of them; they are sorted for that, and gone then."""
        if not values:
            return
        self._sum += sum(values)
        values.sort()
        counts, end, done = self._counts, len(values), 0
        first = bisect_left(self.bounds, values[0])
        for at, bound in enumerate(self.bounds[first:], first):
            upto = bisect_right(values, bound, done)
            counts[at] += upto - done
            done = upto
            if done == end:
                break
        counts[-1] += end - done
        values.clear()

    def exemplify(self, value: float, trace_id: str, span_id: str, time: float) -> None:
        """Beside `observe`, for the few observations that have a trace: the others pay nothing."""
        self.exemplars[bisect_left(self.bounds, value)] = (value, trace_id, span_id, time)

    def read(self) -> Distribution:
        if not self.exemplars:
            return Distribution(tuple(self._counts), self._sum)
        found = ((at, Exemplar(*self.exemplars[at])) for at in sorted(self.exemplars))
        return Distribution(tuple(self._counts), self._sum, tuple(found))


Series = TypeVar("Series", Counter, Gauge, Histogram)


class Family(Generic[Series]):
    """All series of one metric, by their label values in the catalogue's order."""

    __slots__ = ("_make", "metric", "series")

    def __init__(self, metric: Metric, make: Callable[[Metric], Series]) -> None:
        self.metric = metric
        self.series: dict[tuple[str, ...], Series] = {}
        self._make: Callable[[Metric], Series] = make
        if not metric.labels:
            self.bind()  # a metric without labels is there from the start, at 0

    def bind(self, **labels: str) -> Series:
        """The series of these labels, made if new; all labels of the metric and no other, or UndeclaredError."""
        values = label_values(self.metric, labels)
        found = self.series.get(values)
        if found is None:
            found = self.series[values] = self._make(self.metric)
        return found


class Sample(NamedTuple):
    """What a collector yields: the present value of a gauge, or of a counter that is kept elsewhere."""

    metric: Metric
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Point:
    """One series at one moment; `labels` are values in the order of the metric's labels."""

    labels: tuple[str, ...]
    value: float | Distribution


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric at one moment; points sorted by labels."""

    metric: Metric
    points: tuple[Point, ...]


class Registry:
    """For one event loop; not thread-safe. A `snapshot` may be read by any thread."""

    def __init__(self, metrics: Mapping[str, Metric] = METRICS) -> None:
        self._declared = metrics
        self._counters: dict[str, Family[Counter]] = {}
        self._gauges: dict[str, Family[Gauge]] = {}
        self._histograms: dict[str, Family[Histogram]] = {}
        self._collectors: list[Callable[[], Iterable[Sample]]] = []
        self._folds: list[Callable[[], None]] = []

    def counter(self, metric: Metric) -> Family[Counter]:
        self._check(metric, "counter")
        found = self._counters.get(metric.name)
        return found or self._counters.setdefault(metric.name, Family(metric, Counter))

    def gauge(self, metric: Metric) -> Family[Gauge]:
        self._check(metric, "gauge")
        found = self._gauges.get(metric.name)
        return found or self._gauges.setdefault(metric.name, Family(metric, Gauge))

    def histogram(self, metric: Metric) -> Family[Histogram]:
        self._check(metric, "histogram")
        found = self._histograms.get(metric.name)
        return found or self._histograms.setdefault(metric.name, Family(metric, Histogram))

    def collect(self, collector: Callable[[], Iterable[Sample]]) -> None:
        """Ask `collector` at every snapshot: what it no longer yields is gone, so an endpoint's gauges leave with it."""
        self._collectors.append(collector)

    def settle(self, fold: Callable[[], None]) -> None:
        """Call `fold` before every snapshot: whoever keeps something back adds it then, so that no reader can miss it."""
        self._folds.append(fold)

    def drop(self, label: str, value: str) -> None:
        """Forget every series in which `label` is `value`, e.g. an endpoint that is gone. Holders must bind again."""
        for family in self._families():
            if label in family.metric.label_names:
                at = family.metric.label_names.index(label)
                for values in [values for values in family.series if values[at] == value]:
                    del family.series[values]

    def snapshot(self) -> tuple[Reading, ...]:
        """Every series now, sorted by name and labels: equal states give equal snapshots."""
        for fold in self._folds:
            fold()
        found: dict[str, dict[tuple[str, ...], float | Distribution]] = {}
        for family in self._families():
            found[family.metric.name] = {values: series.read() for values, series in family.series.items()}
        for collector in self._collectors:
            for metric, labels, value in collector():
                self._check(metric, "gauge" if metric.kind == "gauge" else "counter")
                found.setdefault(metric.name, {})[label_values(metric, labels)] = value
        return tuple(
            Reading(self._declared[name], tuple(Point(labels, points[labels]) for labels in sorted(points)))
            for name, points in sorted(found.items())
            if points
        )

    def _families(self) -> Iterator[Family[Any]]:
        yield from self._counters.values()
        yield from self._gauges.values()
        yield from self._histograms.values()

    def _check(self, metric: Metric, kind: Kind) -> None:
        if self._declared.get(metric.name) is not metric:
            raise UndeclaredError(f"{metric.name} is not in the catalogue")
        if metric.kind != kind:
            raise UndeclaredError(f"{metric.name} is a {metric.kind}, not a {kind}")


def label_values(metric: Metric, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The values in the catalogue's order; UndeclaredError unless they are exactly the metric's labels."""
    if labels.keys() != set(metric.label_names):
        raise UndeclaredError(f"{metric.name} has labels {metric.label_names}, not {tuple(labels)}")
    for label in metric.labels:
        if label.values and labels[label.name] not in label.values:
            raise UndeclaredError(f"{metric.name}: {label.name}={labels[label.name]!r} is not one of {label.values}")
    return tuple(labels[label.name] for label in metric.labels)


class Capped:
    """Bounds a label whose values clients choose: pinned names always pass, others until `cap`, the rest are `other`.

    Without it, one client that invents model names fills the memory of the gateway and of Prometheus.
    """

    __slots__ = ("_cap", "_known", "_pinned")

    def __init__(self, pinned: Iterable[str] = (), cap: int = 200) -> None:
        self._pinned = frozenset(pinned)
        self._known: set[str] = set()
        self._cap = cap

    def pin(self, names: Iterable[str]) -> None:
        """The names that routes and pools have now; replaces those of before."""
        self._pinned = frozenset(names)

    def admit(self, name: str, *, new: bool = True) -> str:
        """`name` or `other`; with `new=False`, `name` only where it is known (a failed request teaches us no name)."""
        if not name or name in self._pinned or name in self._known:
            return name
        if not new or len(self._known) >= self._cap or len(name) > 128 or not name.isprintable():
            return OTHER
        self._known.add(name)
        return name

    def forget(self, name: str) -> None:
        self._known.discard(name)
