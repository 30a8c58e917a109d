"""Flow control of one pool: who waits in the gateway, for how long, and who is answered instead. A pure state machine.

Requests wait here and not in the servers, since only here the next place to become free is known, whatever server has it, and
who is to have it. Decision: docs/decisions/0009-flow-control.md. Compare llm-d router 0.10, pkg/epp/flowcontrol: no ticker, no
estimate that is older than our own count, and no band that starves. Saturation is its `utilization-detector` with two
corrections: what we sent since the last scrape counts, and an endpoint of unknown load counts by its in-flight requests alone.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from math import ceil, exp, inf
from typing import Literal

from picker.facts import Reason, Refused
from picker.limits import DEFAULT, MAX_TTL, Limits
from picker.load import Load
from picker.plugins.flow_control import Thresholds
from picker.queues import Item, Queues
from picker.scorers import known, waiting
from picker.spare import Others

MAX_CONCURRENCY = 100  # requests in flight that saturate an endpoint of which nothing else is known
MAX_RETRY_AFTER = 30  # seconds
PATIENCE = 5.0  # seconds: where a request without an objective stands among those that have one
ANSWER_TOKENS = 256  # what an answer costs a tenant's share: how long it will be nobody knows

Verdict = Literal["sent", "refused", "wait", "full"]  # full: nobody else has a place either


def saturation(loads: Sequence[Load], now: float, thresholds: Thresholds, queued: int = 0) -> float:
    """The mean over the endpoints of max(waiting / queue threshold, KV usage / KV threshold); 1.0 is full, also if none is.

    `queued`: those that wait in the gateway count as if they waited in the servers; an autoscaler must see them.
    """
    if not loads:
        return 1.0
    here = queued / thresholds.queue
    return (sum(_fullness(load, now, thresholds) for load in loads) + here) / len(loads)


def causes(loads: Sequence[Load], now: float, thresholds: Thresholds, queued: int = 0) -> dict[str, float]:
    """What `saturation` is made of, each as a mean over the endpoints; our own count and the accelerator are told beside it."""
    count = len(loads) or 1
    fresh = [load for load in loads if known(load, now)]
    return {
        "queue": sum(waiting(load) for load in fresh) / thresholds.queue / count,
        "gateway_queue": queued / thresholds.queue / count,
        "kv_cache": sum(load.kv_usage for load in fresh) / thresholds.kv_usage / count,
        "inflight": sum(load.inflight for load in loads) / MAX_CONCURRENCY / count,
        "utilization": sum(load.utilization or 0.0 for load in fresh) / count,
    }


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


_MESSAGES: Mapping[Reason, str] = {
    "queue_full": "too many requests wait for this pool",
    "queue_ttl": "no model server became free in the time that the request may wait",
    "slo_unreachable": "the time to first token that is asked for cannot be met now",
    "shed_priority": "the pool is saturated, and requests of negative priority wait; try again later",
    "no_endpoints": "the pool has no ready endpoint",
    "shutting_down": "the gateway is shutting down",
}


class Drain:
    """How fast a queue moves: turns a second, of the time in which somebody waited; older turns count less."""

    __slots__ = ("_at", "_seconds", "_turns")
    TAU = 10.0  # seconds of waiting
    ENOUGH = 4.0  # turns; before that nothing is claimed

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._turns = self._seconds = 0.0
        self._at: float | None = None  # until when the time in which somebody waited is counted; None: nobody waits

    def run(self, now: float, waits: bool) -> None:
        """Time has come to `now`; from now on somebody waits, or nobody does."""
        if self._at is not None and now > self._at:
            kept = exp((self._at - now) / self.TAU)
            self._turns *= kept
            self._seconds = self._seconds * kept + self.TAU * (1.0 - kept)
        self._at = now if waits else None

    def turn(self) -> None:
        self._turns += 1.0

    @property
    def rate(self) -> float | None:
        """Turns a second; None where too few were seen."""
        return self._turns / self._seconds if self._turns >= self.ENOUGH and self._seconds > 0.0 else None


class FlowControl:
    """The requests of one pool that wait. Every method takes `now`, monotonic seconds, which never goes back."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self.queues = Queues(limits.weights, limits.share)
        self.drain = Drain()
        self._deadlines: list[tuple[float, int, Item]] = []  # sorted
        self.others = Others()

    def configure(self, limits: Limits) -> None:
        """From now on: those that wait already are not asked again."""
        self.limits = limits
        self.queues.configure(limits.weights, limits.share)

    def __len__(self) -> int:
        return len(self.queues)

    def item(
        self, id_: str, priority: int, flow: str, *, tokens: int, size: int, now: float, ttl: float,
        objective: float | None = None,
    ) -> Item:  # fmt: skip
        """A request that could wait. `ttl` and `objective` are its own, in seconds; it does not wait before `join`."""
        band = self.limits.of(priority)
        until = now + min(ttl, MAX_TTL)
        key = {
            "deadline": now + (PATIENCE if objective is None else objective),
            "fcfs": now,
            "edf": until,
        }[band.ordering]
        item = Item(id_, priority, flow if band.fair else "", tokens + ANSWER_TOKENS, size, now, until, key)
        item.patient = band.ordering == "deadline" and objective is None
        if objective is not None and now + objective < until:
            item.until, item.why = now + objective, "slo_unreachable"
        elif priority < 0:
            item.why = "shed_priority"
        return item

    def join(self, item: Item, now: float) -> list[tuple[Item, Refused]]:
        """It waits from now on. Those that are refused for it: itself, where there is no room, or others of negative priority."""
        refused: list[tuple[Item, Refused]] = []
        while not self._fits(item):
            band = self.limits.of(item.priority)
            held, size = self.queues.held(item.priority)
            other = None
            if held < band.requests and size + item.size <= band.size:  # it is not its own band that is full
                other = self.queues.last(below=min(item.priority, 0))
            if other is None:
                return [*refused, (item, self.refusal("queue_full", now))]
            self._remove(other, now)
            refused.append((other, self.refusal("shed_priority", now)))
        self.drain.run(now, waits=True)
        self.queues.add(item)
        insort(self._deadlines, (item.until, item.number, item))
        return refused

    def cancel(self, id_: str, now: float) -> Item | None:
        """It is not wanted any more."""
        item = self.queues.get(id_)
        if item is not None:
            self._remove(item, now)
        return item

    def expired(self, now: float, *, endpoints: bool) -> list[tuple[Item, Refused]]:
        """Those whose time is over. `endpoints`: whether the pool has any; where it has none, nothing can serve: 503."""
        found: list[tuple[Item, Refused]] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            item = self._deadlines[0][2]
            self._remove(item, now)
            found.append((item, self.refusal(item.why if endpoints else "no_endpoints", now)))
        return found

    def dispatch(self, serve: Callable[[Item], Verdict], now: float, full: Callable[[], bool] = lambda: False) -> None:
        """Give turns while `serve` finds places. Who cannot be served for reasons of its own holds up nobody (in bounds).

        `full` may know before anybody is asked for that none has a place.
        """
        self.drain.run(now, waits=bool(self.queues))
        while not full() and self._turn(serve, now):
            pass

    def _turn(self, serve: Callable[[Item], Verdict], now: float) -> bool:
        for item in self.queues.order(now):
            verdict = serve(item)
            if verdict == "full":
                return False
            if verdict != "wait":
                self._remove(item, now, sent=verdict == "sent")
                return True
        return False

    def clear(self, reason: Reason, now: float) -> list[tuple[Item, Refused]]:
        """Everybody is answered: the pool, or the gateway, ends."""
        found = [(item, self.refusal(reason, now)) for item in self.queues]
        for item, _ in found:
            self._remove(item, now)
        return found

    @property
    def deadline(self) -> float:
        """When somebody's time is over next; inf where nobody waits."""
        return self._deadlines[0][0] if self._deadlines else inf

    def delay(self, item: Item, now: float) -> float:
        """Seconds from `now` until `item` has its turn, if it waits: an estimate that errs on the side of hope; 0 where nothing is known."""
        rate = self.drain.rate
        return self.queues.ahead(item, now) / rate if rate else 0.0

    def refusal(self, reason: Reason, now: float) -> Refused:
        """What the client is told; when to come back is how long it takes until all that wait have had their turn."""
        self.drain.run(now, waits=bool(self.queues))
        if reason in ("no_endpoints", "shutting_down"):
            return Refused(503, reason, _MESSAGES[reason], None)
        rate = self.drain.rate
        seconds = len(self.queues) / rate if rate else 1.0
        return Refused(429, reason, _MESSAGES[reason], min(MAX_RETRY_AFTER, max(1, ceil(seconds))))

    def _fits(self, item: Item) -> bool:
        band = self.limits.of(item.priority)
        held, size = self.queues.held(item.priority)
        return (
            held < band.requests
            and size + item.size <= band.size
            and len(self.queues) < self.limits.requests
            and self.queues.size + item.size <= self.limits.size
        )

    def _remove(self, item: Item, now: float, *, sent: bool = False) -> None:
        del self._deadlines[bisect_left(self._deadlines, (item.until, item.number, item))]
        self.queues.remove(item, charge=sent)
        if sent:
            self.drain.turn()
        self.drain.run(now, waits=bool(self.queues))
