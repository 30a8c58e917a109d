"""Profile: how endpoints are filtered, scored and picked; read from an EndpointPickerConfig.

Source: llm-d.ai/v1alpha1 (and inference.networking.x-k8s.io/v1alpha1) EndpointPickerConfig. What the file asks for and this
picker does not have is a ConfigError with a remedy; what it asks for and this picker does anyway becomes a note. The plugins are
in picker/plugins, a table for each kind; docs/llm-d.md says how each differs from llm-d's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from picker import scorers as functions
from picker.errors import ConfigError
from picker.kv_source import KvSource
from picker.plugins import kv_events, own as own_scorer
from picker.plugins.accelerators import SOURCES
from picker.plugins.admitters import ADMITTERS, Shed
from picker.plugins.filters import FILTERS
from picker.plugins.flow_control import DETECTORS, POLICIES, Detector, Flow, Thresholds
from picker.plugins.handlers import DECIDERS, HANDLERS, Decider, Plan, Stages, single
from picker.plugins.ignored import APPROXIMATED, BUILT_IN, REFUSED
from picker.plugins.own import Guarded, Own
from picker.plugins.parameters import Parameters, shown
from picker.plugins.pickers import FALLBACKS, PICKERS, Make
from picker.plugins.scorers import SCORERS
from picker.scorers import Filter, Picker, Scorer
from picker.stage import Learns, Profile
from picker.ttft import least_predicted_ttft
from xds_server.model.exporter import Exporter

__all__ = ("API_VERSIONS", "DEFAULT", "Own", "Thresholds", "read")

API_VERSIONS = ("llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1")


DEFAULT = Profile(
    scorers=(("predicted-latency-scorer", least_predicted_ttft, 1.0),),
    picker=functions.max_score_picker(3, good=1 / 3),  # fallbacks are elsewhere, unless that is three times as slow
)


SECTIONS = ("apiVersion", "kind", "metadata", "plugins", "schedulingProfiles", "featureGates", "flowControl",
            "saturationDetector", "dataLayer", "requestHandler", "parser")  # fmt: skip
OWN_WAY = ("dataLayer", "requestHandler", "parser")
_GATES = {"flowControl": True, "flowControl=true": True, "flowControl=false": False}


@dataclass(slots=True)
class _Found:
    """What the plugins of the file are, by name, before profiles refer to them. One name may be a filter and a scorer."""

    filters: dict[str, Filter] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)
    pickers: dict[str, Make] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    deciders: dict[str, Decider] = field(default_factory=dict)
    detectors: dict[str, Detector] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)
    sheds: dict[str, Shed] = field(default_factory=dict)
    exporters: dict[str, Exporter] = field(default_factory=dict)
    kv_events: KvSource | None = None
    names: set[str] = field(default_factory=set)  # of all plugins
    notes: list[str] = field(default_factory=list)


def read(content: Mapping[str, Any], own: Own | None = None) -> Profile:
    """The Profile that an EndpointPickerConfig describes; `own` finds the user's own scorers. Raises ConfigError."""
    if content.get("apiVersion", API_VERSIONS[0]) not in API_VERSIONS:
        raise ConfigError("apiVersion", f"{shown(content['apiVersion'])} is not served; use {API_VERSIONS[0]}")
    if content.get("kind", "EndpointPickerConfig") != "EndpointPickerConfig":
        raise ConfigError("kind", f"{shown(content['kind'])} is not EndpointPickerConfig")
    found = _Found()
    for section in content:
        if section in OWN_WAY and content[section]:
            found.notes.append(f"{section}: has no effect, this picker has its own way")
        elif section not in SECTIONS:
            raise ConfigError(str(section) or "''", f"is not known; remove it (known: {', '.join(SECTIONS)})")
    for index, plugin in enumerate(_list(content, "plugins", "")):
        _plugin(f"plugins[{index}]", plugin, found, own)
    gated = _gated(content, found)
    flow = Flow(found.policies, found.detectors, found.notes)
    bounds, thresholds = flow.read(content.get("flowControl"), content.get("saturationDetector"), gated=gated)
    if len(found.plans) > 1:
        raise ConfigError("plugins", f"{', '.join(found.plans)}: several profile handlers; keep one")
    plan = next(iter(found.plans.values()), single(Parameters("plugins", None)))
    profile, handler = plan(Stages(_profiles(content, found), found.deciders))
    every: tuple[object, ...] = (*found.filters.values(), *found.scorers.values())
    return replace(
        profile,
        thresholds=thresholds,
        notes=tuple(found.notes),
        handler=handler,
        after=tuple(one.after for one in every if isinstance(one, Learns)),
        limits=bounds,
        kv_events=found.kv_events,
        shed=next(iter(found.sheds.values()), None),
        exporter=next(iter(found.exporters.values()), None),
        guarded=tuple(one for one in found.scorers.values() if isinstance(one, Guarded)),
    )


def _list(content: Any, name: str, prefix: str) -> list[Any]:
    value = content.get(name) if isinstance(content, Mapping) else None
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(prefix + name, "must be a list")
    return value


def _gated(content: Mapping[str, Any], found: _Found) -> bool:
    """Whether the file closes the gate of flow control. It is open unless closed: llm-d has it closed unless opened."""
    gates = [gate if isinstance(gate, str) else shown(gate) for gate in _list(content, "featureGates", "")]
    found.notes += [f"featureGates: {gate!r} has no effect" for gate in gates if gate not in _GATES]
    return any(_GATES.get(gate) is False for gate in gates)


# --- plugins ----------------------------------------------------------------------------------------------------------

_T = TypeVar("_T")


