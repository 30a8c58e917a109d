"""The section `flowControl` and the plugins that it refers to -> Limits and Thresholds.

Source: llm-d router 0.10, apix/config/v1alpha1 and plugins/flowcontrol. What is done its own way here becomes a note.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from picker.limits import DEFAULT, MAX_TTL, Band, Limits, Ordering
from picker.load import Load
from picker.plugins.parameters import Parameters
from picker.scorers import Filter, View, waiting

_CEILINGS = (
    "a place that is free goes to the highest priority that waits, and each that waits gets its share of the turns"
)
_EVICTION = "a request that was sent is never taken back"
_ORDERINGS: Mapping[str, Ordering] = {
    "fcfs-ordering-policy": "fcfs",
    "edf-ordering-policy": "edf",
    "slo-deadline-ordering-policy": "deadline",
}
_FAIR: Mapping[str, bool] = {
    "global-strict-fairness-policy": False,
    "round-robin-fairness-policy": True,
    "program-aware-fairness": True,
}
# What stands in for these, by type.
POLICIES: Mapping[str, str] = {
    "global-strict-fairness-policy": "",
    "round-robin-fairness-policy": "turns are shared by tokens, not by requests",
    "program-aware-fairness": "turns are shared by tokens: the tenant that was given the least is next",
    "fcfs-ordering-policy": "",
    "edf-ordering-policy": "",
    "slo-deadline-ordering-policy": "",
    "static-usage-limit-policy": _CEILINGS,
    "priority-holdback-policy": _CEILINGS,
    "soft-reflective-ceiling-policy": _CEILINGS,
    "sheddable-eviction-filter": _EVICTION,
    "priority-then-time-eviction-order-policy": _EVICTION,
}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as full. Source: llm-d `utilization-detector`."""

    queue: float = 5.0  # waiting requests of one endpoint
    kv_usage: float = 0.8


@dataclass(frozen=True, slots=True)
class Detector:
    """A saturation detector: what is full, and the filter that it is where a profile refers to it."""

    thresholds: Thresholds
    keep: Filter
    note: str = ""


def _utilization(given: Parameters) -> Detector:
    queue = given.number("queueDepthThreshold", 5, 0.01)
    kv_usage = given.number("kvCacheUtilThreshold", 0.8, 0.01, 1)
    given.duration("metricsStalenessThreshold", 0.2)  # one is known or unknown here: see scorers.STALE_AFTER
    more = 1.0 + given.number("headroom", 0.0)
    found = Thresholds(queue, kv_usage)
    return Detector(found, lambda view: [i for i in range(len(view.names)) if fullness(view, i, found) <= more])


def _concurrency(given: Parameters) -> Detector:
    given.producer("inFlightLoadProducerName")
    requests, tokens = given.number("maxConcurrency", 100, 1), given.number("maxTokenConcurrency", 1e6, 1)
    mode = given.choice("concurrencyMode", ("requests", "tokens", "hybrid"), "requests")
    more = 1.0 + given.number("headroom", 0.0)

    def full(load: Load) -> float:
        by_request, by_token = load.inflight / requests, load.inflight_tokens / tokens
        return {"requests": by_request, "tokens": by_token}.get(mode, max(by_request, by_token))

    return Detector(
        Thresholds(),
        lambda view: [i for i, load in enumerate(view.loads) if full(load) <= more],
        "saturation is that of the servers' queues and caches; how many requests a server takes at once is learned",
    )


def fullness(view: View, i: int, thresholds: Thresholds) -> float:
    """1 is full; an endpoint of which nothing is known is not."""
    load = view.loads[i]
    if not view.known[i]:
        return 0.0
    return max(waiting(load) / thresholds.queue, load.kv_usage / thresholds.kv_usage)


DETECTORS: Mapping[str, Callable[[Parameters], Detector]] = {
    "utilization-detector": _utilization,
    "concurrency-detector": _concurrency,
}


