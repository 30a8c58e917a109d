"""The boards: strict for Cloud Monitoring, true to the catalogue, without overlap, with units, and as generated."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from google.cloud.monitoring_dashboard_v1 import Dashboard
from google.cloud.monitoring_v3 import AlertPolicy, ServiceLevelObjective
from google.protobuf.json_format import ParseDict
from ruamel.yaml import YAML

from observability import catalogue as c
from observability.dashboards import cloud_monitoring, grafana
from observability.dashboards.__main__ import main
from observability.dashboards.files import RUNBOOKS, boards, files, runbook_files
from observability.dashboards.model import PRICES, BadQueryError, Board, Panel, Query, Row, filled
from observability.dashboards.objectives import OBJECTIVES, recorded
from observability.dashboards.runbooks import missing
from observability.queries import check, series

ROOT = Path(__file__).parents[2]
FILES = files()
BOARDS = boards()
CLOUD = {board.name: json.loads(FILES[f"{board.name}.cloud-monitoring.json"]) for board in BOARDS}
GRAFANA = {board.name: json.loads(FILES[f"{board.name}.grafana.json"]) for board in BOARDS}
EVERY = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
# Absent until they first happen: a panel of theirs must say 0, not "no data".
RARE = {c.REQUEST_ERRORS_TOTAL.name}


def queries(value: Any) -> list[str]:
    """Every PromQL in a file of ours."""
    if isinstance(value, list):
        return [query for each in value for query in queries(each)]
    if not isinstance(value, dict):
        return []
    if value.get("type") == "textbox":
        return []
    own = [value[key] for key in ("prometheusQuery", "expr", "query") if isinstance(value.get(key), str)]
    promql = [query for query in own if "label_values(" not in query and query != "prometheus"]
    return promql + [query for each in value.values() for query in queries(each)]


WRITTEN = {
    name: queries(json.loads(content) if name.endswith("json") else YAML(typ="safe").load(content))
    for name, content in FILES.items()
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_metric_and_label_is_in_the_catalogue(name: str) -> None:
    for query in WRITTEN[name]:
        assert check(query, recorded()) == []
        assert series(query)
        assert "$selector" not in query
        assert "$window" not in query
    assert WRITTEN[name] or name == "objectives.cloud-monitoring.json"


@EVERY
def test_cloud_monitoring_knows_every_field(board: Board) -> None:
    parsed = ParseDict(CLOUD[board.name], Dashboard.pb(Dashboard()), ignore_unknown_fields=False)
    assert parsed.display_name == board.title
    rows = [row for row in board.rows if not all(panel.priced for panel in row.panels)]
    panels = [panel for panel in board.panels if not panel.priced]
    assert len(parsed.mosaic_layout.tiles) == len(panels) + len(rows) + 2 * board.logs


@EVERY
def test_every_panel_has_a_unit_a_title_of_its_own_and_the_same_queries_on_both_sides(board: Board) -> None:
    assert all(panel.unit for panel in board.panels)
    assert len({panel.title for panel in board.panels}) == len(board.panels)
    assert all(len(panel.queries) == 1 for panel in board.panels if panel.kind == "card")
    asked = [query for panel in board.panels for query in panel.queries]
    priced = [query for panel in board.panels for query in panel.queries if panel.priced]
    assert len(WRITTEN[f"{board.name}.cloud-monitoring.json"]) == len(asked) - len(priced)
    assert len(WRITTEN[f"{board.name}.grafana.json"]) == len(asked)
    units = [panel["fieldConfig"]["defaults"]["unit"] for panel in GRAFANA[board.name]["panels"] if "targets" in panel]
    assert len(units) == len(board.panels)
    assert len(board.panels) <= 30


@EVERY
def test_errors_that_never_happened_are_zero(board: Board) -> None:
    for panel in board.panels:
        for query in panel.queries:
            if RARE & series(filled(query.promql, "5m")):
                assert " or " in query.promql


@EVERY
def test_tiles_do_not_overlap_nor_leave_the_page(board: Board) -> None:
    cloud = [
        tuple(tile.get(key, 0) for key in ("xPos", "yPos", "width", "height"))
        for tile in CLOUD[board.name]["mosaicLayout"]["tiles"]
    ]
    for places, columns in (
        (cloud, 48),
        ([tuple(panel["gridPos"][key] for key in "xywh") for panel in GRAFANA[board.name]["panels"]], 24),
    ):
        assert all(x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= columns for x, y, w, h in places)
        for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(places, 2):
            assert ax + aw <= bx or bx + bw <= ax or ay + ah <= by or by + bh <= ay


def test_boards_have_names_of_their_own() -> None:
    assert len({board.name for board in BOARDS}) == len(BOARDS) == 8
    assert len({found["uid"] for found in GRAFANA.values()}) == len(BOARDS)


def test_alert_policies_and_objectives_are_known_to_the_published_protos() -> None:
    for policy in json.loads(FILES["alerts.cloud-monitoring.json"]):
        ParseDict(policy, AlertPolicy.pb(AlertPolicy()), ignore_unknown_fields=False)
    for objective in json.loads(FILES["objectives.cloud-monitoring.json"]):
        ParseDict(objective, ServiceLevelObjective.pb(ServiceLevelObjective()), ignore_unknown_fields=False)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)
def test_the_bound_of_an_objective_is_the_bound_of_a_bucket(objective: Any) -> None:
    assert (objective.bad is None) == (objective.below in objective.total.buckets)
    assert 0 < objective.budget < 1
    for burn in objective.burns:
        assert burn.factor * objective.budget < 1, "it could never fire"


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_up_to_date(name: str) -> None:
    assert (ROOT / "dashboards" / name).read_bytes() == FILES[name]


def test_dashboards_holds_nothing_else() -> None:
    assert {path.name for path in (ROOT / "dashboards").iterdir()} == FILES.keys()


def test_every_runbook_is_there_up_to_date_and_written() -> None:
    books = {
        path.name: path.read_text(encoding="utf-8")
        for path in (ROOT / RUNBOOKS).glob("*.md")
        if path.name != "README.md"
    }
    assert runbook_files(books) == books
    for name, text in books.items():
        assert missing(text) == [], f"{RUNBOOKS}/{name} has a section that says nothing"


def test_writing_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    (tmp_path / "dashboards").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "dashboards/gone.json").write_text("{}")
    main(tmp_path)
    book = tmp_path / RUNBOOKS / "down.md"
    assert missing(book.read_text()) == ["Meaning", "Diagnosis", "Remedy"]
    text = (
        book.read_text().replace("## Meaning\n\nTODO", "## Meaning\n\nIt is down.").replace("# PenstockDown", "# Old")
    )
    book.write_text(text)
    main(tmp_path)
    assert missing(book.read_text()) == ["Diagnosis", "Remedy"]
    assert "It is down." in book.read_text()
    assert "# PenstockDown" in book.read_text()
    assert {path.name for path in (tmp_path / "dashboards").iterdir()} == FILES.keys()


@pytest.mark.parametrize(
    "promql", ["sum(penstock_nothing{$selector})", "sum by (code) (rate(penstock_requests_total{$selector}[$window]))"]
)
def test_a_query_that_would_find_nothing_is_refused(promql: str) -> None:
    board = Board("b", "B", (Row("r", "", (Panel("p", (Query(promql),), "1"),)),))
    for render in (cloud_monitoring.dashboard, grafana.dashboard):
        with pytest.raises(BadQueryError, match=r"catalogue|label code"):
            render(board)


def test_filters_go_where_the_metric_has_the_label() -> None:
    promql = 'sum(rate(penstock_xds_pushes_total{$selector}[$window])) + sum(penstock_pool_endpoints{state="stale",$selector})'
    assert filled(promql, "1m", {"pool": 'pool="p"'}, "${cluster}") == (
        'sum(rate(penstock_xds_pushes_total{${cluster}}[1m])) + sum(penstock_pool_endpoints{state="stale",${cluster},pool="p"})'
    )
    assert filled("sum(penstock_pool_saturation{$selector})", "1m") == "sum(penstock_pool_saturation)"


def test_prices_are_asked_for_in_grafana_only_and_are_0_where_nobody_says_them() -> None:
    (board,) = (board for board in BOARDS if any(panel.priced for panel in board.panels))
    assert board.name == "cost-and-tokens"
    boxes = [each for each in GRAFANA[board.name]["templating"]["list"] if each["type"] == "textbox"]
    assert [each["name"] for each in boxes] == list(PRICES)
    assert all(f"${each['name']}" in FILES[f"{board.name}.grafana.json"].decode() for each in boxes)
    assert "_price" not in FILES[f"{board.name}.cloud-monitoring.json"].decode()
    assert "textbox" not in FILES["overview.grafana.json"].decode()
    promql = "sum(penstock_pool_saturation{$selector}) * ($cached_price - $input_price)"
    assert filled(promql, "5m", prices={"input_price": "2.5"}) == "sum(penstock_pool_saturation) * (0 - 2.5)"


def test_a_line_over_a_stack_is_not_stacked() -> None:
    """The mean would be added to the stages that it is the sum of."""
    (panel,) = (each for each in GRAFANA["model-and-pool"]["panels"] if each["title"] == "Stages of a request")
    (override,) = panel["fieldConfig"]["overrides"]
    assert override["matcher"]["options"] == panel["targets"][1]["refId"]
    assert {"id": "custom.stacking", "value": {"mode": "none"}} in override["properties"]
    (tile,) = (
        each["widget"]["xyChart"]
        for each in CLOUD["model-and-pool"]["mosaicLayout"]["tiles"]
        if each["widget"]["title"] == "Stages of a request"
    )
    assert [each["plotType"] for each in tile["dataSets"]] == ["STACKED_AREA", "LINE"]
