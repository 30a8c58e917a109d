"""Facts in, series out. At most a few microseconds a request: benchmarks/record.py.

Definitions: time per output token = (duration - time to first token) / (output tokens - 1), as in inference-perf. Only
streams have one: without streaming the first byte is also the last.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from observability import catalogue as c, fleet
from observability.hub import Hub
from observability.registry import Capped, Counter, Registry, Sample
from observability.series import FOLD, SERVED, Requests, clamped
from picker.facts import Decision, Outcome
from picker.load import Load
from picker.precise import Precise
from picker.served import Served
from xds_server.model.graph import Pool

_NAMELESS = frozenset(
    {"bad_request", "model_not_found", "no_route"}
)  # the model name may be anything: it pins no label
_MAX_OPEN = 100_000  # decisions that we remember until their outcome: bounds memory, should outcomes stop coming

_Key = tuple[str, str, str, int, bool]


def _failed(fact: Outcome, series: Requests) -> None:
    reason = fact.reason
    series.error(reason, fact.status)
    if fact.duration is not None:
        series.failed.append(fact.duration)
    if fact.ttft is not None and reason in SERVED:
        series.ttft.append(fact.ttft)
        if fact.streaming:
            series.aborts[SERVED[reason]].inc()


class Recorder:
    """Have it `listen`; it never blocks. For one event loop."""

    def __init__(
        self, registry: Registry, *, models: Iterable[str] = (), cap: int = 200, endpoints: int = 2000
    ) -> None:
        self._registry = registry
        self.models = Capped(models, cap)  # `pin` the names in routes and pools whenever they change
        self.targets = Capped(models, cap)
        self._endpoints = Capped(cap=endpoints)
        self._present: set[str] = set()  # endpoints of the pools
        self._requests: dict[_Key, Requests] = {}
        self._picks: dict[str, dict[str, Counter]] = {}  # by pool, by endpoint
        self._open: dict[str, Requests] = {}
        self._waits: dict[tuple[str, int, str], Callable[[float], None]] = {}
        overflows = registry.counter(c.LABEL_OVERFLOW_TOTAL)
        registry.settle(self._fold)
        self._overflows = {label: overflows.bind(label=label) for label in c.CAPPED.values}

    def listen(self, hub: Hub) -> None:
        """To the facts of requests, and to those of the control plane."""
        hub.on(Decision, self.decision)
        hub.on(Outcome, self.outcome)
        fleet.listen(hub, self._registry)

    def decision(self, fact: Decision) -> None:
        """One request was given endpoints."""
        pool = fact.pool
        key = (pool, fact.model, fact.target_model, fact.priority, fact.streaming)
        try:
            series = self._requests[key]
        except KeyError:
            series = self._bind(key)
        seconds = fact.seconds
        if queue := fact.queue:
            self._wait(pool, fact.priority, "dispatched", queue)
            seconds -= queue
        series.schedule.append(seconds)
        if prompt := fact.prompt_tokens:
            series.ratio.append(fact.matched_tokens / prompt)
        if endpoints := fact.endpoints:
            try:
                picks = series.endpoints[endpoints[0]]
            except KeyError:
                picks = self._bind_endpoint(series.endpoints, pool, endpoints[0])
            picks.value += 1
        if len(self._open) < _MAX_OPEN:
            self._open[fact.id] = series

    def outcome(self, fact: Outcome) -> None:
        """One request ended: exactly once per request, so requests_total is the number of outcomes."""
        # The labels of an outcome are those of its decision: found once, used twice.
        series = self._open.pop(fact.id, None) or self._undecided(fact)
        ended = series.ended = series.ended + 1
        if ended >= FOLD:
            series.fold()
        if size := fact.request_bytes:
            series.request_size.append(size)
        if size := fact.response_bytes:
            series.response_size.append(size)
        if fact.trace[3]:  # sampled
            series.exemplify(fact)
        if (output := fact.output_tokens) is not None:  # the server sent its usage
            series.output.append(output)
            if read := fact.input_tokens:
                series.input.append(read)
            cached, predicted = fact.cached_tokens, fact.predicted_cached_tokens
            if cached is not None:
                series.cached.value += cached
                if predicted is not None:
                    if predicted >= cached:
                        series.over.append(predicted - cached)
                    else:
                        series.under.append(cached - predicted)
        if fact.reason:
            _failed(fact, series)
            return
        duration, ttft = fact.duration, fact.ttft
        if duration is not None:
            series.duration.append(duration)
        if ttft is not None:
            series.ttft.append(ttft)
        if output is None and fact.model:
            series.missing.value += 1
        if duration is None or ttft is None:
            return
        streamed = duration - ttft
        if (sent := fact.sent) is not None:
            deciding, scheduled, received = fact.queue or 0.0, fact.schedule, fact.received or 0.0
            gateway, upstream = sent - deciding - received, ttft - sent
            if upstream > 0.0 and fact.streaming:
                series.upstream.append(upstream)
            if gateway < 0.0 or deciding < scheduled or upstream < 0.0:
                received, deciding, scheduled, gateway, upstream = clamped(received, deciding, scheduled, sent, ttft)
            receive, queue, schedule, between, serve, stream = series.stages
            receive.value += received
            queue.value += deciding - scheduled
            schedule.value += scheduled
            between.value += gateway
            serve.value += upstream
            stream.value += streamed
        if output is not None and output > 1 and streamed >= 0.0 and fact.streaming:
            series.tpot.append(streamed / (output - 1))  # a sum that shrinks would look like a restart

    def _undecided(self, fact: Outcome) -> Requests:
        """The series of a request that no decision is known of."""
        if fact.queue and not fact.endpoint:
            self._wait(fact.pool, fact.priority, "refused", fact.queue)
        key = (fact.pool, fact.model, fact.target_model, fact.priority, fact.streaming)
        return self._requests.get(key) or self._bind(key, new=fact.reason not in _NAMELESS)

    def _fold(self) -> None:
        """Before every snapshot."""
        for series in self._requests.values():
            series.fold()
            series.inflight.set(0)
        for series, count in collections.Counter(self._open.values()).items():
            series.inflight.inc(count)  # streams and others are one series

    def configured(self, pools: Iterable[Pool]) -> None:
        """The pools that exist now: their names of models always are labels, and endpoints that are gone are none."""
        held = tuple(pools)
        rules = [rule for pool in held for rewrite in pool.rewrites for rule in rewrite.rules]
        asked = [
            *(objective.models for pool in held for objective in pool.objectives),
            *(rule.models for rule in rules),
        ]
        self.models.pin(model for models in asked for model in models)
        self.targets.pin(target for rule in rules for target, _ in rule.targets)
        endpoints = {str(endpoint) for pool in held for endpoint in pool.endpoints}
        for gone in self._present - endpoints:
            self.forget(gone)
        self._present = endpoints

    def forget(self, endpoint: str) -> None:
        """The endpoint is gone: its series end, and its place under the cap is free."""
        self._registry.drop("endpoint", endpoint)
        self._endpoints.forget(endpoint)
        for picks in self._picks.values():
            picks.pop(endpoint, None)

    def _bind(self, key: _Key, *, new: bool = True) -> Requests:
        """The cold path. Keys whose names are capped are not remembered: a client must not fill this table either."""
        pool, model, target, priority, streaming = key
        target_name = self._admitted(self.targets, "target_model_name", target, new=new)
        bound = (pool, self._admitted(self.models, "model_name", model, new=new), target_name, priority, streaming)
        found = self._requests.get(bound)
        if found is None:
            base = {"pool": pool, "model_name": bound[1], "target_model_name": bound[2], "priority": str(priority)}
            found = self._requests[bound] = Requests(self._registry, base, streaming, self._picks.setdefault(pool, {}))
        return found

    def _admitted(self, names: Capped, label: str, name: str, *, new: bool = True) -> str:
        found = names.admit(name, new=new)
        if found != name and new:
            self._overflows[label].inc()
        return found

    def _wait(self, pool: str, priority: int, outcome: str, seconds: float) -> None:
        key = (pool, priority, outcome)
        found = self._waits.get(key)
        if found is None:
            waits = self._registry.histogram(c.GATEWAY_QUEUE_DURATION_SECONDS)
            found = self._waits[key] = waits.bind(pool=pool, priority=str(priority), outcome=outcome).observe
        found(seconds)

    def _bind_endpoint(self, picks: dict[str, Counter], pool: str, endpoint: str) -> Counter:
        name = self._admitted(self._endpoints, "endpoint", endpoint)
        series = self._registry.counter(c.PICKS_TOTAL).bind(pool=pool, endpoint=name)
        picks[name] = series
        return series


def load_samples(
    pool: str,
    loads: Mapping[str, Load],
    now: float,
    *,
    stale_after: float,
    saturation: float | None = None,
    draining: int = 0,
    failures: Mapping[str, int] = MappingProxyType({}),
    queued: Mapping[int, tuple[int, int]] = MappingProxyType({}),
    causes: Mapping[str, float] = MappingProxyType({}),
) -> Iterator[Sample]:
    """The gauges of one pool, for `Registry.collect`; `loads` by `ip:port`, `now` is time.monotonic(), ages are seconds.

    `draining` of the endpoints still serve what they have; `failures` counts the scrapes that failed, by `ip:port`; `queued` are
    the (requests, bytes) that wait in the gateway, by priority; `causes` are the parts of the saturation, by name.
    """
    at = {"pool": pool}
    stale = 0
    for endpoint, load in sorted(loads.items()):
        labels = {"pool": pool, "endpoint": endpoint}
        yield Sample(c.ENDPOINT_QUEUE_DEPTH, labels, load.waiting)
        yield Sample(c.ENDPOINT_RUNNING_REQUESTS, labels, load.running)
        yield Sample(c.ENDPOINT_KV_CACHE_UTILIZATION, labels, load.kv_usage)
        yield Sample(c.ENDPOINT_INFLIGHT_REQUESTS, labels, load.inflight)
        yield Sample(c.ENDPOINT_INFLIGHT_TOKENS, labels, load.inflight_tokens)
        yield Sample(c.ENDPOINT_RESTING, labels, 1 if load.resting > now else 0)
        yield Sample(c.ENDPOINT_SCRAPE_ERRORS_TOTAL, labels, failures.get(endpoint, 0))
        if load.max_loras:
            yield Sample(c.ENDPOINT_LORA_SLOTS, labels, load.max_loras)
            yield Sample(c.ENDPOINT_LORA_ADAPTERS, {**labels, "state": "active"}, len(load.loras))
            yield Sample(c.ENDPOINT_LORA_ADAPTERS, {**labels, "state": "waiting"}, len(load.loras_waiting))
        age = now - load.scraped
        stale += age > stale_after
        if load.scraped > float("-inf"):
            yield Sample(c.ENDPOINT_SCRAPE_AGE_SECONDS, labels, age)
    for priority, (requests, size) in queued.items():
        labels = {"pool": pool, "priority": str(priority)}
        yield Sample(c.GATEWAY_QUEUE_REQUESTS, labels, requests)
        yield Sample(c.GATEWAY_QUEUE_BYTES, labels, size)
    yield Sample(c.POOL_ENDPOINTS, {**at, "state": "ready"}, max(len(loads) - stale - draining, 0))
    yield Sample(c.POOL_ENDPOINTS, {**at, "state": "draining"}, draining)
    yield Sample(c.POOL_ENDPOINTS, {**at, "state": "stale"}, stale)
    yield Sample(c.POOL_QUEUE_DEPTH, at, sum(load.waiting for load in loads.values()))
    yield Sample(c.POOL_RUNNING_REQUESTS, at, sum(load.running for load in loads.values()))
    if loads:
        mean = sum(load.kv_usage for load in loads.values()) / len(loads)
        yield Sample(c.POOL_KV_CACHE_UTILIZATION, at, mean)
    if saturation is not None:
        yield Sample(c.POOL_SATURATION, at, saturation)
    for cause, value in causes.items():
        yield Sample(c.POOL_SATURATION_CAUSE, {**at, "cause": cause}, value)


def precise_samples(pool: str, known: tuple[object, Precise] | None) -> Iterator[Sample]:
    """How far the KV events of each endpoint are believed; nothing of a pool without them."""
    for endpoint, feed in sorted(known[1].feeds.items()) if known else ():
        labels = {"pool": pool, "endpoint": endpoint}
        yield Sample(c.PREFIX_TRUST_RATIO, labels, feed.trust if feed.joined else 0.0)
        yield Sample(c.KV_EVENTS_TOTAL, labels, feed.events)
        yield Sample(c.KV_EVENT_GAPS_TOTAL, labels, feed.gaps + feed.malformed)


def model_samples(pool: str, endpoints: Iterable[str], served: Served) -> Iterator[Sample]:
    """How many models each endpoint lists; nothing of those that do not say."""
    for endpoint in endpoints:
        if (found := served.has(endpoint)) is not None:
            yield Sample(c.ENDPOINT_MODELS, {"pool": pool, "endpoint": endpoint}, len(found))
