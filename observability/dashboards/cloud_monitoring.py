"""Boards, alerts and objectives for Cloud Monitoring. Source: google.monitoring.dashboard.v1 and google.monitoring.v3, and of them
only the fields that the published protos know.
"""

import re
from dataclasses import replace
from typing import Any

from observability.dashboards.alerts import Alert
from observability.dashboards.model import Board, Panel, Query, Row, Unit, filled, placed
from observability.dashboards.objectives import PERIOD, Objective

_DAY = 86_400  # seconds
_DOMAIN = "prometheus.googleapis.com"


def dashboard(board: Board) -> dict[str, Any]:
    """google.monitoring.dashboard.v1.Dashboard as JSON. The label names the board: `penstock dashboards` finds it by that.

    Without what needs prices: its variables are labels, and cannot be numbers.
    """
    tiles = []
    unpriced = (replace(row, panels=tuple(each for each in row.panels if not each.priced)) for row in board.rows)
    for item, place in placed(tuple(row for row in unpriced if row.panels), header=4):
        if isinstance(item, Row):
            widget: dict[str, Any] = {"sectionHeader": {"subtitle": item.subtitle, "dividerBelow": True}}
        else:
            widget = {"scorecard": _scorecard(item)} if item.kind == "card" else {"xyChart": _chart(item)}
        tiles.append(_tile(place, {"title": item.title, **widget}))
    if board.logs:
        bottom = max(tile["yPos"] + tile["height"] for tile in tiles)
        logs = {"filter": 'resource.type="k8s_container" AND jsonPayload."error.type":*'}
        incidents = {"monitoredResources": [{"type": "prometheus_target"}]}
        tiles.append(_tile((0, bottom, 32, 16), {"title": "Requests that failed", "logsPanel": logs}))
        tiles.append(_tile((32, bottom, 16, 16), {"title": "Open incidents", "incidentList": incidents}))
    resource = [("cluster", "cluster"), ("namespace", "namespace")]
    metric = [("pool", "pool"), ("model_name", "model")]
    filters = [
        {"filterType": kind, "labelKey": key, "templateVariable": variable}
        for kind, keys in (("RESOURCE_LABEL", resource), ("METRIC_LABEL", metric))
        for key, variable in keys
    ]
    return {
        "displayName": board.title,
        "labels": {"penstock": "", f"penstock-{board.name}": ""},
        "dashboardFilters": filters,
        "mosaicLayout": {"columns": 48, "tiles": tiles},
    }


def _tile(place: tuple[int, int, int, int], widget: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(("xPos", "yPos", "width", "height"), place, strict=True)), "widget": widget}


def _series_query(query: Query, unit: Unit) -> dict[str, Any]:
    filters = {"pool": "${pool}", "model_name": "${model}"}
    promql = filled(query.promql, "${__interval}", filters, "${cluster},${namespace}")
    return {"prometheusQuery": promql, "unitOverride": unit}


def _scorecard(panel: Panel) -> dict[str, Any]:
    thresholds = [
        {"value": found.value, "color": "RED", "direction": "BELOW" if found.below else "ABOVE", "label": found.label}
        for found in panel.thresholds
    ]
    query = _series_query(panel.queries[0], panel.unit)
    return {"timeSeriesQuery": query, "thresholds": thresholds, "sparkChartView": {"sparkChartType": "SPARK_LINE"}}


def _chart(panel: Panel) -> dict[str, Any]:
    sets = [
        {
            "timeSeriesQuery": _series_query(query, panel.unit),
            "plotType": "STACKED_AREA" if panel.kind == "stacked" and not query.over else "LINE",
            "legendTemplate": re.sub(r"\{\{(\w+)\}\}", r"${metric.labels.\1}", query.legend),
            "targetAxis": "Y1",
        }
        for query in panel.queries
    ]
    lines = [{"value": found.value, "label": found.label, "targetAxis": "Y1"} for found in panel.thresholds]
    axis = {"scale": "LOG10" if panel.log_scale else "LINEAR"}
    return {"dataSets": sets, "thresholds": lines, "yAxis": axis, "chartOptions": {"mode": "COLOR"}}


def policy(alert: Alert, runbook: str) -> dict[str, Any]:
    """google.monitoring.v3.AlertPolicy as JSON, without recording rules: a project need not evaluate any."""
    condition = {
        "query": alert.query(recorded=False),
        "duration": f"{seconds(alert.wait)}s",
        "evaluationInterval": "60s",
        "ruleGroup": "penstock",
        "alertRule": alert.name,
        "labels": {"severity": alert.severity},
        "disableMetricValidation": True,  # errors are absent until the first
    }
    return {
        "displayName": f"Penstock: {alert.summary}",
        "userLabels": {"penstock": alert.name.lower()},
        "combiner": "OR",
        "severity": "CRITICAL" if alert.severity == "page" else "WARNING",
        "conditions": [{"displayName": alert.name, "conditionPrometheusQueryLanguage": condition}],
        "alertStrategy": {"autoClose": "1800s"},
        "documentation": {"content": f"{alert.summary}. What to do: {runbook}", "mimeType": "text/markdown"},
    }


def service() -> dict[str, Any]:
    """google.monitoring.v3.Service as JSON: what the objectives are of. The label also names it."""
    return {"displayName": "Penstock", "custom": {}, "userLabels": {"penstock": "penstock"}}


def objective(found: Objective) -> dict[str, Any]:
    """google.monitoring.v3.ServiceLevelObjective as JSON, over all pools."""
    chosen = f'resource.type="{_DOMAIN.split(".", maxsplit=1)[0]}_target"'
    total = _filter(found.total.name, found.total.kind, found.where)
    if found.bad is None:
        indicator: dict[str, Any] = {
            "distributionCut": {"distributionFilter": f"{total} {chosen}", "range": {"max": found.below}}
        }
    else:
        bad = _filter(found.bad.name, found.bad.kind, found.bad_where)
        indicator = {
            "goodTotalRatio": {
                "badServiceFilter": f"{bad} {chosen}",
                "totalServiceFilter": f"{total} {chosen}",
            }
        }
    return {
        "displayName": f"{found.title}, {found.goal * 100:g} %",
        "goal": found.goal,
        "rollingPeriod": f"{seconds(PERIOD)}s",
        "serviceLevelIndicator": {"requestBased": indicator},
        "userLabels": {"penstock": found.name},
    }


def _filter(name: str, kind: str, where: str) -> str:
    labels = [f"metric.labels.{each}" for each in where.split(",") if each]
    return " ".join([f'metric.type="{_DOMAIN}/{name}/{kind}"', *labels])


def seconds(duration: str) -> int:
    """`5m` -> 300."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": _DAY}[duration[-1]]
