"""Whatever stands in the file: a Profile that picks, or a ConfigError that names a field. And what the section flowControl means."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from ruamel.yaml import YAML, YAMLError

from picker.errors import ConfigError, NoEndpoint
from picker.limits import DEFAULT, Band
from picker.plugins.admitters import ADMITTERS
from picker.plugins.filters import FILTERS
from picker.plugins.flow_control import DETECTORS, POLICIES
from picker.plugins.handlers import DECIDERS, HANDLERS
from picker.plugins.ignored import APPROXIMATED, BUILT_IN, REFUSED
from picker.plugins.parameters import Parameters
from picker.plugins.pickers import PICKERS
from picker.plugins.scorers import SCORERS
from picker.profile import SECTIONS, Thresholds, read
from picker.schedule import pick
from picker.stage import Profile
from tests.picker._views import endpoint, fresh, plugin, profile, view

TABLES = (FILTERS, SCORERS, PICKERS, HANDLERS, DECIDERS, DETECTORS, ADMITTERS)
KINDS = sorted({name for table in (*TABLES, POLICIES, BUILT_IN, APPROXIMATED, REFUSED) for name in table})
NAMES = [
    "affinityThreshold",
    "algorithm",
    "type",
    "threshold",
    "operator",
    "value",
    "attribute",
    "attributeKey",
    "composite",
    "conditions",
    "metric",
    "maxValue",
    "deciders",
    "prefill",
    "encode",
    "decode",
    "profiles",
    "header",
    "headerName",
    "labelKey",
    "label",
    "validValues",
    "matchLabels",
    "matchExpressions",
    "key",
    "lruSize",
    "maxNumOfEndpoints",
    "nonCachedTokens",
    "normalization",
    "fixedRange",
    "min",
    "max",
    "strategy",
    "sessionIdConfig",
    "sources",
    "stageOrder",
    "ttftSource",
    "pluginRef",
    "weight",
    "name",
    "plugins",
    "maxBytes",
    "maxRequests",
    "defaultRequestTTL",
    "priorityBands",
    "priority",
    "saturationDetector",
    "penstock",
    "tenantWeights",
    "ttftObjective",
    "queueThresholdTokens",
    "matchLengthScaleTokens",
    "power",
    "k",
    "peakPrefillThroughput",
    "defaultPriorityBand",
]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(KINDS)
    | st.sampled_from(["10Gi", "1e99", "60s", "9" * 40, "decode", "LessThan", "session_id", "waiting-queue", ".inf"])
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | SCALARS, inner, max_size=4),
    max_leaves=8,
)
PLUGINS = st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional={"name": SCALARS, "parameters": ANYTHING})
REFERENCES = st.fixed_dictionaries({"pluginRef": st.sampled_from(KINDS)}, optional={"weight": SCALARS})
PROFILES = st.fixed_dictionaries(
    {"name": st.sampled_from(["default", "decode", "prefill", "encode"])},
    optional={"plugins": st.lists(REFERENCES, max_size=4)},
)
FILES = st.fixed_dictionaries(
    {},
    optional={
        name: ANYTHING for name in SECTIONS if name not in ("plugins", "schedulingProfiles", "apiVersion", "kind")
    }
    | {
        "plugins": st.lists(PLUGINS, max_size=4),
        "schedulingProfiles": st.lists(PROFILES, max_size=3),
        "apiVersion": SCALARS,
    },
)
SEEN = view(endpoint(1, "decode"), endpoint(2, "prefill"), endpoint(3), loads=(fresh(waiting=3), fresh(), fresh(kv_usage=0.3)),
            matched=(128, 0, 64), cacheable=128, prompt=b"x" * 600, headers={"x-session-token": "t"}, media=(1,))  # fmt: skip


def check(content: Any) -> None:
    try:
        found = read(content)
    except ConfigError as error:
        assert error.field
        assert error.message
        return
    assert isinstance(found, Profile)
    with suppress(NoEndpoint):
        assert pick(SEEN, found, "id").endpoints


@settings(max_examples=300)
@given(FILES)
def test_any_file_is_a_profile_that_picks_or_a_mistake(content: dict[str, Any]) -> None:
    check(content)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(parameters=ANYTHING)
def test_any_parameters_are_read_or_a_mistake(kind: str, parameters: Any) -> None:
    check({"plugins": [{"type": kind, "parameters": parameters}]})


@given(st.dictionaries(SCALARS, ANYTHING, max_size=3))
def test_any_mapping_is_a_profile_or_a_mistake(content: dict[Any, Any]) -> None:
    check(content)


@given(st.text(max_size=60))
def test_any_yaml_that_is_a_mapping(text: str) -> None:
    try:
        content = YAML(typ="safe").load(text)
    except (YAMLError, ValueError):
        return
    if isinstance(content, dict):
        check(content)


def test_a_file_that_holds_itself() -> None:
    loop: dict[str, Any] = {"type": "queue-scorer"}
    loop["parameters"] = loop
    with pytest.raises(ConfigError):
        read({"plugins": [loop]})


DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "content",
    [
        {"apiVersion": DEEP},
        {"kind": DEEP},
        {"featureGates": DEEP},
        {"plugins": DEEP},
        {"plugins": [{"type": "queue-scorer", "name": DEEP}]},
        {"plugins": [{"type": "queue-scorer", "parameters": {"x": DEEP}}]},
        {"plugins": [{"type": "label-selector-filter", "parameters": {"matchLabels": {"x": DEEP}}}]},
        {"plugins": [{"type": "load-aware-scorer", "parameters": {"threshold": DEEP}}]},
        {"plugins": [{"type": "load-aware-scorer", "parameters": {"threshold": "x" * 10**6}}]},
        {"schedulingProfiles": [{"plugins": [{"pluginRef": DEEP}]}]},
        {"flowControl": {"maxBytes": DEEP}},
        {"metadata": DEEP, "dataLayer": DEEP},
        {"flowControl": {"maxBytes": 1 << 20000}},
        {"apiVersion": 1 << 20000},
        {"plugins": [{"type": "load-aware-scorer", "parameters": {"threshold": 1 << 20000}}]},
    ],
)
def test_depth_and_length_harm_nobody(content: dict[str, Any]) -> None:
    try:
        read(content)
    except ConfigError as error:
        assert len(str(error)) < 3000


# --- flow control -----------------------------------------------------------------------------------------------------


def test_the_section_of_flow_control() -> None:
    section = {
        "maxBytes": "1Gi",
        "maxRequests": "2k",
        "defaultRequestTTL": "1m30s",
        "noEndpointRequestTTL": "250ms",
        "defaultPriorityBand": {"maxRequests": 7, "orderingPolicyRef": "edf"},
        "defaultNegativePriorityBand": {},
        "priorityBands": [{"priority": 100, "maxBytes": "1M", "fairnessPolicyRef": "global-strict-fairness-policy"}],
        "usageLimitPolicyPluginRef": "static-usage-limit-policy",
        "saturationDetector": {"pluginRef": "mine"},
        "enableEviction": True,
        "penstock": {
            "ttftObjective": "500ms",
            "tenantWeights": {"gold": 3},
            "bandShare": 0.1,
            "negativeRequestTTL": "2s",
        },
    }
    plugins = [
        {"type": "edf-ordering-policy", "name": "edf"},
        plugin("utilization-detector", queueDepthThreshold=7),
        {
            "type": "utilization-detector",
            "name": "mine",
            "parameters": {"queueDepthThreshold": 9, "metricsStalenessThreshold": "200ms"},
        },
    ]
    found = profile(*plugins, flowControl=section, featureGates=["flowControl"])
    limits, band = found.limits, Band(7, DEFAULT.band.size, "edf")
    assert (limits.enabled, limits.size, limits.requests, limits.ttl, limits.no_endpoint_ttl) == (
        True,
        2**30,
        2000,
        90,
        0.25,
    )
    assert (limits.band, limits.negative_band) == (band, DEFAULT.negative_band)
    assert limits.bands == {100: Band(7, 10**6, "edf", fair=False)}
    assert (limits.ttft_objective, limits.weights, limits.share, limits.negative_ttl) == (0.5, {"gold": 3}, 0.1, 2)
    assert found.thresholds == Thresholds(9)
    assert [note.split(":")[0] for note in found.notes] == [
        "flowControl.usageLimitPolicyPluginRef",
        "flowControl.enableEviction",
    ]


def test_without_a_section_flow_control_is_as_it_is() -> None:
    assert profile().limits == DEFAULT
    assert not profile(featureGates=["flowControl=false"]).limits.enabled
    assert profile(featureGates=["haPopulateNonLeaderDatastore"]).notes == (
        "featureGates: 'haPopulateNonLeaderDatastore' has no effect",
    )
    old = profile(plugin("concurrency-detector"), saturationDetector={"pluginRef": "concurrency-detector"})
    assert "learned" in old.notes[0]
    assert (
        profile(
            "fcfs-ordering-policy", flowControl={"defaultPriorityBand": {"orderingPolicyRef": "fcfs-ordering-policy"}}
        ).notes
        == ()
    )


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"maxByte": 1}, "flowControl.maxByte"),
        ({"maxBytes": "1Zi"}, "flowControl.maxBytes"),
        ({"maxBytes": "999999999999P"}, "flowControl.maxBytes"),
        ({"maxRequests": True}, "flowControl.maxRequests"),
        ({"defaultRequestTTL": 60}, "flowControl.defaultRequestTTL"),
        ({"priorityBands": {}}, "flowControl.priorityBands"),
        ({"priorityBands": [{}]}, "flowControl.priorityBands[0].priority"),
        ({"priorityBands": [{"priority": 1, "fairnessPolicyRef": "x"}]}, "flowControl.priorityBands[0].fairnessPolicyRef"),
        ({"defaultPriorityBand": {"orderingPolicyRef": "round-robin-fairness-policy"}}, "flowControl.defaultPriorityBand.orderingPolicyRef"),
        ({"usageLimitPolicyPluginRef": "x"}, "flowControl.usageLimitPolicyPluginRef"),
        ({"saturationDetector": {"pluginRef": "x"}}, "flowControl.saturationDetector.pluginRef"),
        ({"saturationDetector": {"plugin": "x"}}, "flowControl.saturationDetector.plugin"),
        ({"enableEviction": "yes"}, "flowControl.enableEviction"),
        ({"penstock": {"tenantWeights": {"gold": 0}}}, "flowControl.penstock.tenantWeights.gold"),
        ({"penstock": {"x": 1}}, "flowControl.penstock.x"),
    ],
)  # fmt: skip
def test_mistakes_of_flow_control(section: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        profile(flowControl=section)
    assert caught.value.field == field


def test_who_is_shed_by_chance() -> None:
    shed = profile("probabilistic-admitter").shed
    assert shed is not None
    half = [fresh(waiting=1), fresh(kv_usage=0.16)]  # saturation 0.2: 300 x 0.00032
    assert 150 < sum(shed(half, 100.0, str(number)) for number in range(2000)) < 240
    assert not shed([], 100.0, "id")
    assert all(shed([fresh(waiting=100)], 100.0, str(number)) for number in range(50))


@pytest.mark.parametrize(
    ("text", "count"), [(5000, 5000), ("1500m", 1), ("1e3", 1000), ("2E2", 200), ("1.5Ki", 1536), ("0", 0)]
)
def test_quantities(text: Any, count: int) -> None:
    assert Parameters("here", {"x": text}).quantity("x", None) == count
