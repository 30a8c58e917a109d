"""Latency: how fast each endpoint is, learned from the requests that ended. The formulas are `Speed`, a frozen value in its Load.

    TTFT = (base + uncached tokens x prefill speed) x slow-down by in-flight
           + prefill of those before + wait for a slot + loading the adapter

Nothing is configured and nothing is assumed to be equal: slow and fast accelerators, large and small batches differ in what is
learned. A new endpoint starts as its peers are. Decision: docs/decisions/0008-least-predicted-ttft.md. No clock in here.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import exp, inf, log
from statistics import median

# Seconds for each of: 1, kilotokens, in-flight, kilotokens x in-flight. Never negative.
Weights = tuple[float, float, float, float]
_All = tuple[float, float, float, float, float]  # and of the kilotokens whose prefill comes first

# Before anything is known: a mid-sized model on a current accelerator, and ten requests in flight outweigh a cached kilotoken.
_GUESS: _All = (0.02, 0.1, 0.01, 0.01, 0.05)
_GUESSED_SECONDS = 2.0  # in a slot
_GUESSED_COLD = 0.2  # to load an adapter
# Requests' worth of belief, for each weight, that an endpoint is like its peers, and that peers are as guessed.
_OVERTURN = 0.1
_REMEMBER = 0.97  # of what was learned, at each request of an endpoint: the last thirty count
_REMEMBER_POOL = 0.995
_FADE = 60.0  # seconds without a request in which half of what was learned is doubted: who was slow once gets another chance
_FADE_RECENT = 10.0
_RECENT = 5  # requests that tell of a change: their median, so that neither one nor two outliers do
_SURE = 10  # requests that are enough to believe what they tell
_DEAD_BAND = 0.15  # (log) recent requests that differ less are noise
_LEAST = 1e-4  # seconds: shorter ones are not told apart
_MODELS = 1024  # names of adapters that are remembered
_CACHED = 0.8  # of what was predicted is as good as all: templates and block sizes never agree to the token


@dataclass(frozen=True, slots=True)
class Speed:
    """What was learned of one endpoint. All times are seconds; `slots` are requests that it runs at once, inf if unknown."""

    weights: Weights = _GUESS[:4]
    drift: float = 0.0  # log of how much slower than `weights` it has been of late
    at: float = -inf  # when `drift` was measured
    seen: float = 0.0  # requests that it was learned from, the older the less they count
    slots: float = inf
    seconds: float = _GUESSED_SECONDS  # that a request keeps its slot, on the average
    cold: float = _GUESSED_COLD  # to load an adapter
    trust: float = 1.0  # the share of the predicted cached tokens that the server really has
    foreign: float = 0.0  # requests there that are not ours, on the average
    ahead: float = _GUESS[4]  # for each kilotoken of others whose prefill has not ended
    ended: int = 0  # requests that `seconds` was learned from

    def prefill(self, uncached_tokens: float, inflight: float, now: float, ahead: float = 0.0) -> float:
        """Until the first token, once there is a slot; `inflight` are the others, `ahead` kilotokens of them not prefilled."""
        fixed, token = self.line(inflight)
        return (fixed + uncached_tokens * token + ahead * self.ahead) * self.drifted(now)

    def line(self, inflight: float) -> tuple[float, float]:
        """Seconds to the first token for a prompt that is cached, and for each token that is not, as it was before any drift."""
        base, token, request, both = self.weights
        beside = min(inflight, self.slots - 1.0)
        return base + request * beside, (token + both * beside) / 1000.0

    def drifted(self, now: float) -> float:
        """How many times slower than that it is of late."""
        return exp(self.drift * 0.5 ** (max(now - self.at, 0.0) / _FADE_RECENT)) if self.drift else 1.0

    def wait(self, inflight: float) -> float:
        """Until there is a slot: slots become free one after the other, `slots` of them in the time of one request."""
        over = inflight - self.slots + 1.0
        return over * self.seconds / self.slots if over > 0.0 else 0.0


GUESS = Speed()


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that ended well on the endpoint that was chosen for it. Times are seconds and start at the decision."""

    uncached_tokens: float  # as reported, else as predicted
    inflight: float  # others on the endpoint at the decision
    now: float  # when it ended
    seconds: float | None = None  # until its last byte
    ttft: float | None = None  # None too where the answer was not streamed: its first byte comes with its last
    cold: bool = False  # the adapter had to be loaded
    ahead: float = 0.0  # kilotokens of others whose prefill had not ended


