"""Boards for Grafana: dashboard JSON of schema 39. Data source, pool, model and prices are variables."""

from typing import Any

from observability import catalogue as c
from observability.dashboards.model import PRICES, Board, Panel, Row, filled, placed

_UNITS = {"s": "s", "By": "bytes", "10^2.%": "percentunit", "1/s": "reqps"}  # the others are "short"
_ASKED = {name: f"${name}" for name in PRICES}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OVER = [{"id": "custom.stacking", "value": {"mode": "none"}}, {"id": "custom.fillOpacity", "value": 0}]
_FILTERS = {"pool": 'pool=~"$pool"', "model_name": 'model_name=~"$model"'}


def dashboard(board: Board) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    for number, (item, (x, y, width, height)) in enumerate(placed(board.rows, header=2), 1):
        grid = {"x": x // 2, "y": y // 2, "w": width // 2, "h": height // 2}
        kind = "row" if isinstance(item, Row) else "stat" if item.kind == "card" else "timeseries"
        more = {"collapsed": False, "panels": []} if isinstance(item, Row) else _panel(item)
        panels.append({"id": number, "type": kind, "title": item.title, "gridPos": grid, **more})
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    choose = {"type": "query", "datasource": _SOURCE, "multi": True, "includeAll": True, "allValue": ".*", "refresh": 2}
    variables = [
        {"name": name, "query": f"label_values({c.REQUESTS_TOTAL.name}, {label})", **choose}
        for name, label in (("pool", "pool"), ("model", "model_name"))
    ]
    if any(panel.priced for panel in board.panels):
        variables += [_price(name, whose) for name, whose in PRICES.items()]
    return {
        "uid": f"penstock-{board.name}",
        "title": board.title,
        "schemaVersion": 39,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "tags": ["penstock"],
        "links": [{"type": "dashboards", "title": "Penstock", "tags": ["penstock"], "asDropdown": True}],
        "templating": {"list": [source, *variables]},
        "panels": panels,
    }


def _price(name: str, whose: str) -> dict[str, Any]:
    none = {"text": "0", "value": "0"}
    return {
        "name": name,
        "type": "textbox",
        "label": f"Price of a million {whose} tokens",
        "query": "0",
        "current": none,
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": ref,
            "expr": filled(query.promql, "$__rate_interval", _FILTERS, prices=_ASKED),
            "legendFormat": query.legend,
        }
        for ref, query in zip("ABCDEFGH", panel.queries, strict=False)
    ]
    good, bad = ("red", "green") if any(found.below for found in panel.thresholds) else ("green", "red")
    steps = [{"color": good, "value": None}, *({"color": bad, "value": found.value} for found in panel.thresholds)]
    thresholds = {"mode": "absolute", "steps": steps}
    defaults: dict[str, Any] = {"unit": _UNITS.get(panel.unit, "short"), "thresholds": thresholds}
    if panel.kind != "card":
        defaults["custom"] = {
            "scaleDistribution": {"type": "log", "log": 10} if panel.log_scale else {"type": "linear"},
            "thresholdsStyle": {"mode": "line" if panel.thresholds else "off"},
            "stacking": {"mode": "normal" if panel.kind == "stacked" else "none", "group": "A"},
            "fillOpacity": 25 if panel.kind == "stacked" else 0,
        }
    over = [target["refId"] for target, query in zip(targets, panel.queries, strict=True) if query.over]
    overrides = [{"matcher": {"id": "byFrameRefID", "options": ref}, "properties": _OVER} for ref in over]
    return {"datasource": _SOURCE, "targets": targets, "fieldConfig": {"defaults": defaults, "overrides": overrides}}
