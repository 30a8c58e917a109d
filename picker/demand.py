"""Demand: the work that one pool has, as one gateway knows it at a moment: what autoscalers are told is made of it.

Each replica of the gateway has a queue of its own and knows what it has sent itself; what the servers say all replicas read
alike. `merged` joins the views of all replicas. What of it is believed, and what is an error: observability/autoscaling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isinf
from typing import Any

from picker.load import Load
from picker.plugins.flow_control import Thresholds
from picker.prefix import tokens_in
from picker.queues import Queues
from picker.scorers import NO_LOAD, known, running, waiting
from picker.state import State
from xds_server.model.graph import Endpoint

_SAMPLE = 32  # requests of a queue whose prompts are looked up: the rest is as they are


@dataclass(frozen=True, slots=True)
class Figures:
    """One endpoint. Requests, prompt tokens, seconds; `kv_usage` and `utilization` are in [0, 1]."""

    pod: str  # its address: endpoints that share one are ranks of one pod
    known: bool  # whether what the server says can be believed; what we sent we know
    age: float | None  # of what it says; None: it never said anything
    waiting: float
    running: float
    kv_usage: float
    inflight: int  # ours
    tokens: float  # uncached, of ours, whose prefill has probably not ended
    slots: float | None  # that it runs at once, as learned; None: it never had a queue
    seconds: float  # that a request keeps a slot
    prefill: float | None  # tokens a second, with what it has to do now; None: nothing was learned
    seen: float = 0.0  # requests that prefill was learned from: those that were streamed
    ended: int = 0  # requests that seconds was learned from
    utilization: float | None = None  # of the accelerator, where something tells it

    @property
    def busy(self) -> float:
        """Requests that the server has, of whomever."""
        return max(self.running + self.waiting if self.known else 0.0, float(self.inflight))


@dataclass(frozen=True, slots=True)
class Demand:
    """One pool. `queued` requests wait in the gateway, with `queued_tokens` that no endpoint has cached."""

    pool: str
    endpoints: Mapping[str, Figures]  # by "ip:port"; those that drain are not counted on
    queued: int
    queued_tokens: float
    thresholds: Thresholds = Thresholds()
    ttft_objective: float | None = None  # seconds, of requests that name none
    unready: int = 0  # pods that do not serve yet, or not now

    @property
    def pods(self) -> int:
        return len({each.pod for each in self.endpoints.values()})

    @property
    def active(self) -> bool:
        """Whether anybody waits or is served: a pool without work may go to zero."""
        return self.queued > 0 or any(each.busy > 0 for each in self.endpoints.values())

    def plain(self) -> dict[str, Any]:
        """As JSON has it; `of_plain` reads it."""
        return asdict(self)


def of_plain(data: Mapping[str, Any]) -> Demand:
    """Of another replica, which may be of another version: raises TypeError, KeyError or ValueError where that is too far off."""
    endpoints = {str(name): Figures(**each) for name, each in data["endpoints"].items()}
    return Demand(**{**data, "endpoints": endpoints, "thresholds": Thresholds(**data["thresholds"])})


def measure(state: State, loads: Mapping[str, Load], now: float, labels: Mapping[str, str]) -> Demand:
    """What is so now. `labels` narrow it to the pods that have them all: a pool may be several Deployments."""
    found = {
        str(endpoint): _figures(endpoint, loads.get(str(endpoint), NO_LOAD), now)
        for endpoint in state.pool.endpoints
        if not endpoint.draining and labels.items() <= dict(endpoint.labels).items()
    }
    queues = state.flow.queues
    return Demand(
        state.pool.name,
        found,
        len(queues),
        _uncached(queues, state),
        state.profile.thresholds,
        state.flow.limits.ttft_objective,
        state.pool.unready,
    )


def merged(views: Sequence[Demand]) -> Demand:
    """The views of all replicas, at least one, as one: queues add up; of an endpoint, what is ours adds up, and the best
    known says the rest. The endpoints are those of the first.
    """
    first = views[0]
    return replace(
        first,
        endpoints={
            name: _joined([view.endpoints[name] for view in views if name in view.endpoints])
            for name in first.endpoints
        },
        queued=sum(view.queued for view in views),
        queued_tokens=sum(view.queued_tokens for view in views),
    )


def _joined(views: Sequence[Figures]) -> Figures:
    said = min(views, key=lambda each: (not each.known, each.age is None, each.age or 0.0))
    learned = max(views, key=lambda each: (each.seen, each.ended))
    return replace(
        said,
        waiting=max(each.waiting for each in views if each.known == said.known),
        inflight=sum(each.inflight for each in views),
        tokens=sum(each.tokens for each in views),
        slots=learned.slots,
        seconds=learned.seconds,
        prefill=learned.prefill,
        seen=learned.seen,
        ended=learned.ended,
    )


def _figures(endpoint: Endpoint, load: Load, now: float) -> Figures:
    speed = load.speed
    others = load.inflight + speed.foreign
    kilotoken = speed.prefill(1000.0, others, now) - speed.prefill(0.0, others, now)
    return Figures(
        pod=endpoint.address,
        known=known(load, now),
        age=None if isinf(load.scraped) else max(now - load.scraped, 0.0),
        waiting=waiting(load),
        running=running(load),
        kv_usage=load.kv_usage,
        inflight=load.inflight,
        tokens=load.ahead(now) * 1000.0,
        slots=None if isinf(speed.slots) else speed.slots,
        seconds=speed.seconds,
        prefill=1000.0 / max(kilotoken, 1e-4) if speed.seen else None,
        seen=speed.seen,
        ended=speed.ended,
        utilization=load.utilization,
    )


def _uncached(queues: Queues, state: State) -> float:
    """Prompt tokens of those that wait, less what some endpoint has cached. A long queue is sampled: looking all up takes long."""
    total = sampled = cached = 0.0
    every = max(len(queues) // _SAMPLE, 1)
    for index, item in enumerate(queues):
        tokens = item.ask.ask.request.prompt_tokens
        total += tokens
        if index % every == 0:
            sampled += tokens
            longest = max(state.prefixes.match(item.ask.hashes).values(), default=0)
            cached += tokens_in(longest)
    return total * (1.0 - cached / sampled) if sampled else 0.0
