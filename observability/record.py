"""Facts in, series out. At most a few microseconds a request: benchmarks/record.py.

Definitions: time per output token = (duration - time to first token) / (output tokens - 1), as in inference-perf. Only
streams have one: without streaming the first byte is also the last. The class of an error is that of `_CLASSES`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from observability import catalogue as c
from observability.registry import Capped, Counter, Family, Registry, Sample
from picker.facts import Decision, Outcome, Reason
from picker.load import Load
from picker.precise import Precise
from xds_server.model.graph import Pool

_CLASSES: Mapping[Reason, str] = MappingProxyType(
    {
        "bad_request": "client",
        "body_too_large": "client",
        "model_not_found": "client",
        "no_route": "client",
        "no_endpoints": "server",
        "shed_priority": "shed",
        "queue_full": "shed",
        "queue_ttl": "shed",
        "slo_unreachable": "shed",
        "shutting_down": "server",
        "picker_unavailable": "server",
        "upstream_connect": "server",
        "upstream_reset": "server",
        "upstream_timeout": "server",
        "upstream_4xx": "client",
        "upstream_5xx": "server",
        "stream_aborted": "server",
        "client_cancelled": "cancelled",
        "lost": "server",  # we cannot show that it ended well
    }
)
# Who ended it, after a first byte that came from the model: its time to first token is real.
_SERVED: Mapping[Reason, str] = MappingProxyType({"stream_aborted": "upstream", "client_cancelled": "client"})
_NAMELESS = frozenset(
    {"bad_request", "model_not_found", "no_route"}
)  # the model name may be anything: it pins no label
_MAX_OPEN = 100_000  # decisions that we remember until their outcome: bounds memory, should outcomes stop coming

_Key = tuple[str, str, str, int, bool]


class _Requests:
    """The series of one (pool, model, target model, priority, streaming), bound once."""

    __slots__ = (
        *("_base", "_errors", "_registry", "aborts", "cached", "duration", "failed", "inflight", "input", "missing"),
        *("output", "request_size", "response_size", "total", "tpot", "ttft"),
    )

    def __init__(self, registry: Registry, base: Mapping[str, str], streaming: bool) -> None:
        tokens, duration = registry.counter(c.TOKENS_TOTAL), registry.histogram(c.REQUEST_DURATION_SECONDS)
        aborts = registry.counter(c.STREAM_ABORTS_TOTAL)
        ttft = registry.histogram(c.TIME_TO_FIRST_TOKEN_SECONDS)
        self.total = registry.counter(c.REQUESTS_TOTAL).bind(**base)
        self.inflight = registry.gauge(c.REQUESTS_INFLIGHT).bind(**base)
        self.missing = registry.counter(c.MISSING_USAGE_TOTAL).bind(**base)
        self.duration = duration.bind(**base, outcome="ok").observe
        self.failed = duration.bind(**base, outcome="error").observe
        self.ttft = ttft.bind(**base, streaming="true" if streaming else "false").observe
        self.tpot = registry.histogram(c.TIME_PER_OUTPUT_TOKEN_SECONDS).bind(**base).observe
        self.request_size = registry.histogram(c.REQUEST_SIZE_BYTES).bind(**base).observe
        self.response_size = registry.histogram(c.RESPONSE_SIZE_BYTES).bind(**base).observe
        self.input, self.cached, self.output = (tokens.bind(**base, type=kind) for kind in c.TOKEN_TYPE.values)
        self.aborts = {by: aborts.bind(**base, by=by) for by in c.ABORTED_BY.values}
        self._registry, self._base = registry, base
        self._errors: dict[tuple[str, int], Counter] = {}

    def error(self, reason: Reason, status: int) -> None:
        found = self._errors.get((reason, status))
        if found is None:
            code = str(status) if 100 <= status <= 599 else "0"
            errors = self._registry.counter(c.REQUEST_ERRORS_TOTAL)
            labels = {"class": _CLASSES[reason], "reason": reason, "code": code}
            found = self._errors[reason, status] = errors.bind(**self._base, **labels)
        found.inc()


class _Picks:
    """The series of the decisions for one (pool, model)."""

    __slots__ = ("endpoints", "ratio", "schedule")

    def __init__(self, registry: Registry, pool: str, model: str) -> None:
        self.schedule = registry.histogram(c.SCHEDULE_DURATION_SECONDS).bind(pool=pool).observe
        self.ratio = registry.histogram(c.PREFIX_MATCH_RATIO).bind(pool=pool, model_name=model).observe
        self.endpoints: dict[str, Counter] = {}


def _failed(fact: Outcome, series: _Requests) -> None:
    reason = fact.reason
    series.error(reason, fact.status)
    if fact.duration is not None:
        series.failed(fact.duration)
    if fact.ttft is not None and reason in _SERVED:
        series.ttft(fact.ttft)
        if fact.streaming:
            series.aborts[_SERVED[reason]].inc()


class Recorder:
    """Subscribe `observe`; it takes every fact, ignores those it does not know, never blocks. For one event loop."""

    def __init__(
        self, registry: Registry, *, models: Iterable[str] = (), cap: int = 200, endpoints: int = 2000
    ) -> None:
        self._registry = registry
        self.models = Capped(models, cap)  # `pin` the names in routes and pools whenever they change
        self.targets = Capped(models, cap)
        self._endpoints = Capped(cap=endpoints)
        self._present: set[str] = set()  # endpoints of the pools
        self._requests: dict[_Key, _Requests] = {}
        self._picks: dict[tuple[str, str], _Picks] = {}
        self._open: dict[str, _Requests] = {}
        self._waits: dict[tuple[str, int, str], Callable[[float], None]] = {}
        self._distances: dict[str, tuple[Callable[[float], None], Callable[[float], None]]] = {}
        pushes, acks = registry.counter(c.XDS_PUSHES_TOTAL), registry.counter(c.XDS_ACKS_TOTAL)
        nacks = registry.counter(c.XDS_NACKS_TOTAL)
        clients = registry.gauge(c.XDS_CONNECTED_CLIENTS).bind()
        self._named: dict[str, Callable[..., None]] = {
            "Decision": self.decision,
            "Outcome": self.outcome,
            "Pushed": _count_types(pushes),
            "Acked": _count_types(acks),
            "Nacked": _count_types(nacks),
            "Connected": lambda _fact: clients.inc(),
            "Disconnected": lambda _fact: clients.inc(-1),
        }
        self._handlers: dict[type, Callable[..., None]] = {}

    def observe(self, fact: object) -> None:
        handler = self._handlers.get(type(fact))
        if handler is None:
            handler = self._handlers[type(fact)] = self._named.get(type(fact).__name__, _ignore)
        handler(fact)

    def decision(self, fact: Decision) -> None:
        """One request was given endpoints."""
        pool, model = fact.pool, fact.model
        picks = self._picks.get((pool, model)) or self._bind_picks(pool, model)
        picks.schedule(fact.seconds - fact.queue)
        if fact.queue:
            self._wait(pool, fact.priority, "dispatched", fact.queue)
        if fact.prompt_tokens:
            picks.ratio(fact.matched_tokens / fact.prompt_tokens)
        if fact.endpoints:
            endpoint = fact.endpoints[0]
            (picks.endpoints.get(endpoint) or self._bind_endpoint(picks, pool, endpoint)).value += 1
        opened = self._open
        if len(opened) < _MAX_OPEN:
            key = (pool, model, fact.target_model, fact.priority, fact.streaming)
            found = opened[fact.id] = self._requests.get(key) or self._bind(key)
            found.inflight.value += 1

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
        series.total.value += 1
        if fact.request_bytes:
            series.request_size(fact.request_bytes)
        if fact.response_bytes:
            series.response_size(fact.response_bytes)
        if fact.reason:
            _failed(fact, series)
            self._tokens(fact, series)
            return
        duration, ttft = fact.duration, fact.ttft
        if duration is not None:
            series.duration(duration)
        if ttft is not None:
            series.ttft(ttft)
        output = self._tokens(fact, series)
        if output is None:
            series.missing.value += 1 if fact.model else 0
        elif output > 1 and fact.streaming and duration is not None and ttft is not None:
            seconds = (duration - ttft) / (output - 1)
            if seconds >= 0.0:  # a sum that shrinks would look like a restart
                series.tpot(seconds)

    def _tokens(self, fact: Outcome, series: _Requests) -> int | None:
        """Count what `usage` says; the output tokens, or None where the server sent no usage."""
        output = fact.output_tokens
        if output is None:
            return None
        series.output.value += output
        if fact.input_tokens:
            series.input.value += fact.input_tokens
        cached, predicted = fact.cached_tokens, fact.predicted_cached_tokens
        if cached is not None:
            series.cached.value += cached
            if predicted is not None:
                over, under = self._distances.get(fact.pool) or self._bind_distances(fact.pool)
                if predicted >= cached:
                    over(predicted - cached)
                else:
                    under(cached - predicted)
        return output

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
            picks.endpoints.pop(endpoint, None)

    def _bind(self, key: _Key, *, new: bool = True) -> _Requests:
        """The cold path. Keys whose names are capped are not remembered: a client must not fill this table either."""
        pool, model, target, priority, streaming = key
        target_name = self.targets.admit(target, new=new)
        bound = (pool, self.models.admit(model, new=new), target_name, priority, streaming)
        found = self._requests.get(bound)
        if found is None:
            base = {"pool": pool, "model_name": bound[1], "target_model_name": bound[2], "priority": str(priority)}
            found = self._requests[bound] = _Requests(self._registry, base, streaming)
        return found

    def _wait(self, pool: str, priority: int, outcome: str, seconds: float) -> None:
        key = (pool, priority, outcome)
        found = self._waits.get(key)
        if found is None:
            waits = self._registry.histogram(c.GATEWAY_QUEUE_DURATION_SECONDS)
            found = self._waits[key] = waits.bind(pool=pool, priority=str(priority), outcome=outcome).observe
        found(seconds)

    def _bind_picks(self, pool: str, model: str) -> _Picks:
        bound = (pool, self.models.admit(model))
        found = self._picks.get(bound)
        if found is None:
            found = self._picks[bound] = _Picks(self._registry, *bound)
        return found

    def _bind_distances(self, pool: str) -> tuple[Callable[[float], None], Callable[[float], None]]:
        distance = self._registry.histogram(c.PREFIX_PREDICTION_ERROR_TOKENS)
        over, under = (distance.bind(pool=pool, direction=name).observe for name in c.DIRECTION.values)
        self._distances[pool] = over, under
        return over, under

    def _bind_endpoint(self, picks: _Picks, pool: str, endpoint: str) -> Counter:
        name = self._endpoints.admit(endpoint)
        series = self._registry.counter(c.PICKS_TOTAL).bind(pool=pool, endpoint=name)
        picks.endpoints[name] = series
        return series


def short_type(type_url: str) -> str:
    """`type.googleapis.com/envoy.config.cluster.v3.Cluster` -> `cds`."""
    return _SHORT.get(type_url.rpartition(".")[2], "other")


_SHORT: Mapping[str, str] = MappingProxyType(
    {"Cluster": "cds", "ClusterLoadAssignment": "eds", "Listener": "lds", "RouteConfiguration": "rds", "Secret": "sds"}
)


def _ignore(_fact: object) -> None:
    """For the facts that others subscribe to."""


def _count_types(family: Family[Counter]) -> Callable[..., None]:
    """A handler for facts that carry a `type_url`; every type is there from the start, at 0."""
    series = {name: family.bind(type_url=name) for name in c.XDS_TYPES}

    def count(fact: object) -> None:
        series[short_type(getattr(fact, "type_url", ""))].inc()

    return count


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
) -> Iterator[Sample]:
    """The gauges of one pool, for `Registry.collect`; `loads` by `ip:port`, `now` is time.monotonic(), ages are seconds.

    `draining` of the endpoints still serve what they have; `failures` counts the scrapes that failed, by `ip:port`; `queued` are
    the (requests, bytes) that wait in the gateway, by priority.
    """
    at = {"pool": pool}
    stale = 0
    for endpoint, load in sorted(loads.items()):
        labels = {"pool": pool, "endpoint": endpoint}
        yield Sample(c.ENDPOINT_QUEUE_DEPTH, labels, load.waiting)
        yield Sample(c.ENDPOINT_RUNNING_REQUESTS, labels, load.running)
        yield Sample(c.ENDPOINT_KV_CACHE_UTILIZATION, labels, load.kv_usage)
        yield Sample(c.ENDPOINT_INFLIGHT_REQUESTS, labels, load.inflight)
        yield Sample(c.ENDPOINT_SCRAPE_ERRORS_TOTAL, labels, failures.get(endpoint, 0))
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


def precise_samples(pool: str, known: tuple[object, Precise] | None) -> Iterator[Sample]:
    """How far the KV events of each endpoint are believed; nothing of a pool without them."""
    for endpoint, feed in sorted(known[1].feeds.items()) if known else ():
        labels = {"pool": pool, "endpoint": endpoint}
        yield Sample(c.PREFIX_TRUST_RATIO, labels, feed.trust if feed.joined else 0.0)
        yield Sample(c.KV_EVENTS_TOTAL, labels, feed.events)
        yield Sample(c.KV_EVENT_GAPS_TOTAL, labels, feed.gaps + feed.malformed)