@dataclass(slots=True)
class Flow:
    """What the file says of flow control. `policies` are the policies among its plugins: name -> type."""

    policies: Mapping[str, str] = field(default_factory=dict)
    detectors: Mapping[str, Detector] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def read(self, section: Any, detector: Any, *, gated: bool) -> tuple[Limits, Thresholds]:
        """`detector`: the section of its own that earlier files have. `gated`: the feature gate flowControl is closed."""
        given = Parameters("flowControl", section)
        limits = replace(
            DEFAULT,
            enabled=not gated,
            requests=given.quantity("maxRequests", 0) or DEFAULT.requests,
            size=given.quantity("maxBytes", 0) or DEFAULT.size,
            ttl=min(given.duration("defaultRequestTTL", DEFAULT.ttl), MAX_TTL),
            no_endpoint_ttl=min(given.duration("noEndpointRequestTTL", DEFAULT.no_endpoint_ttl), MAX_TTL),
            band=self._band(given.child("defaultPriorityBand"), DEFAULT.band),
            negative_band=self._band(given.child("defaultNegativePriorityBand"), DEFAULT.negative_band),
        )
        bands = dict(self._numbered(one, limits) for one in given.children("priorityBands"))
        self._usage(given)
        nested = given.child("saturationDetector")
        chosen = nested.text("pluginRef") or Parameters("saturationDetector", detector).text("pluginRef")
        nested.finish()
        if given.flag("enableEviction"):
            self.notes.append(f"flowControl.enableEviction: has no effect, {_EVICTION}")
        own = given.child("penstock")  # what llm-d has no name for
        objective, weights = own.duration("ttftObjective", 0.0), own.child("tenantWeights")
        limits = replace(
            limits,
            bands=bands,
            ttft_objective=objective or None,
            share=own.number("bandShare", DEFAULT.share, 0.0, 0.5),
            negative_ttl=min(own.duration("negativeRequestTTL", DEFAULT.negative_ttl), MAX_TTL),
            weights={name: weights.number(name, 1.0, 0.001, 1000.0) for name in weights.names()},
        )
        for one in (weights, own, given):
            one.finish()
        return limits, self._thresholds(chosen)

    def _thresholds(self, chosen: str) -> Thresholds:
        """Of the detector that the section names, else of the first that there is."""
        if chosen and chosen not in self.detectors and chosen not in DETECTORS:
            raise Parameters("flowControl.saturationDetector", {}).error(
                "pluginRef", f"{chosen!r} is no saturation detector of the file; add it to `plugins`"
            )
        found = self.detectors.get(chosen) or next(iter(self.detectors.values()), None)
        if found is not None and found.note:
            self.notes.append(f"flowControl.saturationDetector: {found.note}")
        return found.thresholds if found is not None else Thresholds()

    def _numbered(self, given: Parameters, limits: Limits) -> tuple[int, Band]:
        if not given.has("priority"):
            raise given.error("priority", "is required")
        priority = given.integer("priority", 0, -(2**31), 2**31)
        return priority, self._band(given, limits.band if priority >= 0 else limits.negative_band)

    def _band(self, given: Parameters, default: Band) -> Band:
        ordering = self._policy(given, "orderingPolicyRef", _ORDERINGS)
        fairness = self._policy(given, "fairnessPolicyRef", _FAIR)
        band = Band(
            given.quantity("maxRequests", 0) or default.requests,
            given.quantity("maxBytes", 0) or default.size,
            _ORDERINGS.get(ordering, default.ordering),
            _FAIR.get(fairness, default.fair),
        )
        given.finish()
        return band

    def _policy(self, given: Parameters, name: str, allowed: Mapping[str, object]) -> str:
        """The type of the policy that a band refers to, "" for none."""
        wanted = given.text(name)
        kind = self.policies.get(wanted, wanted)  # llm-d makes those that are not among the plugins itself
        if kind and kind not in allowed:
            raise given.error(
                name, f"{wanted!r} is not known; add it to `plugins`, or use one of: {', '.join(allowed)}"
            )
        if POLICIES.get(kind):
            self.notes.append(f"{given.where}.{name}: {kind}: {POLICIES[kind]}")
        return kind

    def _usage(self, given: Parameters) -> None:
        wanted = given.text("usageLimitPolicyPluginRef")
        kind = self.policies.get(wanted, wanted)
        if kind and not kind.endswith(("usage-limit-policy", "holdback-policy", "ceiling-policy")):
            raise given.error("usageLimitPolicyPluginRef", f"{wanted!r} is not known; add it to `plugins`")
        if kind:
            self.notes.append(f"flowControl.usageLimitPolicyPluginRef: {kind} is replaced: {_CEILINGS}")
