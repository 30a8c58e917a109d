"""Filters, by llm-d's names. Each entry reads its parameters and gives a function from a View to the candidates that stay."""

import math
from collections.abc import Callable, Mapping, Sequence

from xxhash import xxh3_64_intdigest

from picker import scorers as functions
from picker.plugins import affinity, topology
from picker.plugins.parameters import Parameters
from picker.plugins.predicted import headrooms, slo_tiers, ttfts
from picker.plugins.ranges import in_range
from picker.scorers import Filter, View, known, running, waiting
from xds_server.model.graph import Endpoint

TEST_HEADER = "test-epp-endpoint-selection"  # of llm-d's conformance tests
RANGE_LABEL = "llm-d.ai/context-length-range"
PRODUCERS = ("inFlightLoadProducerName", "prefixMatchInfoProducerName", "latencyPredictionInfoProducerName")
DECODE = frozenset(("decode", "prefill-decode", "both", "encode-prefill-decode"))
PREFILL = frozenset(("prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"))
ENCODE = frozenset(("encode", "encode-prefill", "encode-prefill-decode"))

# What is measured of an endpoint here; unknown where its figures are too old.
ATTRIBUTES: Mapping[str, Callable[[View, int], float | None]] = {
    "WaitingQueueSize": lambda view, i: waiting(view.loads[i]) if known(view.loads[i], view.now) else None,
    "RunningRequestsSize": lambda view, i: running(view.loads[i]) if known(view.loads[i], view.now) else None,
    "KVCacheUsagePercent": lambda view, i: view.loads[i].kv_usage if known(view.loads[i], view.now) else None,
    "GPUUtilization": lambda view, i: view.loads[i].utilization,
    "InFlightRequests": lambda view, i: float(view.loads[i].inflight),
    "InFlightTokens": lambda view, i: float(view.loads[i].inflight_tokens),
}
_METRICS = {
    "active-requests": "InFlightRequests",
    "running-requests": "RunningRequestsSize",
    "waiting-queue": "WaitingQueueSize",
    "kv-cache-utilization": "KVCacheUsagePercent",
}
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "LessThan": lambda one, two: one < two,
    "LessThanOrEqual": lambda one, two: one <= two,
    "GreaterThan": lambda one, two: one > two,
    "GreaterThanOrEqual": lambda one, two: one >= two,
    "Equal": lambda one, two: one == two,
    "NotEqual": lambda one, two: one != two,
}


def attribute(given: Parameters, name: str) -> Callable[[View, int], float | None]:
    """The figure that a parameter names."""
    given.text("producer")
    wanted = given.text(name)
    if wanted not in ATTRIBUTES:
        known = ", ".join(ATTRIBUTES)
        raise given.error(name, f"{wanted!r} is not measured here; remove the plugin, or use one of: {known}")
    return ATTRIBUTES[wanted]


def chance(view: View) -> float:
    """In [0, 1), by the decision's id: there are no dice in the core."""
    return xxh3_64_intdigest(view.id.encode()) / 2**64


def _by_label(given: Parameters) -> Filter:
    label, values, unlabelled = given.text("label"), frozenset(given.texts("validValues")), given.flag("allowsNoLabel")
    if not label:
        raise given.error("label", "must name a label")
    if not values and not unlabelled:
        raise given.error("validValues", "must not be empty unless allowsNoLabel is true")

    def keep(view: View) -> list[int]:
        found = (dict(endpoint.labels).get(label) for endpoint in view.endpoints)
        return [i for i, value in enumerate(found) if value in values or (value is None and unlabelled)]

    return keep


def _context_length(given: Parameters) -> Filter:
    label = given.text("label", RANGE_LABEL)
    if not given.flag("enableFiltering"):
        return lambda view: list(range(len(view.names)))

    def keep(view: View) -> list[int]:
        tokens = view.request.prompt_tokens
        return [i for i, endpoint in enumerate(view.endpoints) if in_range(endpoint, label, tokens)]

    return keep


def _utilization(given: Parameters) -> Filter:
    given.producer("inFlightLoadProducerName")
    fallback = given.flag("fallbackOnEmpty")
    limits: list[tuple[Callable[[View, int], float | None], float]] = []
    for one in given.children("conditions"):
        metric = one.choice("metric", tuple(_METRICS), "")
        if not one.has("maxValue"):
            raise one.error("maxValue", "is required")
        limits.append((ATTRIBUTES[_METRICS[metric]], one.number("maxValue", 0.0)))
        one.finish()
    if not limits:
        raise given.error("conditions", "must have at least one entry: {metric: waiting-queue, maxValue: 10}")

    def keep(view: View) -> list[int]:
        everybody = range(len(view.names))
        found = [i for i in everybody if all((figure(view, i) or 0.0) <= most for figure, most in limits)]
        return found or (list(everybody) if fallback else found)

    return keep


