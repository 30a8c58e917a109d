"""The series of requests that are alike, bound once: what a Recorder adds to for each of them.

Observations are appended and sorted into buckets many at a time (`fold`): half the cost of one after the other. The class of
an error is that of `CLASSES`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from observability import catalogue as c
from observability.registry import Counter, Histogram, Registry
from picker.facts import Outcome, Reason

CLASSES: Mapping[Reason, str] = MappingProxyType(
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
SERVED: Mapping[Reason, str] = MappingProxyType({"stream_aborted": "upstream", "client_cancelled": "client"})
FOLD = 256  # requests until observations are put into their buckets; a scrape does it too


class Requests:
    """The series of one (pool, model, target model, priority, streaming). `endpoints` counts the pool's picks, by first choice.

    What is a list here waits for `fold`: one append is the cheapest that can be done on a request's path.
    """

    __slots__ = (
        *("_base", "_errors", "_input", "_output", "_registry", "_taken", "_total"),
        *("aborts", "cached", "duration", "ended", "endpoints", "failed", "inflight", "input", "missing", "output"),
        *("over", "ratio", "request_size", "response_size", "schedule", "stages", "tpot", "traced", "ttft", "under"),
        "upstream",
    )

    def __init__(
        self, registry: Registry, base: Mapping[str, str], streaming: bool, endpoints: dict[str, Counter]
    ) -> None:
        """`base` are the labels of BASE."""
        tokens, stages = registry.counter(c.TOKENS_TOTAL), registry.counter(c.STAGE_SECONDS_TOTAL)
        aborts = registry.counter(c.STREAM_ABORTS_TOTAL)
        pool, model = base["pool"], base["model_name"]
        self._registry, self._base = registry, base
        self._taken: list[tuple[list[float], Histogram]] = []
        self._total = registry.counter(c.REQUESTS_TOTAL).bind(**base)
        self.ended = 0  # requests that are not in `_total` yet
        self.inflight = registry.gauge(c.REQUESTS_INFLIGHT).bind(**base)
        self.missing = registry.counter(c.MISSING_USAGE_TOTAL).bind(**base)
        self._input, self.cached, self._output = (tokens.bind(**base, type=kind) for kind in c.TOKEN_TYPE.values)
        self.stages = tuple(stages.bind(**base, stage=name) for name in c.STAGE.values)
        self.aborts = {by: aborts.bind(**base, by=by) for by in c.ABORTED_BY.values}
        self.endpoints = endpoints
        self._errors: dict[tuple[str, int], Counter] = {}
        self.duration = self._later(c.REQUEST_DURATION_SECONDS, **base, outcome="ok")
        self.failed = self._later(c.REQUEST_DURATION_SECONDS, **base, outcome="error")
        self.ttft = self._later(c.TIME_TO_FIRST_TOKEN_SECONDS, **base, streaming="true" if streaming else "false")
        self.traced = tuple(histogram.exemplify for _, histogram in self._taken)
        self.upstream = self._later(c.UPSTREAM_TIME_TO_FIRST_TOKEN_SECONDS, **base)
        self.tpot = self._later(c.TIME_PER_OUTPUT_TOKEN_SECONDS, **base)
        self.request_size = self._later(c.REQUEST_SIZE_BYTES, **base)
        self.response_size = self._later(c.RESPONSE_SIZE_BYTES, **base)
        self.input = self._later(c.REQUEST_INPUT_TOKENS, **base)
        self.output = self._later(c.REQUEST_OUTPUT_TOKENS, **base)
        self.schedule = self._later(c.SCHEDULE_DURATION_SECONDS, pool=pool)
        self.ratio = self._later(c.PREFIX_MATCH_RATIO, pool=pool, model_name=model)
        self.over = self._later(c.PREFIX_PREDICTION_ERROR_TOKENS, pool=pool, direction="over")
        self.under = self._later(c.PREFIX_PREDICTION_ERROR_TOKENS, pool=pool, direction="under")

    def _later(self, metric: c.Metric, **labels: str) -> list[float]:
        found: list[float] = []
        self._taken.append((found, self._registry.histogram(metric).bind(**labels)))
        return found

    def fold(self) -> None:
        """Add what waits to its series."""
        self._total.value += self.ended
        self.ended = 0
        self._input.value += sum(self.input)
        self._output.value += sum(self.output)
        for values, histogram in self._taken:
            histogram.take(values)

    def error(self, reason: Reason, status: int) -> None:
        found = self._errors.get((reason, status))
        if found is None:
            code = str(status) if 100 <= status <= 599 else "0"
            errors = self._registry.counter(c.REQUEST_ERRORS_TOTAL)
            labels = {"class": CLASSES[reason], "reason": reason, "code": code}
            found = self._errors[reason, status] = errors.bind(**self._base, **labels)
        found.inc()

    def exemplify(self, fact: Outcome) -> None:
        """The trace of this request, at the buckets that it fell in."""
        trace, reason = fact.trace, fact.reason
        ok, failed, first = self.traced
        if fact.duration is not None:
            (failed if reason else ok)(fact.duration, trace.trace_id, trace.span_id, fact.time + fact.duration)
        if fact.ttft is not None and (not reason or reason in SERVED):
            first(fact.ttft, trace.trace_id, trace.span_id, fact.time + fact.ttft)


def clamped(
    received: float, deciding: float, scheduled: float, sent: float, ttft: float
) -> tuple[float, float, float, float, float]:
    """(received, deciding, scheduled, gateway, upstream) where two clocks contradict each other: none is negative, and the sum of the
    stages is the duration all the same. Seconds.
    """
    sent = min(sent, ttft)
    deciding = min(deciding, sent)
    scheduled = min(scheduled, deciding)
    received = min(received, sent - deciding)
    return received, deciding, scheduled, sent - deciding - received, ttft - sent
