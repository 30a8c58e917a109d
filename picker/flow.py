"""Flow control: whether a request may go on now. A pure decision over loads; queueing will grow here.

Saturation is llm-d's `utilization-detector` with two corrections: what we sent since the last scrape counts (no overshoot between
scrapes), and an endpoint of unknown load counts by its in-flight requests alone.
"""

from collections.abc import Sequence
from math import ceil

from picker.facts import Refused
from picker.load import Load
from picker.profile import Thresholds
from picker.scorers import known, waiting

MAX_CONCURRENCY = 100  # requests in flight that saturate an endpoint of which nothing else is known
MAX_RETRY_AFTER = 30  # seconds


def saturation(loads: Sequence[Load], now: float, thresholds: Thresholds) -> float:
    """The mean over the endpoints of max(waiting / queue threshold, KV usage / KV threshold); 1.0 is full, also if none is."""
    if not loads:
        return 1.0
    return sum(_fullness(load, now, thresholds) for load in loads) / len(loads)


def _fullness(load: Load, now: float, thresholds: Thresholds) -> float:
    if not known(load, now):
        return load.inflight / MAX_CONCURRENCY
    return max(waiting(load) / thresholds.queue, load.kv_usage / thresholds.kv_usage)


def admit(priority: int, full: float) -> Refused | None:
    """None: go on. Only a negative priority is ever shed; a client that comes back should come the later the fuller the pool."""
    if priority >= 0 or full < 1.0:
        return None
    return Refused(
        429,
        "shed_priority",
        "the pool is saturated, and requests of negative priority wait; try again later",
        min(MAX_RETRY_AFTER, max(1, ceil(full))),
    )