def _attribute(given: Parameters) -> Filter:
    figure, fallback = attribute(given, "attribute"), given.flag("fallbackOnEmpty")
    missing = given.choice("onMissing", ("Pass", "Fail"), "Pass") == "Pass"
    algorithm = given.child("algorithm")
    algorithm.choice("type", ("threshold",), "threshold")
    threshold = algorithm.child("threshold")
    fits = _OPERATORS[threshold.choice("operator", tuple(_OPERATORS), "")]
    value = threshold.number("value", 0.0, -math.inf)
    threshold.finish()
    algorithm.finish()

    def keep(view: View) -> list[int]:
        everybody = range(len(view.names))
        values = [figure(view, i) for i in everybody]
        found = [i for i in everybody if (missing if (one := values[i]) is None else fits(one, value))]
        return found or (list(everybody) if fallback else found)

    return keep


def _prefix_affinity(given: Parameters) -> Filter:
    """Sticky until saturated: those that have cached the prompt, unless they are too busy."""
    given.producer(*PRODUCERS)
    least = given.number("affinityThreshold", 0.8, 0.0, 1.0)
    explore = given.number("explorationProbability", 0.0, 0.0, 1.0)
    penalty = given.number("maxTTFTPenaltyMs", 18000.0) / 1000.0
    source = given.choice("ttftSource", ("prefillThroughput", "latencyPredictor"), "prefillThroughput")
    speed = given.number("peakPrefillThroughput", 15928.0)
    if source == "prefillThroughput" and penalty and not speed:
        raise given.error("peakPrefillThroughput", "must be greater than 0, unless ttftSource is latencyPredictor")

    def seconds(view: View) -> Sequence[float]:
        if source == "latencyPredictor":
            return ttfts(view)
        return [load.inflight_tokens / speed for load in view.loads]

    def keep(view: View) -> list[int]:
        everybody = list(range(len(view.names)))
        if len(everybody) == 1 or not least or not view.cacheable or (explore and chance(view) < explore):
            return everybody
        sticky = [i for i in everybody if view.matched[i] >= least * view.cacheable]
        others = [i for i in everybody if view.matched[i] < least * view.cacheable]
        if not sticky or not others or not penalty:
            return sticky or everybody
        expected = seconds(view)
        late = min(expected[i] for i in sticky) - min(expected[i] for i in others)
        return everybody if late > penalty else sticky

    return keep


def _slo_headroom(given: Parameters) -> Filter:
    given.producer(*PRODUCERS)
    explore = given.number("epsilonExploreNeg", 0.01, 0.0, 1.0)

    def keep(view: View) -> list[int]:
        good, bad = slo_tiers(headrooms(view))
        return bad if not good or (bad and chance(view) < explore) else good

    return keep


def _testing(view: View) -> list[int]:
    """The endpoints that a header lists as `ip` or `ip:port`; nobody without it. For conformance tests only."""
    wanted = {one.strip() for one in view.request.headers.get(TEST_HEADER, "").split(",")}

    def named(endpoint: Endpoint) -> bool:
        return bool({str(endpoint), endpoint.host_port, endpoint.address, f"[{endpoint.address}]"} & wanted)

    return [i for i, endpoint in enumerate(view.endpoints) if named(endpoint)]


def _topology(given: Parameters) -> Filter:
    given.producer("topologyProducerName")
    return topology.AffinityFilter(given.choice("minAffinity", topology.LEVELS, "host"))


def _nothing(keep: Filter) -> Callable[[Parameters], Filter]:
    return lambda _: keep


FILTERS: Mapping[str, Callable[[Parameters], Filter]] = {
    "label-selector-filter": lambda given: functions.label_selector_filter(given.selector()),
    "by-label-selector": lambda given: functions.label_selector_filter(given.selector()),
    "by-label": _by_label,
    "decode-filter": _nothing(functions.role_filter(DECODE, unlabelled=True)),
    "prefill-filter": _nothing(functions.role_filter(PREFILL, unlabelled=False)),
    "encode-filter": _nothing(functions.role_filter(ENCODE, unlabelled=False)),
    "lora-filter": _nothing(functions.lora_filter),
    "context-length-aware": _context_length,
    "utilization-filter": _utilization,
    "endpoint-attribute-filter": _attribute,
    "prefix-cache-affinity-filter": _prefix_affinity,
    "session-affinity-filter": lambda given: affinity.AffinityFilter(affinity.read(given)),
    "slo-headroom-tier-filter": _slo_headroom,
    "topology-affinity-filter": _topology,
    "header-based-testing-filter": _nothing(_testing),
}
