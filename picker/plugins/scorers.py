"""Scorers, by llm-d's names. Each entry reads its parameters and gives a function from a View to a figure in [0, 1] each."""

from collections.abc import Callable, Mapping

from picker import scorers as functions
from picker.plugins import affinity, learned, ranges, topology
from picker.plugins.filters import PRODUCERS, RANGE_LABEL, attribute
from picker.plugins.parameters import Parameters
from picker.plugins.predicted import composite_scores, headroom_scores
from picker.scorers import Scorer, View
from picker.ttft import least_predicted_ttft


def _prefix(given: Parameters) -> Scorer:
    given.producer("prefixMatchInfoProducerName")
    scale = given.number("matchLengthScaleTokens", given.number("matchLengthScale", 8192, 1), 1)
    return functions.prefix_cache_scorer(given.number("matchLengthWeight", 0.0, 0.0, 1.0), scale)


def _precise(given: Parameters) -> Scorer:
    """Deprecated by llm-d: producer and scorer in one."""
    for name in ("tokenProcessorConfig", "indexerConfig", "kvEventsConfig", "speculativeIndexing", "speculativeTTL"):
        given.take(name)
    return functions.prefix_cache_scorer()


def _active(given: Parameters) -> Scorer:
    given.producer("inFlightLoadProducerName")
    given.text("requestTimeout")  # a lost request is healed by our own deadline
    return functions.active_request_scorer(
        given.integer("idleThreshold", 0), given.number("maxBusyScore", 1.0, 0.0, 1.0)
    )


def _token_load(given: Parameters) -> Scorer:
    given.producer("inFlightLoadProducerName")
    threshold = given.number("queueThresholdTokens", given.number("threshold", 4194304, 0))
    return functions.token_load_scorer(threshold or 4194304)


def _context_length(given: Parameters) -> Scorer:
    label = given.text("label", RANGE_LABEL)
    given.flag("enableFiltering")
    if not label:
        raise given.error("label", "must name a label")

    def score(view: View) -> list[float]:
        tokens = view.request.prompt_tokens
        return [ranges.score(endpoint, label, tokens) for endpoint in view.endpoints]

    return score


def _latency(given: Parameters) -> Scorer:
    """Best fit to the objective; requests without one go where the first token is expected first."""
    given.producer(*PRODUCERS)
    given.number("ttftWeight", 0.8)
    given.number("tpotWeight", 0.2)  # the time of an output token is not predicted here
    most = given.choice("headroomSelectionStrategy", ("least", "most"), "least") == "most"
    kv, queue, prefix = (given.number(f"composite{name}Weight", 1.0) for name in ("KV", "Queue", "Prefix"))

    def score(view: View) -> list[float]:
        if not view.request.prompt:
            return composite_scores(view, kv, queue, prefix)
        return headroom_scores(view, most=most)

    return score


def _header_label(given: Parameters) -> Scorer:
    header, label = given.text("headerName").lower(), given.text("labelKey")
    if not header:
        raise given.error("headerName", "must name a request header")
    if not label:
        raise given.error("labelKey", "must name a pod label")

    def score(view: View) -> list[float]:
        wanted = view.request.headers.get(header, "")
        return [float(bool(wanted) and dict(endpoint.labels).get(label) == wanted) for endpoint in view.endpoints]

    return score


def _attribute(given: Parameters) -> Scorer:
    figure, algorithm = attribute(given, "attributeKey"), given.child("algorithm")
    lower = algorithm.choice("type", ("linear_lower_is_better", "linear_higher_is_better"), "") == (
        "linear_lower_is_better"
    )
    normalization = algorithm.child("normalization")
    adaptive, fixed = normalization.has("adaptiveRange"), normalization.child("fixedRange")
    normalization.take("adaptiveRange")
    low, high = fixed.number("min", 0.0, float("-inf")), fixed.number("max", 0.0, float("-inf"))
    for one in (fixed, normalization, algorithm):
        one.finish()
    ranged = low < high
    if (adaptive and ranged) or ((low, high) != (0.0, 0.0) and not ranged):
        raise algorithm.error("normalization", "must be adaptiveRange, or fixedRange with min less than max")

    def score(view: View) -> list[float]:
        values = [figure(view, i) for i in range(len(view.names))]
        seen = [value for value in values if value is not None]
        if not seen:
            return [functions.UNKNOWN] * len(values)
        start, end = (low, high) if ranged else (min(seen), max(seen))
        if start == end:
            return [functions.UNKNOWN if value is None else 1.0 for value in values]
        shares = [None if v is None else min(1.0, max(0.0, (v - start) / (end - start))) for v in values]
        return [functions.UNKNOWN if one is None else 1.0 - one if lower else one for one in shares]

    return score


def _topology(given: Parameters) -> Scorer:
    given.producer("topologyProducerName")
    return topology.affinity_scorer


def _no_hit_lru(given: Parameters) -> Scorer:
    given.producer("prefixPluginType", "prefixPluginName", "prefixMatchInfoProducerName")
    return learned.NoHitLru(given.integer("lruSize", 1024, 0, 1 << 20) or 1024)


def _media(given: Parameters) -> Scorer:
    given.producer("producerName")
    return learned.MediaCache()


def _plain(scorer: Scorer) -> Callable[[Parameters], Scorer]:
    return lambda _: scorer


SCORERS: Mapping[str, Callable[[Parameters], Scorer]] = {
    "queue-scorer": _plain(functions.queue_scorer),
    "running-requests-size-scorer": _plain(functions.running_requests_size_scorer),
    "kv-cache-utilization-scorer": _plain(functions.kv_cache_utilization_scorer),
    "prefix-cache-scorer": _prefix,
    "precise-prefix-cache-scorer": _precise,
    "active-request-scorer": _active,
    "lora-affinity-scorer": _plain(functions.lora_affinity_scorer),
    "load-aware-scorer": lambda given: functions.load_aware_scorer(given.number("threshold", 128) or 128),
    "token-load-scorer": _token_load,
    "no-hit-lru-scorer": _no_hit_lru,
    "context-length-aware": _context_length,
    "latency-scorer": _latency,
    "predicted-latency-scorer": _plain(least_predicted_ttft),
    "session-affinity-scorer": lambda given: affinity.AffinityScorer(affinity.read(given)),
    "header-label-affinity-scorer": _header_label,
    "endpoint-attribute-scorer": _attribute,
    "topology-affinity-scorer": _topology,
    "mm-embeddings-cache-scorer": _media,
}
