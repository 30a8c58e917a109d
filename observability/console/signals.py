"""What the page draws of the metrics: per model the counters and distributions of the golden signals, from a snapshot of the registry.

All are cumulative: the page asks every few seconds and takes differences, so nothing is kept here for pages that nobody looks at.
"""

from collections.abc import Iterable
from typing import Any

from observability import catalogue as c
from observability.catalogue import Metric
from observability.registry import Distribution, Point, Reading

_DISTRIBUTIONS = {
    "duration": c.REQUEST_DURATION_SECONDS,
    "ttft": c.TIME_TO_FIRST_TOKEN_SECONDS,
    "tpot": c.TIME_PER_OUTPUT_TOKEN_SECONDS,
}
BUCKETS = {
    name: list(metric.buckets) for name, metric in _DISTRIBUTIONS.items()
}  # upper bounds in seconds, without +Inf


def requests(readings: Iterable[Reading]) -> list[dict[str, Any]]:
    """One entry for each (pool, model, target model, priority), sorted.

    Counts since the start: `total`, `errors` by class, `tokens` by type, and for each of BUCKETS how many were in each bucket.
    `inflight` is a gauge. Series that differ in other labels (outcome, reason, streaming) are added.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    points = {reading.metric.name: reading.points for reading in readings}

    def each(metric: Metric, *more: str) -> Iterable[tuple[dict[str, Any], tuple[str, ...], Point]]:
        at = [metric.label_names.index(label.name) for label in c.BASE]
        beside = [metric.label_names.index(name) for name in more]
        for point in points.get(metric.name, ()):
            key = tuple(point.labels[i] for i in at)
            entry = found.get(key) or found.setdefault(key, _empty(key))
            yield entry, tuple(point.labels[i] for i in beside), point

    for metric, name in ((c.REQUESTS_TOTAL, "total"), (c.REQUESTS_INFLIGHT, "inflight")):
        for entry, _, point in each(metric):
            entry[name] += point.value
    for metric, name, label in ((c.REQUEST_ERRORS_TOTAL, "errors", "class"), (c.TOKENS_TOTAL, "tokens", "type")):
        for entry, (kind,), point in each(metric, label):
            entry[name][kind] += point.value
    for name, metric in _DISTRIBUTIONS.items():
        for entry, _, point in each(metric):
            if isinstance(point.value, Distribution):
                entry[name] = [sum(pair) for pair in zip(entry[name], point.value.counts, strict=True)]
    return [found[key] for key in sorted(found)]


def _empty(key: tuple[str, ...]) -> dict[str, Any]:
    pool, model, target, priority = key
    return {
        "pool": pool,
        "model": model,
        "target_model": target,
        "priority": priority,
        "total": 0,
        "inflight": 0,
        "errors": dict.fromkeys(c.CLASS.values, 0),
        "tokens": dict.fromkeys(c.TOKEN_TYPE.values, 0),
        **{name: [0] * (len(bounds) + 1) for name, bounds in BUCKETS.items()},
    }
