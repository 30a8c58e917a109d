"""EndpointPickerConfig files: what they mean, and what each mistake says."""

from typing import Any

import pytest

from picker import scorers
from picker.errors import ConfigError
from picker.load import Load
from picker.profile import API_VERSIONS, DEFAULT, Thresholds, read


def config(*plugins: dict[str, Any], use: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "apiVersion": API_VERSIONS[0],
        "kind": "EndpointPickerConfig",
        "plugins": list(plugins),
        **more,
    }
    if use is not None:
        found["schedulingProfiles"] = [{"name": "default", "plugins": use}]
    return found


def test_the_default_is_the_least_predicted_ttft() -> None:
    assert [(name, weight) for name, _, weight in DEFAULT.scorers] == [("predicted-latency-scorer", 1.0)]


@pytest.mark.parametrize("version", API_VERSIONS)
def test_a_file_of_llm_d(version: str) -> None:
    found = read(
        config(
            {"type": "queue-scorer"},
            {"type": "prefix-cache-scorer", "name": "mine", "parameters": {"matchLengthWeight": 0.0}},
            {"type": "decode-filter"},
            {"type": "max-score-picker", "parameters": {"maxNumOfEndpoints": 1}},
            {"type": "single-profile-handler"},
            use=[
                {"pluginRef": "decode-filter"},
                {"pluginRef": "max-score-picker"},
                {"pluginRef": "mine", "weight": 50},
                {"pluginRef": "queue-scorer"},
            ],
        )
        | {"apiVersion": version}
    )
    assert [(name, weight) for name, _, weight in found.scorers] == [("mine", 50), ("queue-scorer", 1)]
    assert [name for name, _ in found.filters] == ["decode-filter", "lora-filter"]
    assert found.notes == ()


def test_without_profiles_every_plugin_is_used() -> None:
    assert [name for name, _, _ in read(config({"type": "queue-scorer"}, {"type": "load-aware-scorer"})).scorers] == [
        "queue-scorer",
        "load-aware-scorer",
    ]


def test_every_plugin_can_be_built_and_scores() -> None:
    view = scorers.View(None, "m", (), (), (Load(),), (0,), 0, 0.0)
    found = read(config(*({"type": kind} for kind in ("queue-scorer", "running-requests-size-scorer"))))
    assert [score(view) for _, score, _ in found.scorers] == [[0.5], [0.5]]
    kinds = (
        "kv-cache-utilization-scorer", "prefix-cache-scorer", "active-request-scorer", "lora-affinity-scorer", "load-aware-scorer",
        "token-load-scorer", "label-selector-filter", "by-label-selector", "decode-filter", "prefill-filter", "lora-filter",
        "weighted-random-picker",
    )  # fmt: skip
    assert len(read(config(*({"type": kind} for kind in kinds))).scorers) == 6


def test_what_has_no_effect_is_said() -> None:
    found = read(
        config(
            {"type": "approx-prefix-cache-producer", "parameters": {"blockSizeTokens": 16}},
            {"type": "burst-prefix-cache-producer"},
            {"type": "utilization-detector", "parameters": {"queueDepthThreshold": 9, "kvCacheUtilThreshold": 0.5}},
            featureGates=["flowControl"],
        )
    )
    assert [note.split(":")[0] for note in found.notes] == ["plugins[0]", "plugins[1]"]
    assert found.thresholds == Thresholds(9, 0.5)


QUEUE, MAX, RANDOM = {"type": "queue-scorer"}, {"type": "max-score-picker"}, {"type": "random-picker"}
PREFIX = "prefix-cache-scorer"


@pytest.mark.parametrize(
    ("content", "field", "says"),
    [
        (config() | {"apiVersion": "v2"}, "apiVersion", "use llm-d.ai/v1alpha1"),
        (config() | {"kind": "Pod"}, "kind", "EndpointPickerConfig"),
        (config(scheduling=[]), "scheduling", "remove it"),
        (config() | {"plugins": {}}, "plugins", "list"),
        (config("queue-scorer"), "plugins[0]", "type"),
        (config({"type": "magic-scorer"}), "plugins[0].type", "'magic-scorer' is not supported.*queue-scorer"),
        (config(QUEUE, QUEUE), "plugins[1].name", "twice"),
        (config(QUEUE | {"parameters": {"x": 1}}), "plugins[0] (queue-scorer).parameters.x", "remove it"),
        (config(QUEUE | {"parameters": [1]}), "plugins[0] (queue-scorer).parameters", "mapping"),
        (config({"type": PREFIX, "parameters": {"matchLengthWeight": 2}}), f"plugins[0] ({PREFIX}).parameters.matchLengthWeight", "0 to 1"),
        (config({"type": PREFIX, "parameters": {"prefixMatchInfoProducerName": 2}}), f"plugins[0] ({PREFIX}).parameters.prefixMatchInfoProducerName", "string"),
        (config(MAX | {"parameters": {"maxNumOfEndpoints": 1.5}}), "plugins[0] (max-score-picker).parameters.maxNumOfEndpoints", "integer"),
        (config(MAX | {"parameters": {"maxNumOfEndpoints": 0}}), "plugins[0] (max-score-picker).parameters.maxNumOfEndpoints", "from 1"),
        (config({"type": "label-selector-filter", "parameters": {"matchLabels": [1]}}), "plugins[0] (label-selector-filter).parameters", "LabelSelector"),
        (config({"type": "label-selector-filter", "parameters": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}), "plugins[0] (label-selector-filter).parameters", "'Is'"),
        (config(use=[{"pluginRef": "queue-scorer"}]), "schedulingProfiles[0].plugins[0].pluginRef", "add it there"),
        (config(QUEUE, use=[{"pluginRef": "queue-scorer", "weight": -1}]), "schedulingProfiles[0].plugins[0].weight", "from 0"),
        (config(QUEUE, use=[{"pluginRef": "queue-scorer", "weight": float("inf")}]), "schedulingProfiles[0].plugins[0].weight", "from 0"),
        (config(QUEUE, use=[7]), "schedulingProfiles[0].plugins[0].pluginRef", "string"),
        (config(QUEUE, use=[{"pluginRef": "queue-scorer", "wieght": 1}]), "schedulingProfiles[0].plugins[0].wieght", "weight"),
        (config(QUEUE, use={}), "schedulingProfiles[0].plugins", "list"),
        (config({"type": "queue-scorer", "params": {}}), "plugins[0].params", "remove it"),
        (config({"type": "queue-scoer"}), "plugins[0].type", "did you mean 'queue-scorer'"),
        (config({"type": "multicluster-queue-scorer"}), "plugins[0].type", "HTTPRoute"),
        (config({"type": "dcgm-data-source", "parameters": {"scheme": "https"}}), "plugins[0] (dcgm-data-source).parameters.scheme", "http"),
        (config({"type": "dcgm-data-source", "parameters": {"port": 0}}), "plugins[0] (dcgm-data-source).parameters.port", "from 1"),
        (config(MAX, RANDOM), "plugins", "second picker"),
        (config(schedulingProfiles=[{}, {}]), "schedulingProfiles[1].name", "twice"),
        (config(schedulingProfiles=[{"name": "a"}, {"name": "b"}]), "schedulingProfiles", "disagg-profile-handler"),
    ],
)  # fmt: skip
def test_a_mistake_names_the_field_and_the_remedy(content: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read(content)
    assert caught.value.field == field
