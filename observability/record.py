"""Facts in, series out. At most a few microseconds a request: benchmarks/record.py.

Definitions: time per output token = (duration - time to first token) / (output tokens - 1), as in inference-perf. Only
streams have one: without streaming the first byte is also the last.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from observability import catalogue as c, fleet
from observability.hub import Hub
from observability.registry import Capped, Counter, Registry, Sample
from observability.series import FOLD, SERVED, Requests
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
        series.failed(fact.duration)
    if fact.ttft is not None and reason in SERVED:
        series.ttft(fact.ttft)
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
        series = self._requests.get(key) or self._bind(key)
        queue = fact.queue
        series.schedule(fact.seconds - queue)
        if queue:
            self._wait(pool, fact.priority, "dispatched", queue)
        prompt = fact.prompt_tokens
        if prompt:
            series.ratio(fact.matched_tokens / prompt)
        if fact.endpoints:
            endpoint = fact.endpoints[0]
            (series.endpoints.get(endpoint) or self._bind_endpoint(series.endpoints, pool, endpoint)).value += 1
        opened = self._open
        if len(opened) < _MAX_OPEN:
            opened[fact.id] = series
            series.inflight.value += 1

    def outcome(self, fact: Outcome) -> None:
        """One request ended: exactly once per request, so requests_total is the number of outcomes."""
        series = self._open.pop(fact.id, None)
        if series is not None:  # the labels of an outcome are those of its decision: found once, used twice
            series.inflight.value -= 1
        else:
            key = (fact.pool, fact.model, fact.target_model, fact.priority, fact.streaming)
            series = self._requests.get(key) or self._bind(key, new=fact.reason not in _NAMELESS)
            if fact.queue and not fact.endpoint:
                self._wait(fact.pool, fact.priority, "refused", fact.queue)
        total = series.total.value = series.total.value + 1
        if not total % FOLD:
            series.fold()
        if fact.request_bytes:
            series.request_size(fact.request_bytes)
        if fact.response_bytes:
            series.response_size(fact.response_bytes)
        if fact.trace[3]:  # sampled
            series.exemplify(fact)
        output = fact.output_tokens
        if output is not None:  # the server sent its usage
            series.output.value += output
            series.output_size(output)
            read, cached, predicted = fact.input_tokens, fact.cached_tokens, fact.predicted_cached_tokens
            if read:
                series.input.value += read
                series.input_size(read)
            if cached is not None:
                series.cached.value += cached
                if predicted is not None:
                    (series.over if predicted >= cached else series.under)(abs(predicted - cached))
        if fact.reason:
            _failed(fact, series)
            return
        duration, ttft = fact.duration, fact.ttft
        if duration is not None:
            series.duration(duration)
        if ttft is not None:
            series.ttft(ttft)
            sent = fact.sent
            if sent is not None and duration is not None:
                series.staged(fact, sent, ttft, duration)
                if fact.streaming and ttft > sent:
                    series.upstream(ttft - sent)
        if output is None:
            series.missing.value += 1 if fact.model else 0
        elif output > 1 and fact.streaming and duration is not None and ttft is not None:
            seconds = (duration - ttft) / (output - 1)
            if seconds >= 0.0:  # a sum that shrinks would look like a restart
                series.tpot(seconds)

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
