"""Verify: empty panels, failing queries and alerts that could never fire are named."""

import math
from dataclasses import replace

from observability.asking import QueryError
from observability.dashboards.alerts import Alert, alerts
from observability.dashboards.files import boards
from observability.dashboards.model import Board, Panel, Query, Row
from observability.verify import verify

FULL = Panel("Full", (Query("sum(penstock_requests_inflight{$selector})"),), "1")
GONE = Panel("Gone", (Query("sum(rate(penstock_requests_total{$selector}[$window]))"),), "1/s")
BROKEN = Panel("Broken", (Query("max(penstock_pool_saturation{$selector})"),), "1")
BOARD = Board("b", "B", (Row("r", "", (FULL, GONE, replace(GONE, title="Rare", empty="at night"), BROKEN)),))
ALERT = Alert("A", "is loud", "sum(penstock_objects_invalid) > penstock_xds_connected_clients", "5m")


def ask(promql: str) -> list[float]:
    if "pool_saturation" in promql:
        raise QueryError("422 too much")
    if "requests_total" in promql:
        return [math.nan] if "rate" in promql else []
    return [] if "objects_invalid" in promql or "xds" in promql else [1.0]


def test_what_is_empty_is_named_and_what_may_be_is_excused() -> None:
    found = list(verify(ask, [BOARD], [], "2m"))
    assert [(each.where, each.problem, each.allowed) for each in found] == [
        ("b / Gone", "no data", ""),
        ("b / Rare", "no data", "at night"),
        ("b / Broken", "422 too much", ""),
    ]
    assert str(found[1]) == "b / Rare: no data (at night): sum(rate(penstock_requests_total[2m]))"


def test_an_alert_that_could_never_fire_is_named() -> None:
    alert = replace(ALERT, promql="sum(penstock_objects_invalid) > sum(penstock_xds_connected_clients)")
    found = {each.problem: each.allowed for each in verify(ask, [], [alert])}
    assert found == {
        "there is no penstock_objects_invalid": "while no object has a mistake",
        "there is no penstock_xds_connected_clients": "",
    }


def test_every_panel_and_alert_is_asked_for() -> None:
    asked: list[str] = []

    def note(promql: str) -> list[float]:
        asked.append(promql)
        return []

    found = list(verify(note, boards(), alerts()))
    panels = [panel for board in boards() for panel in board.panels]
    assert {each.where for each in found} >= {
        f"{board.name} / {panel.title}" for board in boards() for panel in board.panels
    }
    assert len(asked) >= len(panels) + len(alerts())
