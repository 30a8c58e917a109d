"""What a run of benchmarks.quality is worth: one row of figures."""

from collections.abc import Sequence
from typing import Any

from benchmarks._workloads import Request, Workload

WARM_UP = 0.2  # of the time: caches fill, and pickers learn


def percentile(values: Sequence[float], share: float) -> float | None:
    """The nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else None


def jain(values: Sequence[float]) -> float | None:
    """1: all get the same; 1/n: one gets it all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def fair_shares(demands: Sequence[float], total: float) -> list[float]:
    """Max-min: nobody gets more than is asked for, and what is left is shared evenly."""
    shares = [0.0] * len(demands)
    order = sorted(range(len(demands)), key=demands.__getitem__)
    for position, index in enumerate(order):
        shares[index] = min(demands[index], total / (len(order) - position))
        total -= shares[index]
    return shares


def fairness(requests: Sequence[Request]) -> float | None:
    """Jain's index over tenants, of what each got (requests that were good) of its max-min fair share."""
    offered: dict[str, int] = {}
    good: dict[str, int] = {}
    for one in requests:
        offered[one.tenant] = offered.get(one.tenant, 0) + 1
        good[one.tenant] = good.get(one.tenant, 0) + one.good
    tenants = sorted(offered)
    shares = fair_shares([offered[one] for one in tenants], sum(good.values()))
    return jain([min(1.0, good[one] / share) if share else 1.0 for one, share in zip(tenants, shares, strict=True)])


def row(workload: Workload, load: float, policy: str, requests: Sequence[Request], seconds: float) -> dict[str, Any]:
    """Of the requests that were to come after the warm-up; times in milliseconds, shares of what was offered."""
    counted = [one for one in requests if one.arrival >= WARM_UP * seconds]
    found = {"workload": workload.name, "load": load, "policy": policy, **figures(counted)}
    ended = [one for one in requests if one.end is not None and WARM_UP * seconds <= one.end < seconds]
    span = (1.0 - WARM_UP) * seconds
    found["throughput"] = _rounded(sum(one.tokens for one in ended) / span, 0)
    found["requests_per_second"] = _rounded(len(ended) / span, 2)
    found["jain"] = _rounded(fairness(counted), 3)
    if workload.split:
        values = sorted({str(getattr(one, workload.split)) for one in counted})
        found["split"] = {
            value: figures([one for one in counted if str(getattr(one, workload.split)) == value]) for value in values
        }
    return found


def figures(counted: Sequence[Request]) -> dict[str, Any]:
    served = [one for one in counted if one.status == 200]
    ttft = [one.ttft * 1000 for one in served if one.ttft is not None]
    tpot = [
        (one.end - one.first) / (one.tokens - 1) * 1000
        for one in served
        if one.tokens > 1 and one.end is not None and one.first is not None
    ]
    shares = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99))
    prompts = sum(one.prompt_tokens for one in served)
    return {
        "offered": len(counted),
        "served": len(served),
        "shed": sum(one.status == 429 for one in counted),
        "failed": sum(one.status not in (200, 429) for one in counted),
        **{f"ttft_{name}_ms": _rounded(percentile(ttft, share), 0) for name, share in shares},
        "tpot_p50_ms": _rounded(percentile(tpot, 0.5), 1),
        "goodput": _rounded(sum(one.good for one in counted) / len(counted) if counted else None, 3),
        "hit_ratio": _rounded(sum(one.cached for one in served) / prompts if prompts else None, 3),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