class _Fit:
    """Weighted least squares of relative errors with weights that are not negative; forgets, and then falls back on `prior`."""

    __slots__ = ("_moments", "_products", "seen", "weights")

    def __init__(self, prior: _All) -> None:
        self._products = [[0.0] * 5 for _ in range(5)]
        self._moments = [0.0] * 5
        self.weights: _All = prior
        self.seen = 0.0

    def of(self, x: _All) -> float:
        return _dot(self.weights, x)

    def add(self, x: _All, seconds: float, prior: _All, remember: float) -> None:
        guess, seconds = max(_dot(self.weights, x), _LEAST), max(seconds, _LEAST)
        surprise = abs(log(seconds / guess))
        # Relative errors, whichever of both is the larger; Huber: what surprises pulls, but no harder the more it surprises.
        weight = min(1.0, 0.5 / surprise if surprise else 1.0) / (seconds * guess)
        self.fade(remember)
        for row, (products, one) in enumerate(zip(self._products, x, strict=True)):
            self._moments[row] += weight * one * seconds
            for column, other in enumerate(x):
                products[column] += weight * one * other
        self.seen += 1.0
        self.solve(prior)

    def fade(self, share: float) -> None:
        self._products = [[one * share for one in row] for row in self._products]
        self._moments = [one * share for one in self._moments]
        self.seen *= share

    def solve(self, prior: _All) -> None:
        """A few sweeps of coordinate descent from where it stands: cheap, and a weight stops at 0 by itself."""
        found, scale = list(self.weights), (max(prior[0], _LEAST), max(prior[1], _LEAST))
        widths = (
            *scale,
            max(prior[2], scale[0] / 4),
            max(prior[3], scale[1] / 4),
            max(prior[4], scale[1] / 4),
        )  # a weight of 0 may grow again
        beliefs = [_OVERTURN / (width * width) for width in widths]
        for _ in range(4):
            for i, (row, moment, expected, belief) in enumerate(
                zip(self._products, self._moments, prior, beliefs, strict=True)
            ):
                a, b, c, d, e = row
                rest = a * found[0] + b * found[1] + c * found[2] + d * found[3] + e * found[4] - row[i] * found[i]
                found[i] = max(0.0, (moment - rest + belief * expected) / (row[i] + belief))
        self.weights = (found[0], found[1], found[2], found[3], found[4])


def _features(uncached_tokens: float, inflight: float = 0.0, ahead: float = 0.0) -> _All:
    kilotokens = uncached_tokens / 1000.0
    return (1.0, kilotokens, inflight, kilotokens * inflight, ahead)


def _dot(weights: _All, x: _All) -> float:
    return weights[0] + weights[1] * x[1] + weights[2] * x[2] + weights[3] * x[3] + weights[4] * x[4]


@dataclass(slots=True)
class _Average:
    """An exponential moving average that starts as a plain one."""

    value: float
    step: float = 0.1
    count: int = 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += max(self.step, 1.0 / (self.count + 1)) * (value - self.value)


