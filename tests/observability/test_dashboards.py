"""The dashboards: strict for Cloud Monitoring, true to the catalogue, without overlap, and as generated."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from google.cloud.monitoring_dashboard_v1 import Dashboard
from google.protobuf.json_format import ParseDict

from observability.catalogue import METRICS, series_names
from observability.dashboards import check, files, overview, references

ROOT = Path(__file__).parents[2]
FILES = files()
CLOUD = json.loads(FILES["overview.cloud-monitoring.json"])
GRAFANA = json.loads(FILES["overview.grafana.json"])
CLOUD_QUERIES = re.findall(r'"prometheusQuery": ("(?:[^"\\]|\\.)*")', FILES["overview.cloud-monitoring.json"].decode())
GRAFANA_QUERIES = [target["expr"] for panel in GRAFANA["panels"] for target in panel.get("targets", ())]
QUERIES = [*(json.loads(query) for query in CLOUD_QUERIES), *GRAFANA_QUERIES]
ERRORS = ("penstock_request_errors_total", "penstock_stream_aborts_total", "penstock_xds_nacks_total")


def test_cloud_monitoring_knows_every_field() -> None:
    parsed = ParseDict(CLOUD, Dashboard.pb(Dashboard()), ignore_unknown_fields=False)
    assert parsed.display_name == "Penstock overview"
    assert len(parsed.mosaic_layout.tiles) == len(CLOUD["mosaicLayout"]["tiles"])


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_and_label_is_in_the_catalogue(query: str) -> None:
    check(query)
    assert list(references(query))
    assert "$selector" not in query
    assert "$window" not in query


@pytest.mark.parametrize("query", QUERIES)
def test_errors_that_never_happened_are_zero(query: str) -> None:
    if any(name in query for name in ERRORS):
        assert re.search(r"or (on\(\) )?vector\(0\)", query)


def test_every_chart_has_a_unit_and_both_sides_ask_the_same() -> None:
    panels = [panel for row in overview() for panel in row.panels]
    assert all(panel.unit for panel in panels)
    assert len(CLOUD_QUERIES) == len(GRAFANA_QUERIES) == sum(len(panel.queries) for panel in panels)
    assert len({panel.title for panel in panels}) == len(panels)


@pytest.mark.parametrize(
    ("places", "columns"),
    [
        ([(t["xPos"], t["yPos"], t["width"], t["height"]) for t in CLOUD["mosaicLayout"]["tiles"]], 48),
        ([tuple(panel["gridPos"][key] for key in "xywh") for panel in GRAFANA["panels"]], 24),
    ],
    ids=["cloud", "grafana"],
)
def test_tiles_do_not_overlap_nor_leave_the_page(places: list[tuple[int, int, int, int]], columns: int) -> None:
    assert all(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= columns for x, y, w, h in places)
    for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(places, 2):
        assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_up_to_date(name: str) -> None:
    assert (ROOT / "dashboards" / name).read_bytes() == FILES[name]


def test_references_finds_names_matchers_and_groupings() -> None:
    query = (
        'sum by (le, pool) (rate(a_bucket{x="b{c", ${v}}[5m])) / on(pool) group_left(z) max(d offset 5m) or vector(0)'
    )
    assert dict(references(query)) == {"a_bucket": {"x", "le", "pool"}, "d": set()}


@pytest.mark.parametrize(
    "query",
    [
        "penstock_unheard_of_total",
        'penstock_requests_total{code="200"}',
        "sum by (endpoint) (penstock_requests_total)",
        "sum(penstock_requests_total) by (pool)",
        "penstock_request_duration_seconds",
        "sum by (le) (penstock_requests_total)",
    ],
)
def test_a_query_that_would_find_nothing_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=r"catalogue|label|before"):
        check(query)


def test_every_declared_series_may_be_asked_for() -> None:
    for metric in METRICS.values():
        for name in series_names(metric):
            matchers = ",".join(label + '="x"' for label in metric.label_names)
            check(name + "{" + matchers + "}")
