"""Profile: how endpoints are filtered, scored and picked; read from an EndpointPickerConfig.

Source: llm-d.ai/v1alpha1 (and inference.networking.x-k8s.io/v1alpha1) EndpointPickerConfig. What the file asks for and this
picker does not have is a ConfigError with a remedy; what it asks for and this picker does anyway becomes a note.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from picker import scorers as functions
from picker.errors import ConfigError
from picker.scorers import Filter, Picker, Scorer, View
from xds_server.model.objects import LabelSelector

if TYPE_CHECKING:
    from picker.schedule import Pick

API_VERSIONS = ("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What counts as full. Source: llm-d `utilization-detector`."""

    queue: float = 5.0  # waiting requests of one endpoint
    kv_usage: float = 0.8


@dataclass(frozen=True, slots=True)
class Profile:
    filters: tuple[tuple[str, Filter], ...] = (("lora-filter", functions.lora_filter),)
    scorers: tuple[tuple[str, Scorer, float], ...] = ()  # (name, function, weight)
    picker: Picker = field(default_factory=functions.max_score_picker)
    thresholds: Thresholds = Thresholds()
    notes: tuple[str, ...] = ()  # settings that have no effect here, and why
    handler: "Handler | None" = None  # picks in several stages, each a Profile of its own
    after: "tuple[After, ...]" = ()  # told where each request went


Run = Callable[[View, Profile, str], "Pick"]  # one stage: schedule.run
Handler = Callable[[View, str, Run], "Pick"]  # (all candidates, request id, how to run a stage)
After = Callable[[View, tuple[str, ...]], None]  # (all candidates, endpoints that work on the prompt, the best first)

DEFAULT = Profile(
    scorers=(
        ("queue-scorer", functions.queue_scorer, 2.0),
        ("kv-cache-utilization-scorer", functions.kv_cache_utilization_scorer, 2.0),
        ("prefix-cache-scorer", functions.prefix_cache_scorer(), 3.0),
        ("lora-affinity-scorer", functions.lora_affinity_scorer, 2.0),
        ("active-request-scorer", functions.active_request_scorer(), 1.0),
    )
)


class Parameters:
    """The `parameters` of one plugin: each is read once, with its type; what nobody read is an error."""

    def __init__(self, where: str, values: Any) -> None:
        self._where = f"{where}.parameters"
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(self._where, "must be a mapping")
        self._values: dict[str, Any] = dict(values or {})
        self._known: list[str] = []

    def number(self, name: str, default: float, low: float = 0.0, high: float = float("inf")) -> float:
        self._known.append(name)
        value = self._values.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ConfigError(f"{self._where}.{name}", f"must be a number from {low:g} to {high:g}, not {value!r}")
        return value

    def integer(self, name: str, default: int, low: int) -> int:
        value = self.number(name, default, low)
        if value != int(value):
            raise ConfigError(f"{self._where}.{name}", f"must be an integer, not {value!r}")
        return int(value)

    def text(self, name: str) -> str:
        self._known.append(name)
        value = self._values.pop(name, "")
        if not isinstance(value, str):
            raise ConfigError(f"{self._where}.{name}", f"must be a string, not {value!r}")
        return value

    def selector(self) -> LabelSelector:
        self._known += ["matchLabels", "matchExpressions"]
        try:
            labels = {str(key): str(value) for key, value in self._values.pop("matchLabels", {}).items()}
            expressions = tuple(
                (str(one["key"]), str(one["operator"]), tuple(map(str, one.get("values") or ())))
                for one in self._values.pop("matchExpressions", ())
            )
        except (AttributeError, KeyError, TypeError):
            raise ConfigError(self._where, "must be a metav1.LabelSelector: matchLabels, matchExpressions") from None
        for _, operator, _ in expressions:
            if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
                raise ConfigError(
                    self._where, f"the operator {operator!r} is not one of In, NotIn, Exists, DoesNotExist"
                )
        return LabelSelector(labels, expressions)

    def finish(self) -> None:
        if self._values:
            known = ", ".join(sorted(self._known)) or "none"
            raise ConfigError(f"{self._where}.{min(self._values)}", f"is not known; remove it (known: {known})")


