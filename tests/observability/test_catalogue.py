"""The catalogue against the naming rules of Prometheus, and docs/metrics.md against the catalogue."""

import re
from pathlib import Path

import pytest

from observability.catalogue import METRICS, PREFIX, Metric, series_names
from observability.document import markdown

ROOT = Path(__file__).parents[2]
EVERY = pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)


@EVERY
def test_names_follow_the_rules(metric: Metric) -> None:
    assert re.fullmatch(PREFIX + r"[a-z][a-z0-9_]*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not metric.name.endswith(("_bucket", "_sum", "_count"))
    if metric.unit in ("seconds", "bytes"):
        assert metric.name.removesuffix("_total").endswith(metric.unit)
    assert metric.help.endswith(".")


@EVERY
def test_labels_are_legal_and_unique(metric: Metric) -> None:
    assert len(set(metric.label_names)) == len(metric.label_names)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in metric.label_names)
    assert not {"le", "quantile", "job", "instance", "cluster", "namespace", "location"} & set(metric.label_names)


@EVERY
def test_histograms_have_ascending_buckets(metric: Metric) -> None:
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert len(series_names(metric)) == (3 if metric.buckets else 1)


def test_the_docs_are_up_to_date() -> None:
    assert (ROOT / "docs/metrics.md").read_text(encoding="utf-8") == markdown()
