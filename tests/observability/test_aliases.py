"""Aliases: each yields the samples of its source, with other names; those of one name and other labels are merged."""

from collections import defaultdict
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from observability import catalogue as c
from observability.aliases import FAMILIES, Alias, Aliases
from observability.exporters.prometheus import openmetrics, text
from observability.record import load_samples
from observability.registry import Distribution, Reading, Registry, Sample
from picker.load import Load
from tests.observability.test_record import DECISION, OUTCOME, recorded

EVERY = [alias for family in FAMILIES.values() for alias in family]
# What Google's dashboard "inference-extension-prometheus-2" queries, as far as it is recorded here.
GOOGLE = [
    "inference_extension_info",
    "inference_extension_prefix_indexer_hit_ratio",
    "inference_extension_scheduler_e2e_duration_seconds",
    "inference_objective_input_tokens",
    "inference_objective_output_tokens",
    "inference_objective_request_duration_seconds",
    "inference_objective_request_error_total",
    "inference_objective_request_sizes",
    "inference_objective_request_total",
    "inference_objective_response_sizes",
    "inference_objective_running_requests",
    "inference_pool_average_kv_cache_utilization",
    "inference_pool_average_queue_size",
    "inference_pool_per_pod_queue_size",
    "inference_pool_ready_pods",
]


def busy() -> Registry:
    """A registry with a value in every source of an alias; each base label has several values."""
    facts: list[object] = [DECISION, OUTCOME, replace(DECISION, id="2", queue=0.5, seconds=0.7)]
    for number, (model, priority, reason) in enumerate([("a", 0, ""), ("b", 1, ""), ("b", 0, "upstream_5xx")]):
        status = 503 if reason else 200
        facts.append(
            replace(OUTCOME, id=f"o{number}", model=model, priority=priority, reason=reason, status=status, queue=0.2)
        )
    facts.append(replace(OUTCOME, id="o9", reason="queue_full", status=429, endpoint="", queue=0.1))
    registry = recorded(*facts)
    loads = {"a:1": Load(waiting=3, running=5, kv_usage=0.2, scraped=1.0), "b:1": Load(waiting=1, kv_usage=0.4)}
    registry.collect(
        lambda: [
            *load_samples(
                "ns/p", loads, 2.0, stale_after=5.0, saturation=0.5, failures={"a:1": 2}, queued={1: (2, 70)}
            ),
            *load_samples("other/p", loads, 2.0, stale_after=5.0, saturation=0.7, queued={1: (3, 50)}),
            Sample(c.BUILD_INFO, {"version": "1.2"}, 1),
        ]
    )
    return registry


READINGS = busy().snapshot()
ALIASED = {reading.metric.name: reading for reading in Aliases(FAMILIES)(READINGS)}


def reading(metric: c.Metric) -> Reading:
    return next(each for each in READINGS if each.metric is metric)


def flat(value: float | Distribution) -> tuple[float, ...]:
    return (*value.counts, value.sum) if isinstance(value, Distribution) else (value,)


@pytest.mark.parametrize("alias", EVERY, ids=lambda alias: f"{alias.name}-{alias.source.name}")
def test_an_alias_yields_the_samples_of_its_source_with_its_own_labels(alias: Alias) -> None:
    ours: dict[frozenset[tuple[str, str]], list[tuple[float, ...]]] = defaultdict(list)
    for point in reading(alias.source).points:
        labels = dict(zip(alias.source.label_names, point.labels, strict=True))
        if alias.only.items() <= labels.items():
            told = {theirs: labels[name] for theirs, name in alias.labels.items()}
            told |= {name: told[name].split("/")[1] for name in ("name", "inference_pool") if name in told}
            told = {name: alias.values.get(value, value) for name, value in told.items()} | dict(alias.fixed)
            ours[frozenset(told.items())].append(flat(point.value))
    assert ours
    found = {}
    for point in ALIASED[alias.name].points:
        labels = frozenset(zip(ALIASED[alias.name].metric.label_names, point.labels, strict=True))
        if alias.fixed.items() <= dict(labels).items():
            found[labels] = flat(point.value)
    assert found.keys() == ours.keys()
    for labels, values in ours.items():
        columns = list(zip(*values, strict=True))
        merged = [max(each) if alias.merge == "max" else sum(each) for each in columns]
        scale = len(values) if alias.merge == "mean" else 1
        assert found[labels] == pytest.approx([each / scale for each in merged])


def test_our_own_names_stay_as_they_are() -> None:
    assert [each for each in ALIASED.values() if each.metric.name.startswith(c.PREFIX)] == list(READINGS)
    assert list(ALIASED) == sorted(ALIASED)


def test_without_a_family_nothing_is_touched() -> None:
    assert Aliases()(READINGS) is READINGS


def test_every_parser_takes_both_formats_with_every_alias() -> None:
    readings = tuple(ALIASED.values())
    assert {family.name for family in parse_text(text(readings).decode())} >= {
        name.removesuffix("_total") for name in ALIASED
    }
    assert list(parse_openmetrics(openmetrics(readings).decode()))


def test_google_s_dashboard_finds_its_names() -> None:
    names = {alias.name for alias in FAMILIES["gke"]}
    assert names >= set(GOOGLE)
    assert ALIASED["inference_objective_request_total"].metric.label_names == ("model_name", "target_model_name")
    assert ALIASED["inference_pool_average_queue_size"].points[0].labels == ("p",)


def test_values_that_others_call_by_another_word() -> None:
    found = ALIASED["llm_d_epp_flow_control_request_queue_duration_seconds"]
    outcomes = {point.labels[found.metric.label_names.index("outcome")] for point in found.points}
    assert outcomes == {"Dispatched", "RejectedOther"}
