"""Signals: the Load of every endpoint of every pool, merged from scrapes, our own in-flight count and what was learned.

`loads` is on the request path: only the endpoints that changed since the last call are built again. No clock in here.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from picker.adapters import Adapters
from picker.facts import Decision, Outcome
from picker.health import Health
from picker.inflight import TIMEOUT, InFlight, LogEntry
from picker.latency import GUESS, Latency, Sample, Speed
from picker.load import Load
from picker.ranks import host_port
from picker.served import Served
from xds_server.model.graph import Endpoint

_UNKNOWN = Load()
_OF_ALL_RANKS = frozenset(
    ("upstream_connect", "upstream_reset")
)  # one process has the port: it failed, no single engine
_MOST = 100_000  # requests whose circumstances are remembered until they end


@dataclass(frozen=True, slots=True)
class _Begun:
    """What was so at a decision."""

    since: float
    inflight: float  # others on the endpoint
    cold: bool  # the adapter was not loaded
    blocked: bool  # and had to wait for a slot
    ahead: float  # kilotokens of others whose prefill had not ended
    lacked: bool  # the endpoint was known not to have the model


class Signals:
    """What is known of the endpoints. `now` and other times are time.monotonic() values."""

    def __init__(self, timeout: float = TIMEOUT, on_busy: Callable[[str], None] = lambda _: None) -> None:
        """`timeout`: see InFlight. `on_busy` is called with an endpoint that gets its first request in flight."""
        self.inflight = InFlight(timeout, self._changed)
        self.latency = Latency()
        self.health = Health()
        self.adapters = Adapters()
        self.served = Served()
        self._begun: OrderedDict[str, tuple[Decision, _Begun]] = OrderedDict()
        self.on_busy = on_busy
        self.on_scrape: Callable[[], None] = lambda: None  # called when figures have come, or do not come any more
        self.on_other_models: Callable[[Iterable[str]], None] = lambda _: None  # these may have others than they listed
        self.on_return: Callable[[str], None] = lambda _: None  # its page comes again: it may be another process
        self._prefills: dict[str, tuple[float, float, float]] = {}  # see Load.prefill
        self._now = float("-inf")  # the latest time that we were told
        self._figures: dict[str, Load] = {}  # as scraped
        self._asked: dict[str, int] = {}  # what was in flight when the scrape that runs was sent
        self._at_scrape: dict[str, int] = {}  # what was in flight when the figures were taken
        self._accelerators: dict[str, float] = {}  # as exporters say, in [0, 1]
        self.several: dict[str, int] = {}  # endpoints of which the page names several ranks, and how many
        self.failures: dict[str, int] = {}  # scrapes that failed, ever, of the endpoints that there are
        self._busy: set[str] = set()
        self._loads: dict[str, dict[str, Load]] = {}  # pool -> endpoint -> merged
        self._stale: dict[str, set[str]] = {}  # pool -> endpoints to merge again
        self._pools: dict[str, tuple[str, ...]] = {}  # endpoint -> pools
        self._ranks: dict[str, list[str]] = {}  # "ip:port" -> the endpoints behind it

    def update(self, pools: Mapping[str, Sequence[Endpoint]]) -> None:
        """The endpoints of each pool, by the pool's name; figures of endpoints that are gone are forgotten."""
        keys = {pool: [str(endpoint) for endpoint in endpoints] for pool, endpoints in pools.items()}
        of: dict[str, list[str]] = {}
        for pool, found in keys.items():
            for key in found:
                of.setdefault(key, []).append(pool)
        self._pools = {key: tuple(names) for key, names in of.items()}
        self._ranks = {}
        for key in of:
            self._ranks.setdefault(host_port(key), []).append(key)
        for known in (
            self._figures,
            self._asked,
            self._at_scrape,
            self.failures,
            self.several,
            self._prefills,
            self._accelerators,
        ):
            for gone in known.keys() - of.keys():
                del known[gone]
        self.latency.update(keys)
        self.health.update(of.keys())
        self.adapters.update(of.keys())
        self.served.update(of.keys())
        self._loads = {pool: {key: self._merged(key) for key in found} for pool, found in keys.items()}
        self._stale = {pool: set() for pool in keys}

    def loads(self, pool: str) -> Mapping[str, Load]:
        """Every endpoint ("ip:port") of the pool; empty for an unknown pool. Valid until something else is called."""
        if stale := self._stale.get(pool):
            merged = self._loads[pool]
            for key in stale:
                merged[key] = self._merged(key)
            stale.clear()
        return self._loads.get(pool, {})

    def started(self, decision: Decision, now: float) -> None:
        """Count a request that was given endpoints; `now` is when it left, having waited or not."""
        self._now = max(self._now, now)
        load = self._merged(decision.endpoints[0])
        model = decision.target_model
        adapter = load.max_loras > 0 and self.latency.is_adapter(model)
        cold = adapter and model not in load.adapters
        others, ahead = load.inflight + load.speed.foreign, load.ahead(now)
        self._begun[decision.id] = (
            decision,
            _Begun(
                now,
                others,
                cold,
                cold and load.adapters_busy >= load.max_loras,
                ahead,
                self.served.lacks(decision.endpoints[0], model),
            ),
        )
        if adapter:
            self.adapters.used(decision.endpoints[0], (model,), load.max_loras)
        uncached = max(decision.prompt_tokens - decision.matched_tokens * load.speed.trust, 0.0)
        seconds = load.speed.prefill(uncached, others, now, ahead) + load.speed.wait(others)
        self._prefills[decision.endpoints[0]] = ahead + uncached / 1000.0, now, max(now + seconds, load.prefill[2])
        if len(self._begun) > _MOST:
            self._begun.popitem(last=False)
        self.health.started(decision.endpoints[0], load.inflight, now)
        self.inflight.started(decision, max(decision.prompt_tokens - decision.matched_tokens, 0), now)

    def finished(self, entry: LogEntry) -> Outcome | None:
        """See InFlight.finished; what the request tells of its endpoint is learned."""
        outcome = self.inflight.finished(entry)
        begun = self._begun.pop(entry.id if outcome is None else outcome.id, None)
        if begun is not None and outcome is not None:
            queue = outcome.queue or 0.0  # Envoy's clock started before ours
            ended = self._now if outcome.duration is None else begun[1].since + max(outcome.duration - queue, 0.0)
            self._now = max(self._now, ended)
            self._learn(outcome, *begun, ended)
            self._diagnose(outcome, begun[0], begun[1].since, ended)
            self._check_models(outcome, *begun, ended)
        return outcome

    def early(self, decision: Decision) -> LogEntry | None:
        """See InFlight.early."""
        return self.inflight.early(decision.request_id)

    def reported(self, outcome: Outcome) -> None:
        """See InFlight.reported."""
        self.inflight.reported(outcome)

    def expired(self, now: float) -> list[Outcome]:
        """See InFlight.expired; to be called every few seconds."""
        self._now = max(self._now, now)
        lost = self.inflight.expired(now)
        for outcome in lost:
            self._begun.pop(outcome.id, None)
        return lost

    def asked(self, endpoint: str) -> None:
        """A scrape was sent. What is in flight now is what the figures will contain, give or take one."""
        self._asked[endpoint] = self.inflight.count(endpoint)

    def scraped(self, endpoint: str, figures: Load, sent_at: float) -> None:
        """A scrape that was sent at `sent_at` came back."""
        self._now = max(self._now, sent_at)
        if self._figures.get(endpoint, _UNKNOWN).errors:
            self.on_return(endpoint)
        self._figures[endpoint] = figures
        counted = self.inflight.count(endpoint)
        self.inflight.on_scrape(endpoint, figures, sent_at)
        ghosts = counted - self.inflight.count(endpoint)  # not in the figures either
        ours = self._at_scrape[endpoint] = max(self._asked.pop(endpoint, 0) - ghosts, 0)
        self.latency.scraped(endpoint, figures.running, figures.waiting, ours, sent_at)
        if figures.max_loras:
            named = figures.loras | figures.loras_waiting
            self.latency.adapters(named)
            self.adapters.used(endpoint, (*figures.loras_waiting, *figures.loras), figures.max_loras)
        self._check(endpoint)
        self._changed(endpoint)
        self.on_scrape()

    def noticed(self, endpoint: str, ranks: int) -> None:
        """Its page names so many data-parallel ranks, although it is one endpoint here."""
        if ranks > 1:
            self.several[endpoint] = ranks
        else:
            self.several.pop(endpoint, None)

    def failed(self, endpoint: str) -> int:
        """A scrape failed: the last figures stay, `errors` counts. Returns how many failed in a row."""
        self._asked.pop(endpoint, None)
        known = self._figures.get(endpoint, _UNKNOWN)
        self.failures[endpoint] = self.failures.get(endpoint, 0) + 1
        self._figures[endpoint] = _with(known, known.errors + 1, 0, 0, 0, resting=known.resting)
        self._check(endpoint)
        self._changed(endpoint)
        self.on_scrape()
        return known.errors + 1

    def accelerated(self, endpoint: str, utilization: float | None) -> None:
        """How busy the endpoint's accelerators are, says an exporter beside it; None: it does not say, or not any more."""
        if utilization is None:
            self._accelerators.pop(endpoint, None)
        elif endpoint in self._pools:
            self._accelerators[endpoint] = utilization
        self._changed(endpoint)

    def contended(self, endpoint: str) -> bool:
        """It has requests in flight, or requests of others wait there: worth a fresh look."""
        return self.inflight.count(endpoint) > 0 or self._figures.get(endpoint, _UNKNOWN).waiting > 0

    def _learn(self, outcome: Outcome, decision: Decision, begun: _Begun, ended: float) -> None:
        """From a request that ended well where it was first sent: another endpoint's answer has our retries in its times."""
        endpoint = decision.endpoints[0]
        if outcome.reason or outcome.endpoint != endpoint or outcome.attempts > 1:
            return
        uncached: float = decision.prompt_tokens - decision.matched_tokens
        if outcome.cached_tokens is not None and outcome.input_tokens:
            share = outcome.cached_tokens / outcome.input_tokens
            uncached = decision.prompt_tokens * (1.0 - share)
            if decision.matched_tokens > 0:
                self.latency.cached(endpoint, share * decision.prompt_tokens / decision.matched_tokens)
        elif (speed := self.latency.speed(endpoint)).trust < 1.0:
            uncached = decision.prompt_tokens - decision.matched_tokens * speed.trust
        queue = outcome.queue or 0.0  # Envoy's clock started before ours
        seconds = None if outcome.duration is None else max(outcome.duration - queue, 0.0)
        told = (
            outcome.streaming and not begun.blocked
        )  # how long it waited for another adapter's requests tells of no speed
        ttft = max(outcome.ttft - queue, 0.0) if told and outcome.ttft is not None else None
        self.latency.observe(
            endpoint,
            Sample(max(uncached, 0.0), begun.inflight, ended, seconds, ttft, begun.cold, begun.ahead),
        )
        self._changed(endpoint)

    def _diagnose(self, outcome: Outcome, decision: Decision, since: float, now: float) -> None:
        """Of the endpoint that answered last, and of those that were tried before it."""
        tried = decision.endpoints[: max(outcome.attempts, 1)]
        served = outcome.endpoint or tried[-1]
        for endpoint in tried:
            if endpoint != served and outcome.attempts > 1:
                gone = (
                    self._figures.get(endpoint, _UNKNOWN).errors > 0
                )  # no page comes either: it is not this rank alone
                for one in self._beside(endpoint) if gone else (endpoint,):
                    self.health.retried(one, since, now)
                    self._changed(one)
        for one in self._beside(served) if outcome.reason in _OF_ALL_RANKS else (served,):
            self.health.ended(one, outcome.reason, since, now)
            self._changed(one)

    def _check_models(self, outcome: Outcome, decision: Decision, begun: _Begun, ended: float) -> None:
        """Of servers that have other models than they listed, as an answer may tell."""
        if not decision.target_model:
            return
        if outcome.status == 404 or (outcome.status == 400 and begun.lacked):  # SGLang says 400
            everybody = begun.lacked and decision.pool in self._loads  # nobody had it: somebody may have it by now
            self.on_other_models(self._loads[decision.pool] if everybody else (outcome.endpoint,))
        elif begun.lacked and not outcome.reason and outcome.endpoint == decision.endpoints[0]:
            self.served.doubted(outcome.endpoint, decision.target_model, ended)
            self.on_other_models((outcome.endpoint,))

    def _beside(self, endpoint: str) -> Sequence[str]:
        """All ranks behind its port, this one too."""
        return self._ranks.get(host_port(endpoint), (endpoint,))

    def _check(self, endpoint: str) -> None:
        self.health.check(endpoint, self.inflight.count(endpoint), self.latency.speed(endpoint).seconds, self._now)

    def _changed(self, endpoint: str) -> None:
        for pool in self._pools.get(endpoint, ()):
            self._stale[pool].add(endpoint)
        if not self.inflight.count(endpoint):
            self._busy.discard(endpoint)
        elif endpoint not in self._busy:
            self._busy.add(endpoint)
            self.on_busy(endpoint)

    def _merged(self, endpoint: str) -> Load:
        figures, inflight = self._figures.get(endpoint, _UNKNOWN), self.inflight
        at_scrape = self._at_scrape.get(endpoint, 0)
        counts = inflight.count(endpoint), inflight.tokens(endpoint), at_scrape
        prefill = self._prefills.get(endpoint, _UNKNOWN.prefill) if counts[0] else _UNKNOWN.prefill
        speed, resting = self.latency.speed(endpoint), max(self.health.until(endpoint), figures.resting)
        accelerators = self._accelerators.get(endpoint, figures.utilization)
        adapters, busy = self._adapters(endpoint, figures) if figures.max_loras else (_UNKNOWN.adapters, 0)
        sheddable = inflight.sheddable(endpoint)
        return _with(figures, figures.errors, *counts, speed, prefill, resting, accelerators, sheddable, adapters, busy)

    def _adapters(self, endpoint: str, figures: Load) -> tuple[frozenset[str], int]:
        """Those in the slots or on their way there, and how many slots are in use."""
        loaded = frozenset(self.adapters.loaded(endpoint))
        asked = frozenset(filter(self.latency.is_adapter, self.inflight.models(endpoint)))
        busy = asked | (loaded & figures.loras)  # the page is late: who has lost its slot since is not in use
        return loaded | asked, len(busy)


def _with(
    figures: Load,
    errors: int,
    inflight: int,
    tokens: int,
    at_scrape: int,
    speed: Speed = GUESS,
    prefill: tuple[float, float, float] = _UNKNOWN.prefill,
    resting: float = _UNKNOWN.resting,
    utilization: float | None = None,
    sheddable: int = 0,
    adapters: frozenset[str] = _UNKNOWN.adapters,
    adapters_busy: int = 0,
) -> Load:
    """dataclasses.replace takes three times as long."""
    return Load(
        figures.waiting,
        figures.running,
        figures.kv_usage,
        figures.loras,
        figures.loras_waiting,
        figures.max_loras,
        figures.block_tokens,
        figures.blocks,
        figures.scraped,
        errors,
        inflight,
        tokens,
        at_scrape,
        figures.utilization if utilization is None else utilization,
        speed,
        prefill,
        resting,
        sheddable,
        adapters,
        adapters_busy,
    )
