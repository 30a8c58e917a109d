"""Signals: a pool's Demand as the few figures that an autoscaler acts on. What is not known is an error and never zero.

An autoscaler that reads zero for "I do not know" scales a busy pool down. So each signal is a Known or an Unknown that says why;
HorizontalPodAutoscaler and KEDA keep the size that there is while they get errors. Formulas: docs/autoscaling.md. No clock in here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from types import MappingProxyType
from typing import Literal

from observability import catalogue as c
from observability.catalogue import Metric
from picker.demand import Demand, Figures

TOLERANCE = 0.1  # a HorizontalPodAutoscaler leaves the size alone within it: --horizontal-pod-autoscaler-tolerance
SLOTS_IN_USE = 0.8  # of the slots: a pool that is full answers late
SURGE = 4  # pods: no signal asks for more than twice what is there, or so many more: it knows nothing of larger pools

TargetType = Literal["Value", "AverageValue"]


@dataclass(frozen=True, slots=True)
class Signal:
    """`Value`: a target for the pool as a whole; the size changes by value / target. `AverageValue`: a target for each pod."""

    name: str  # as users write it
    metric: Metric
    type: TargetType
    target: float  # what is good for most
    meaning: str


SATURATION = Signal(
    "saturation", c.POOL_SATURATION, "Value", 0.8, "queue and KV cache over what counts as full; 1 is full"
)
QUEUE = Signal(
    "queue", c.POOL_WAITING_REQUESTS, "AverageValue", 1.0, "requests that wait, in the gateway and in servers"
)
INFLIGHT = Signal(
    "inflight", c.POOL_INFLIGHT_REQUESTS, "AverageValue", 8.0, "requests that the gateway holds or has sent"
)
BACKLOG = Signal(
    "token-backlog-seconds",
    c.POOL_TOKEN_BACKLOG_SECONDS,
    "Value",
    0.5,
    "until the first token of a request that comes now: what is before it, over the learned speed",
)
DESIRED = Signal(
    "desired-replicas", c.POOL_DESIRED_REPLICAS, "AverageValue", 1.0, "pods, by the signal that asks for most"
)
SIGNALS: Mapping[str, Signal] = MappingProxyType(
    {signal.name: signal for signal in (DESIRED, SATURATION, BACKLOG, QUEUE, INFLIGHT)}
)
BY_METRIC: Mapping[str, Signal] = MappingProxyType({signal.metric.name: signal for signal in SIGNALS.values()})


class Unavailable(Exception):
    """It is not known now; the message says why. An HTTP 503, a gRPC UNAVAILABLE."""


class UnknownPool(Exception):
    """There is no such pool; an HTTP 404, a gRPC NOT_FOUND."""


@dataclass(frozen=True, slots=True)
class Known:
    value: float
    why: str = ""  # what makes it so
    parts: tuple[tuple[str, float], ...] = ()  # the figures behind it


@dataclass(frozen=True, slots=True)
class Unknown:
    why: str


Reading = Known | Unknown


@dataclass(frozen=True, slots=True)
class Readings:
    """Every signal of one pool at one moment. `asks`: pods that each of them asks for, where it is known."""

    demand: Demand
    values: Mapping[str, Reading]
    asks: Mapping[str, int]
    age: float | None  # seconds, of the oldest figure that is believed; None where nothing was scraped

    def active(self) -> bool:
        """Whether there is work; a pool without may go to zero. Raises Unavailable: what cannot be seen may be at work."""
        if not self.demand.active:
            self.value(QUEUE)
        return self.demand.active

    def value(self, signal: Signal) -> float:
        """Raises Unavailable."""
        found = self.values[signal.name]
        if isinstance(found, Unknown):
            raise Unavailable(f"{signal.name} of pool {self.demand.pool} is not known: {found.why}")
        return found.value


def default_target(signal: Signal, demand: Demand) -> float:
    """Half of the pool's TTFT objective is left for the prompt itself; other targets are the same for all pools."""
    if signal is BACKLOG and demand.ttft_objective:
        return demand.ttft_objective / 2.0
    return signal.target


