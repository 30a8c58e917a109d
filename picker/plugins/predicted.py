"""What llm-d's latency plugins ask for: the predicted TTFT, and the headroom to the objective that the request brings.

llm-d predicts with models trained beside the picker; here it is ttft.predict, learned from the requests that ended. The time of an
output token is not predicted: an objective for it (x-llm-d-slo-tpot-ms) has no effect, and the TTFT's counts alone.
"""

from collections.abc import Sequence

from picker.limits import objective_of
from picker.scorers import View, kv_cache_utilization_scorer, waiting
from picker.ttft import predict

_STEPS = 100  # scores are whole hundredths, as in llm-d


def ttfts(view: View) -> list[float]:
    """Seconds until the first token, of each candidate."""
    return predict(view)


def headrooms(view: View) -> list[float]:
    """Objective less prediction, in seconds; without an objective everything is late, as an objective of 0 is in llm-d."""
    wanted = objective_of(view.request.headers, None) or 0.0
    return [wanted - seconds for seconds in ttfts(view)]


def slo_tiers(rooms: Sequence[float]) -> tuple[list[int], list[int]]:
    """(meets the objective, misses it)."""
    good = [i for i, room in enumerate(rooms) if room >= 0.0]
    return good, [i for i, room in enumerate(rooms) if room < 0.0]


def headroom_scores(view: View, *, most: bool) -> list[float]:
    """Among those that meet the objective: the one that fits best (`most`: with the most room). Where none does: the least late.

    Of those that are late and idle, if any, only these: an idle one has nothing to be late for but its own start.
    """
    rooms = headrooms(view)
    good, late = slo_tiers(rooms)
    chosen = good or [i for i in late if not view.loads[i].inflight] or late
    sizes = [abs(rooms[i]) for i in chosen]
    low, width = min(sizes), max(sizes) - min(sizes)
    scores = [0.0] * len(rooms)
    for i, size in zip(chosen, sizes, strict=True):
        share = (size - low) / width if width > 1e-9 else 0.5
        part = share if most and good else 1.0 - share
        scores[i] = min(1.0, (int(part * _STEPS) + 1) / _STEPS)
    return scores


def composite_scores(view: View, kv: float, queue: float, prefix: float) -> list[float]:
    """Free KV cache, the shorter queue and the cached prefix, weighted: for requests of which no latency can be predicted."""
    total = kv + queue + prefix
    kv, queue, prefix = (kv / total, queue / total, prefix / total) if total > 0 else (1.0, 0.0, 0.0)
    queues = [waiting(load) for load in view.loads]
    longest = max(queues) or 1.0
    free = kv_cache_utilization_scorer(view)
    return [
        min(1.0, kv * free[i] + queue * (1.0 - queues[i] / longest) + prefix * view.matched[i] / (view.cacheable or 1))
        for i in range(len(queues))
    ]