def _prefix(given: Parameters) -> Scorer:
    given.text("prefixMatchInfoProducerName")  # there is one index, whatever its name
    return functions.prefix_cache_scorer(
        given.number("matchLengthWeight", 0.0, 0.0, 1.0), given.number("matchLengthScale", 8192, 1)
    )


def _active(given: Parameters) -> Scorer:
    given.text("requestTimeout")  # a lost request is healed by our own deadline
    return functions.active_request_scorer(
        given.integer("idleThreshold", 0, 0), given.number("maxBusyScore", 1.0, 0.0, 1.0)
    )


def _token_load(given: Parameters) -> Scorer:
    return functions.token_load_scorer(given.number("queueThresholdTokens", given.number("threshold", 4194304, 1), 1))


FILTERS: Mapping[str, Callable[[Parameters], Filter]] = {
    "label-selector-filter": lambda given: functions.label_selector_filter(given.selector()),
    "by-label-selector": lambda given: functions.label_selector_filter(given.selector()),
    "decode-filter": lambda _: functions.role_filter(frozenset(("decode", "both", "prefill-decode")), unlabelled=True),
    "prefill-filter": lambda _: functions.role_filter(
        frozenset(("prefill", "both", "prefill-decode")), unlabelled=False
    ),
    "lora-filter": lambda _: functions.lora_filter,
}
SCORERS: Mapping[str, Callable[[Parameters], Scorer]] = {
    "queue-scorer": lambda _: functions.queue_scorer,
    "running-requests-size-scorer": lambda _: functions.running_requests_size_scorer,
    "kv-cache-utilization-scorer": lambda _: functions.kv_cache_utilization_scorer,
    "prefix-cache-scorer": _prefix,
    "active-request-scorer": _active,
    "lora-affinity-scorer": lambda _: functions.lora_affinity_scorer,
    "load-aware-scorer": lambda given: functions.load_aware_scorer(given.number("threshold", 128, 1)),
    "token-load-scorer": _token_load,
}
PICKERS: Mapping[str, Callable[[Parameters], Picker]] = {
    "max-score-picker": lambda given: functions.max_score_picker(given.integer("maxNumOfEndpoints", 3, 1)),
    "random-picker": lambda given: functions.random_picker(given.integer("maxNumOfEndpoints", 3, 1)),
    "weighted-random-picker": lambda given: functions.weighted_random_picker(given.integer("maxNumOfEndpoints", 3, 1)),
}
# What these do is built in, whatever their parameters say.
BUILT_IN = frozenset((
    "anthropic-parser", "openai-parser", "passthrough-parser", "sglanghttp-parser", "vllmhttp-parser",
    "single-profile-handler", "data-parallel-profile-handler",
    "approx-prefix-cache-producer", "inflight-load-producer", "token-producer",
    "metrics-data-source", "core-metrics-extractor", "models-data-source", "model-server-protocol-models",
))  # fmt: skip
# What stands in for these is coarser: prefixes are learned from where requests went, not from the servers' own events.
APPROXIMATED = frozenset(("precise-prefix-cache-producer", "endpoint-notification-source"))
SATURATION = "utilization-detector"
SECTIONS = ("apiVersion", "kind", "metadata", "plugins", "schedulingProfiles")
OWN_WAY = ("featureGates", "dataLayer", "flowControl", "requestHandler", "saturationDetector")


@dataclass(slots=True)
class _Found:
    """What the plugins of the file are, by name, before profiles refer to them."""

    filters: dict[str, Filter] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)
    pickers: dict[str, Picker] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    thresholds: Thresholds = Thresholds()
    notes: list[str] = field(default_factory=list)