def read(demand: Demand) -> Readings:
    """All signals. Cheap: a walk over the endpoints."""
    rows, missing = _believed(demand)
    values: dict[str, Reading] = {
        SATURATION.name: missing or _saturation(demand, rows),
        QUEUE.name: missing or _queue(demand, rows),
        INFLIGHT.name: _inflight(demand),
        BACKLOG.name: missing or _backlog(demand, rows),
    }
    asks = _asks(demand, rows, values) if not missing else {}
    values[DESIRED.name] = missing or _desired(demand, rows, asks)
    ages = [each.age for each in demand.endpoints.values() if each.known and each.age is not None]
    return Readings(demand, MappingProxyType(values), MappingProxyType(asks), max(ages, default=None))


def hpa(signal: Signal, value: float, target: float, replicas: int) -> int:
    """The size that a HorizontalPodAutoscaler wants, before its bounds, policies and windows; `replicas` are ready.

    Source: kubernetes/pkg/controller/podautoscaler/replica_calculator.go, GetExternalMetricReplicas and GetExternalPerPod...
    """
    ratio = value / target if signal.type == "Value" else value / (target * max(replicas, 1))
    if replicas and abs(1.0 - ratio) <= TOLERANCE:
        return replicas
    return ceil(ratio * replicas) if signal.type == "Value" and replicas else ceil(value / target)


# --- what is believed -------------------------------------------------------------------------------------------------


def _believed(demand: Demand) -> tuple[list[Figures], Unknown | None]:
    """The endpoints, where one that says nothing counts as the fullest that does; or why that would be a guess.

    So a server that cannot be scraped neither empties a pool nor keeps it from growing. Half of them must say something.
    """
    rows = list(demand.endpoints.values())
    said = [each for each in rows if each.known]
    if 2 * len(said) < len(rows):
        silent = next(each for each in rows if not each.known)
        age = "never said anything" if silent.age is None else f"said nothing for {silent.age:.0f} s"
        return rows, Unknown(f"{len(rows) - len(said)} of {len(rows)} endpoints have no fresh figures; one {age}")
    if len(said) == len(rows):
        return rows, None
    fullest = {name: max(getattr(each, name) for each in said) for name in ("waiting", "running", "kv_usage")}
    return [each if each.known else replace(each, **fullest) for each in rows], None


# --- signals ----------------------------------------------------------------------------------------------------------


def _saturation(demand: Demand, rows: Sequence[Figures]) -> Reading:
    """As the gateway itself has it, picker/flow.py; with what makes it so."""
    if not rows:
        return _without_endpoints(demand, 1.0)
    limits, count = demand.thresholds, len(rows)
    queue = [each.waiting / limits.queue for each in rows]
    memory = [each.kv_usage / limits.kv_usage for each in rows]
    here = demand.queued / limits.queue / count
    value = sum(map(max, queue, memory)) / count + here
    shares = {
        "KV cache of the servers": sum(m for q, m in zip(queue, memory, strict=True) if m >= q) / count,
        "queue in the servers": sum(q for q, m in zip(queue, memory, strict=True) if q > m) / count,
        "queue in the gateway": here,
    }
    cause = max(shares, key=lambda name: shares[name])
    return Known(value, cause if value else "idle", tuple(shares.items()))


def _without_endpoints(demand: Demand, enough: float) -> Reading:
    """At zero: `enough` for a pod where somebody waits. Pods that are there and not ready may be too few, or too many."""
    if demand.unready:
        return Unknown(f"none of its {demand.unready} pods is ready")
    return (
        Known(enough, "requests wait, and there is no pod")
        if demand.queued
        else Known(0.0, "at zero, and nobody waits")
    )


def _queue(demand: Demand, rows: Sequence[Figures]) -> Known:
    servers = sum(each.waiting for each in rows)
    parts = (("in the gateway", float(demand.queued)), ("in the servers", servers))
    return Known(demand.queued + servers, parts=parts)


def _inflight(demand: Demand) -> Known:
    """Our own counts, which are never stale."""
    sent = float(sum(each.inflight for each in demand.endpoints.values()))
    return Known(sent + demand.queued, parts=(("waiting in the gateway", float(demand.queued)), ("sent", sent)))