def _plugin(where: str, plugin: Any, found: _Found, own: Own | None) -> None:
    kind = plugin.get("type") if isinstance(plugin, Mapping) else None
    if not isinstance(kind, str):
        raise ConfigError(where, "must be a mapping with a `type`")
    entry = Parameters(where, plugin)
    entry.take("type")
    name, parameters = entry.text("name") or kind, entry.take("parameters")
    entry.finish()
    if name in found.names:
        raise ConfigError(f"{where}.name", f"the plugin {name!r} occurs twice; give each its own name")
    found.names.add(name)
    if kind in REFUSED:
        raise ConfigError(f"{where}.type", f"the plugin {kind!r} is not supported: {REFUSED[kind]}")
    if kind in BUILT_IN or kind in APPROXIMATED or kind in POLICIES:
        if kind in POLICIES:
            found.policies[name] = kind
        if kind in APPROXIMATED:
            found.notes.append(f"{where}: {kind}: {APPROXIMATED[kind]}")
        elif parameters:
            why = BUILT_IN.get(kind) or POLICIES.get(kind) or "it has none here"
            found.notes.append(f"{where}: the parameters of {kind} have no effect: {why}")
        return
    at = f"{where} ({kind})"
    if kind == kv_events.KIND:
        found.kv_events = kv_events.read(Parameters(f"{at}.parameters", parameters), found.notes)
        return
    if kind == own_scorer.KIND:
        given = Parameters(f"{at}.parameters", parameters)
        found.scorers[name] = own_scorer.read(given, name, own)
        given.finish()
        return
    known = [
        _made(FILTERS, found.filters, kind, name, at, parameters),
        _made(SCORERS, found.scorers, kind, name, at, parameters),
        _made(PICKERS, found.pickers, kind, name, at, parameters),
        _made(HANDLERS, found.plans, kind, name, at, parameters),
        _made(DECIDERS, found.deciders, kind, name, at, parameters),
        _made(DETECTORS, found.detectors, kind, name, at, parameters),
        _made(ADMITTERS, found.sheds, kind, name, at, parameters),
        _made(SOURCES, found.exporters, kind, name, at, parameters),
    ]
    if not any(known):
        raise ConfigError(f"{where}.type", f"the plugin {kind!r} is not supported; {_nearest(kind)}")


def _made(
    table: Mapping[str, Callable[[Parameters], _T]], into: dict[str, _T], kind: str, name: str, at: str, values: Any
) -> bool:
    """Whether the table has the plugin, which is then read."""
    if kind not in table:
        return False
    given = Parameters(f"{at}.parameters", values)
    into[name] = table[kind](given)
    given.finish()
    return True


def _nearest(kind: str) -> str:
    every = sorted(
        {*FILTERS, *SCORERS, *PICKERS, *HANDLERS, *DECIDERS, *DETECTORS, *ADMITTERS, *SOURCES, own_scorer.KIND}
    )
    near = get_close_matches(kind[:100], [*every, *BUILT_IN, *APPROXIMATED, *POLICIES, kv_events.KIND], 1)
    meant = f"did you mean {near[0]!r}? Else remove it" if near else "remove it"
    return f"{meant}, or use one of: {', '.join(every)}"


# --- profiles ---------------------------------------------------------------------------------------------------------


def _profiles(content: Mapping[str, Any], found: _Found) -> dict[str, Callable[[int], Profile]]:
    """What makes each profile, by name: once for its mistakes, and again for the number of endpoints that it is to give."""
    profiles: dict[str, list[tuple[str, Any]]] = {}
    for index, one in enumerate(_list(content, "schedulingProfiles", "")):
        where = f"schedulingProfiles[{index}]"
        given = Parameters(where, one)
        name, used = given.text("name", "default"), given.take("plugins", [])
        given.finish()
        if name in profiles:
            raise ConfigError(f"{where}.name", f"the profile {name!r} occurs twice; give each its own name")
        if not isinstance(used, list):
            raise ConfigError(f"{where}.plugins", "must be a list")
        profiles[name] = [(f"{where}.plugins[{i}]", reference) for i, reference in enumerate(used)]
    if not profiles:  # every plugin of the file, as llm-d does
        names = dict.fromkeys([*found.filters, *found.scorers, *found.pickers])
        profiles["default"] = [("plugins", {"pluginRef": name}) for name in names]

    def made(name: str, references: list[tuple[str, Any]]) -> Callable[[int], Profile]:
        _profile(references, found, FALLBACKS)
        return lambda count: replace(_profile(references, found, count), name=name)

    return {name: made(name, references) for name, references in profiles.items()}


def _profile(references: list[tuple[str, Any]], found: _Found, count: int) -> Profile:
    filters: list[tuple[str, Filter]] = []
    weighted: list[tuple[str, Scorer, float]] = []
    picker: Picker | None = None
    for where, reference in references:
        given = Parameters(where, reference if isinstance(reference, Mapping) else {"pluginRef": reference})
        name, weight = given.text("pluginRef"), given.number("weight", 1.0)
        given.finish()
        if name not in found.names:
            raise ConfigError(
                f"{where}.pluginRef", f"{name!r} is not among the plugins; add it there, or correct the name"
            )
        if name in found.filters:
            filters.append((name, found.filters[name]))
        if name in found.detectors:
            filters.append((name, found.detectors[name].keep))
        if name in found.scorers:
            weighted.append((name, found.scorers[name], weight))
        if name in found.pickers:
            if picker is not None:
                raise ConfigError(where, f"{name!r} is a second picker; keep one")
            picker = found.pickers[name](count)
    if all(one is not functions.lora_filter for _, one in filters):
        filters.append(("lora-filter", functions.lora_filter))  # correctness, not taste
    if picker is None:
        picker = next(iter(found.pickers.values()), functions.max_score_picker)(
            count
        )  # as llm-d: any that the file has
    return Profile(tuple(filters), tuple(weighted), picker)