def read(content: Mapping[str, Any]) -> Profile:
    """The Profile that an EndpointPickerConfig describes. Raises ConfigError."""
    if content.get("apiVersion", API_VERSIONS[0]) not in API_VERSIONS:
        raise ConfigError("apiVersion", f"{content['apiVersion']!r} is not served; use {API_VERSIONS[0]}")
    if content.get("kind", "EndpointPickerConfig") != "EndpointPickerConfig":
        raise ConfigError("kind", f"{content['kind']!r} is not EndpointPickerConfig")
    found = _Found()
    for section in content:
        if section in OWN_WAY:
            found.notes.append(f"{section}: has no effect, this picker has its own way")
        elif section not in SECTIONS:
            raise ConfigError(section, f"is not known; remove it (known: {', '.join(SECTIONS + OWN_WAY)})")
    for index, plugin in enumerate(_list(content, "plugins", "")):
        _plugin(f"plugins[{index}]", plugin, found)
    profiles = _list(content, "schedulingProfiles", "")
    if len(profiles) > 1:
        raise ConfigError(
            "schedulingProfiles",
            "several profiles (disaggregated serving) are not supported; keep one",
        )
    if profiles:
        used = _list(profiles[0], "plugins", "schedulingProfiles[0].")
        references = [(f"schedulingProfiles[0].plugins[{index}]", one) for index, one in enumerate(used)]
    else:  # every plugin of the file, as llm-d does
        names = [*found.filters, *found.scorers, *found.pickers]
        references = [("plugins", {"pluginRef": name}) for name in names]
    return _profile(references, found)


def _list(content: Any, name: str, prefix: str) -> list[Any]:
    value = content.get(name) if isinstance(content, Mapping) else None
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(prefix + name, "must be a list")
    return value


def _plugin(where: str, plugin: Any, found: _Found) -> None:
    kind = plugin.get("type") if isinstance(plugin, Mapping) else None
    if not isinstance(kind, str):
        raise ConfigError(where, "must be a mapping with a `type`")
    name = str(plugin.get("name") or kind)
    if name in found.others or name in found.filters or name in found.scorers or name in found.pickers:
        raise ConfigError(f"{where}.name", f"the plugin {name!r} occurs twice; give each its own name")
    if kind in BUILT_IN:
        found.others.add(name)
        if plugin.get("parameters"):
            found.notes.append(f"{where}: the parameters of {kind} have no effect, it is built in")
        return
    if kind in APPROXIMATED:
        found.others.add(name)
        found.notes.append(f"{where}: {kind} is replaced by the approximate prefix index")
        return
    given = Parameters(f"{where} ({kind})", plugin.get("parameters"))
    if kind in FILTERS:
        found.filters[name] = FILTERS[kind](given)
    elif kind in SCORERS:
        found.scorers[name] = SCORERS[kind](given)
    elif kind in PICKERS:
        found.pickers[name] = PICKERS[kind](given)
    elif kind == SATURATION:
        found.others.add(name)
        queue, kv_usage = (
            given.number("queueDepthThreshold", 5, 0.01),
            given.number("kvCacheUtilThreshold", 0.8, 0.01, 1),
        )
        found.thresholds = Thresholds(queue, kv_usage)
        given.text("metricsStalenessThreshold")
        given.number("headroom", 0)
    else:
        known = ", ".join(sorted({*FILTERS, *SCORERS, *PICKERS}))
        raise ConfigError(f"{where}.type", f"the plugin {kind!r} is not supported; remove it, or use one of: {known}")
    given.finish()


def _profile(references: list[tuple[str, Any]], found: _Found) -> Profile:
    filters: list[tuple[str, Filter]] = []
    weighted: list[tuple[str, Scorer, float]] = []
    picker: Picker | None = None
    for where, reference in references:
        name = reference.get("pluginRef") if isinstance(reference, Mapping) else None
        if name in found.filters:
            filters.append((name, found.filters[name]))
        elif name in found.scorers:
            weight = reference.get("weight", 1.0)
            if weight is None or isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
                raise ConfigError(f"{where}.weight", f"must be a number that is not negative, not {weight!r}")
            weighted.append((name, found.scorers[name], float(weight)))
        elif name in found.pickers:
            if picker is not None:
                raise ConfigError(where, f"{name!r} is a second picker; keep one")
            picker = found.pickers[name]
        elif name not in found.others:
            raise ConfigError(
                f"{where}.pluginRef", f"{name!r} is not among the plugins; add it there, or correct the name"
            )
    if all(one is not functions.lora_filter for _, one in filters):
        filters.append(("lora-filter", functions.lora_filter))  # correctness, not taste
    return Profile(
        tuple(filters), tuple(weighted), picker or functions.max_score_picker(), found.thresholds, tuple(found.notes)
    )