def _backlog(demand: Demand, rows: Sequence[Figures]) -> Reading:
    """Prefill that is to be done, over the speed of all endpoints, and the wait for a slot, if all are taken."""
    if not rows:
        return _without_endpoints(demand, default_target(BACKLOG, demand))
    tokens = demand.queued_tokens + sum(each.tokens for each in rows)
    over, slots = _over(demand, rows)
    if tokens < 1.0 and over <= 0.0:
        return Known(0.0, "nothing waits", (("uncached tokens", 0.0), ("requests without a slot", 0.0)))
    speeds = [each.prefill for each in rows if each.prefill is not None]
    if not speeds and not any(each.ended for each in rows):
        return Unknown("no request has ended yet, so how fast the servers are was not learned")
    speed = sum(speeds) / len(speeds) * len(rows) if speeds else 0.0
    seconds = sum(each.seconds for each in rows) / len(rows)
    prefill = tokens / speed if speed else 0.0  # where no answer is streamed it is part of the time in a slot
    decode = over * seconds / slots if over > 0.0 else 0.0
    parts = (
        ("uncached tokens", tokens),
        ("prefill tokens a second", speed),
        ("prefill seconds", prefill),
        ("requests without a slot", max(over, 0.0)),
        ("slots", slots or 0.0),
        ("seconds in a slot", seconds),
        ("decode seconds", decode),
    )
    return Known(prefill + decode, "prefill" if prefill >= decode else "wait for a slot", parts)


def _over(demand: Demand, rows: Sequence[Figures]) -> tuple[float, float]:
    """(requests without a slot, slots). A server that never had a queue has as many as it is given, one with a queue what it runs."""
    slots = 0.0
    for each in rows:
        learned = each.slots if each.slots is not None else max(each.running, 1.0) if each.waiting else None
        if learned is None:
            return float(demand.queued), sum(max(row.busy, 1.0) for row in rows)
        slots += learned
    return sum(max(each.busy, 0.0) for each in rows) + demand.queued - slots, slots


# --- our own formula --------------------------------------------------------------------------------------------------


def _asks(demand: Demand, rows: Sequence[Figures], values: Mapping[str, Reading]) -> dict[str, int]:
    """Pods that each signal asks for. A signal that is not known asks for nothing; `_believed` has seen to the scrapes."""
    pods = demand.pods
    if not pods:
        return {}
    ratios: dict[str, Callable[[], float | None]] = {
        SATURATION.name: lambda: _ratio(SATURATION, values, demand),
        BACKLOG.name: lambda: _ratio(BACKLOG, values, demand),
        INFLIGHT.name: lambda: _slots_in_use(demand, rows),
    }
    found = {name: ratio() for name, ratio in ratios.items()}
    return {name: _pods(ratio, pods) for name, ratio in found.items() if ratio is not None}


def _ratio(signal: Signal, values: Mapping[str, Reading], demand: Demand) -> float | None:
    found = values[signal.name]
    return found.value / default_target(signal, demand) if isinstance(found, Known) else None


def _slots_in_use(demand: Demand, rows: Sequence[Figures]) -> float | None:
    """Over what should be in use; None while some endpoint has not shown how many it has."""
    slots = [each.slots for each in rows if each.slots is not None]
    if len(slots) < len(rows) or not slots:
        return None
    return (sum(each.busy for each in rows) + demand.queued) / (sum(slots) * SLOTS_IN_USE)


def _pods(ratio: float, pods: int) -> int:
    if abs(1.0 - ratio) <= TOLERANCE:
        return pods
    return min(ceil(ratio * pods), max(2 * pods, pods + SURGE))


def _desired(demand: Demand, rows: Sequence[Figures], asks: Mapping[str, int]) -> Reading:
    """The most that any signal asks for; while anybody is served or waits, one pod at the least."""
    if not rows:
        return _without_endpoints(demand, 1.0)
    wins = max(asks, key=lambda name: asks[name])
    found = max(asks[wins], int(demand.active))
    parts = (("pods", float(demand.pods)), *((name, float(count)) for name, count in asks.items()))
    return Known(float(found), f"{wins} asks for most" if found else "idle", parts)
