"""Admitters: whom to refuse before the pick, by llm-d's names. They decide over requests of negative priority only.

`latency-slo-admitter` is none of them: flow control answers whoever asks for a time to first token that cannot be met.
"""

from collections.abc import Callable, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from picker.load import Load
from picker.plugins.parameters import Parameters
from picker.scorers import known, waiting

Shed = Callable[[Sequence[Load], float, str], bool]  # (loads of the pool, now, id: the source of chance) -> refuse?


def _probabilistic(given: Parameters) -> Shed:
    """The fuller the pool, the likelier: min(1, k * saturation^power)."""
    queue, kv_usage = given.number("queueDepthThreshold", 5, 0.01), given.number("kvCacheUtilThreshold", 0.8, 0.01)
    power, k = given.number("power", 5.0, 0.0, 100.0), given.number("k", 300.0)

    def shed(loads: Sequence[Load], now: float, id_: str) -> bool:
        fresh = [load for load in loads if known(load, now)]
        if not fresh:
            return False
        full = sum(max(waiting(load) / queue, load.kv_usage / kv_usage) for load in fresh) / len(fresh)
        return xxh3_64_intdigest(id_.encode()) / 2**64 < k * float(min(full, 1.0) ** power)

    return shed


ADMITTERS: Mapping[str, Callable[[Parameters], Shed]] = {"probabilistic-admitter": _probabilistic}
