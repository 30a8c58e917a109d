"""Since when a cumulative series counts: what Cloud Monitoring calls the start of the interval, and OTLP the start time.

A start stays until the series begins anew, at 0: because the process did, or because what it counts was gone for a while. Then
the next interval begins after the last point of the old one; an interval that overlaps, or is empty, is refused by both.
"""

from collections.abc import Iterable

from observability.registry import Distribution, Reading

GAP = 0.001  # seconds between two intervals of a series: google.monitoring.v3.TimeInterval wants a millisecond
Key = tuple[str, tuple[str, ...]]  # name, values of the labels


class Intervals:
    """Of one process; `began` is time.time() when its counters were 0."""

    def __init__(self, began: float) -> None:
        self._fresh = began  # where the interval of a series starts that was not there before
        self._known: dict[Key, tuple[float, float]] = {}  # start, total

    def update(self, readings: Iterable[Reading], end: float) -> dict[Key, float]:
        """The start of every cumulative series, for points that end at `end`, which must be later than in all calls before."""
        if end <= self._fresh:
            raise ValueError(f"no interval ends at {end} that starts at {self._fresh}")
        found: dict[Key, tuple[float, float]] = {}
        for reading in readings:
            if reading.metric.kind == "gauge":
                continue
            for point in reading.points:
                key = reading.metric.name, point.labels
                value = point.value
                total = sum(value.counts) if isinstance(value, Distribution) else value
                start, before = self._known.get(key, (self._fresh, 0.0))
                found[key] = self._fresh if total < before else start, total
        self._known = found  # a series that is gone starts afresh should it come back
        self._fresh = end + GAP
        return {key: start for key, (start, _) in found.items()}