@dataclass(slots=True)
class _Known:
    """Of one endpoint, or of all endpoints of a pool together."""

    fit: _Fit
    seconds: _Average
    cold: _Average
    trust: _Average = field(default_factory=lambda: _Average(1.0))
    foreign: _Average = field(default_factory=lambda: _Average(0.0, 0.2, 10))
    slots: float = inf
    figures: bool = False  # whether the server ever said what it runs
    queues: int = 0  # requests of late that seem to have waited, more than those that did not
    scraped: float = -inf
    queued: float = -inf  # when it was last seen with a queue
    recent: deque[tuple[_All, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    at: float = -inf  # of the latest request
    faded: float = -inf
    speed: Speed | None = None  # until something is learned

    def drift(self) -> float:
        """How much (log) the latest requests took longer than was learned; 0 if that may be chance."""
        if not self.recent:
            return 0.0
        found = median(log(ttft / max(self.fit.of(x), _LEAST)) for x, ttft in self.recent)
        found *= min(1.0, len(self.recent) / 3)
        return max(found - _DEAD_BAND, 0.0) + min(found + _DEAD_BAND, 0.0)


class Latency:
    """Of the endpoints of all pools. Those of one pool are peers: what was learned of all is where each begins."""

    def __init__(self) -> None:
        self._endpoints: dict[str, _Known] = {}
        self._pools: dict[str, _Known] = {}
        self._pool_of: dict[str, str] = {}
        self._ranks: dict[str, list[str]] = {}  # of one address: data-parallel ranks of one pod
        self._adapters: OrderedDict[str, None] = OrderedDict()

    def update(self, pools: Mapping[str, Collection[str]]) -> None:
        """The endpoints of each pool; what was learned of others is forgotten. An endpoint of two pools counts in the first."""
        self._pool_of = {key: pool for pool in reversed(list(pools)) for key in pools[pool]}
        self._ranks = {}
        for key in self._pool_of:
            self._ranks.setdefault(key.rpartition(":")[0], []).append(key)
        for gone in self._endpoints.keys() - self._pool_of.keys():
            del self._endpoints[gone]
        self._pools = {pool: self._pools.get(pool) or _new(_GUESS) for pool in pools}

    def speed(self, endpoint: str) -> Speed:
        """What is known of it; of a new one, what is known of its peers."""
        pool = self._pools.get(self._pool_of.get(endpoint, ""))
        if pool is None:
            return GUESS
        known = self._endpoints.get(endpoint)
        if known is None:
            weights = self._prior(endpoint, pool)
            return Speed(
                weights[:4],
                seconds=pool.seconds.value,
                cold=pool.cold.value,
                ahead=weights[4],
                ended=pool.seconds.count,
            )
        if known.speed is None or known.speed.cold != pool.cold.value:
            known.speed = Speed(
                known.fit.weights[:4],
                known.drift(),
                known.at,
                known.fit.seen,
                max(known.slots, 1.0),
                known.seconds.value,
                pool.cold.value,
                known.trust.value,
                known.foreign.value,
                known.fit.weights[4],
                known.seconds.count or pool.seconds.count,
            )
        return known.speed

    def observe(self, endpoint: str, sample: Sample) -> None:
        """A request ended well. Those that failed, or that another endpoint served, say nothing of speed."""
        found = self._known(endpoint)
        if found is None:
            return
        known, pool = found
        before = self.speed(endpoint)
        waited = before.wait(sample.inflight)
        if sample.ttft is not None:
            waited = _learn_ttft(known, pool, before, sample, self._prior(endpoint, pool))
        if sample.seconds is not None:
            in_slot = max(sample.seconds - waited, _LEAST)
            known.seconds.add(in_slot)
            pool.seconds.add(in_slot)
        known.at, known.speed = max(known.at, sample.now), None

    def scraped(self, endpoint: str, running: int, waiting: int, inflight: int, now: float) -> None:
        """The server counts `running` and `waiting`, of which `inflight` are ours."""
        found = self._known(endpoint)
        if found is None:
            return
        known, pool = found
        known.foreign.add(max(running + waiting - inflight, 0))
        _learn_slots(known, running, waiting, inflight, now)
        since = now - max(known.at, known.faded)
        if known.fit.seen and since > _FADE / 10:
            known.fit.fade(0.5 ** (min(since, _FADE * 10) / _FADE))
            known.fit.solve(self._prior(endpoint, pool))
            known.faded = now

    def cached(self, endpoint: str, share: float) -> None:
        """The server had this share (0 to 1) of the prompt tokens that were predicted to be cached there."""
        if found := self._known(endpoint):
            found[0].trust.add(1.0 if share > _CACHED else max(share, 0.0))

    def adapters(self, names: Collection[str]) -> None:
        """These models are adapters: a server that does not name them has to load them."""
        for name in names:
            self._adapters[name] = None
            self._adapters.move_to_end(name)
        while len(self._adapters) > _MODELS:
            self._adapters.popitem(last=False)

    def is_adapter(self, model: str) -> bool:
        return model in self._adapters

    def _known(self, endpoint: str) -> tuple[_Known, _Known] | None:
        """It and its pool, to be changed; None for one that is in no pool (any more)."""
        pool = self._pools.get(self._pool_of.get(endpoint, ""))
        if pool is None:
            return None
        known = self._endpoints.get(endpoint)
        if known is None:
            known = self._endpoints[endpoint] = _new(self._prior(endpoint, pool))
            known.seconds.value = pool.seconds.value
        known.speed = None
        return known, pool

    def _prior(self, endpoint: str, pool: _Known) -> _All:
        """What to believe of it before it is tried: as its best known sibling, on the same accelerators, else as the pool."""
        ranks = self._ranks[endpoint.rpartition(":")[0]]
        if len(ranks) > 1:
            found = [one for key in ranks if key != endpoint and (one := self._endpoints.get(key)) is not None]
            best = max(found, key=lambda one: one.fit.seen, default=pool)
            return best.fit.weights if best.fit.seen >= _SURE else pool.fit.weights
        return pool.fit.weights


def _new(weights: _All) -> _Known:
    return _Known(_Fit(weights), _Average(_GUESSED_SECONDS), _Average(_GUESSED_COLD))


def _learn_slots(known: _Known, running: int, waiting: int, inflight: int, now: float) -> None:
    """Slots are what runs while others wait. Waiting in the gateway hides that there are more: so the figure grows by itself.

    Slowly while a queue was seen lately, by a fifth a second when none was: what was short of memory once is not for ever.
    """
    since, known.scraped = min(max(now - known.scraped, 0.0), 1.0), now
    known.figures = known.figures or running > 0
    if running > known.slots or (running and waiting and known.slots == inf):
        known.slots = float(running)
        known.queued = now
    elif running and waiting:
        known.queued = now
        if (
            running + waiting > known.slots - 1.0
        ):  # else who has just arrived waits for a moment, although there are slots
            known.slots += 0.1 * (running - known.slots)
    elif max(inflight, running) + 1.0 > known.slots and not waiting:
        known.slots *= 1.0 + 0.01 * min(now - known.queued, 20.0) * since


def _guess_slots(known: _Known, sample: Sample, ttft: float) -> None:
    """Of a server that does not say what it runs: who waited half of the time shared the other half with all that ran."""
    if sample.seconds is None or known.figures:
        return
    queue = ttft - 3.0 * known.fit.of(_features(sample.uncached_tokens))
    queues = queue > 0.5 * (sample.seconds - ttft)
    known.queues = min(known.queues + 1, 2 * _SURE) if queues else max(known.queues - 1, 0)
    if queues and known.queues >= _SURE:  # until then it may as well have become slow
        found = max((sample.inflight + 1.0) * (1.0 - queue / max(sample.seconds, queue)), 1.0)
        known.slots = found if known.slots == inf else known.slots + 0.1 * (found - known.slots)


def _learn_ttft(known: _Known, pool: _Known, before: Speed, sample: Sample, prior: _All) -> float:
    """Returns how long the request waited for a slot."""
    assert sample.ttft is not None  # noqa: S101 -- no caller without it
    ttft = max(sample.ttft, _LEAST)
    expected = before.prefill(sample.uncached_tokens, sample.inflight, sample.now, sample.ahead)
    wait = before.wait(sample.inflight)
    _guess_slots(known, sample, ttft)
    if sample.cold:
        pool.cold.add(max(ttft - expected - wait, 0.0))
        return wait
    if wait:
        if ttft < expected + wait / 4:  # no queue where one should be: there are more slots
            known.slots += 0.2 * max(sample.inflight + 1.0 - known.slots, 0.0)
        return max(ttft - expected, 0.0)
    x = _features(sample.uncached_tokens, sample.inflight, sample.ahead)
    pool.fit.add(x, ttft, _GUESS, _REMEMBER_POOL)
    known.fit.add(x, ttft, prior, _REMEMBER)
    known.recent.append((x, ttft))
    return 0.0
