"""One model of panels -> a Cloud Monitoring dashboard and the same for Grafana. `python -m observability.dashboards`.

Source: google.monitoring.dashboard.v1 (only fields that the published protos know), Grafana dashboard JSON. Queries are
PromQL on both sides. In them `$selector` stands for the filters of the dashboard that fit the metric, `$window` for the
step of the chart. A query that names what the catalogue does not have is refused here, not found empty by an operator.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import orjson

from observability import catalogue as c
from observability.catalogue import METRICS, Metric, series_names

Unit = Literal["s", "By", "1", "10^2.%", "1/s", "{token}/s", "{token}"]
_SERIES = {name: metric for metric in METRICS.values() for name in series_names(metric)}
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|\$\w+|\$\{\w+\}|[A-Za-z_:][\w:]*|\d[\w.]*|=~|!~|!=|==|>=|<=|\S')
_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "bool", "offset"})


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` may name labels as `{{label}}`."""

    promql: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    value: float
    label: str
    below: bool = False  # it is bad to be below


@dataclass(frozen=True, slots=True)
class Panel:
    """A scorecard has one query. Widths are in 48ths of the dashboard, heights in its rows."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit
    thresholds: tuple[Threshold, ...] = ()
    scorecard: bool = False
    log_scale: bool = False
    stacked: bool = False
    width: int = 16
    height: int = 12


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    subtitle: str
    panels: tuple[Panel, ...]


def _names(by: str) -> str:
    return "".join(f"{{{{{name.strip()}}}}} " for name in by.split(",") if name)


def _rate(metric: Metric, by: str = "", where: str = "") -> str:
    """Sum of the rates. Errors are absent until the first: 0 is then the truth, and "no data" would look like an outage."""
    selector = f"{where},$selector" if where else "$selector"
    rate = f"sum{f' by ({by})' if by else ' '}(rate({metric.name}{{{selector}}}[$window]))"
    return f"({rate} or {'on() ' if by else ''}vector(0))"


def _quantile(quantile: float, metric: Metric, by: str = "", where: str = "") -> Query:
    selector = f"{where},$selector" if where else "$selector"
    grouped = f"le,{by}" if by else "le"
    rate = f"sum by ({grouped}) (rate({metric.name}_bucket{{{selector}}}[$window]))"
    return Query(f"histogram_quantile({quantile}, {rate})", f"{_names(by)}p{quantile * 100:g}")


def _quantiles(metric: Metric, where: str = "") -> tuple[Query, ...]:
    return tuple(_quantile(quantile, metric, where=where) for quantile in (0.5, 0.95, 0.99))


def _max(metric: Metric, by: str) -> Query:
    return Query(f"max by ({by}) ({metric.name}{{$selector}})", _names(by).strip())


def _rates(metric: Metric, by: str, where: str = "") -> tuple[Query, ...]:
    return (Query(_rate(metric, by, where), _names(by).strip()),)


def _share(part: str, whole: str) -> str:
    return f"{part} / clamp_min({whole}, 1e-9)"


_SERVER = 'class="server"'
_STREAMS, _GOOD = 'streaming="true"', 'outcome="ok"'
_SLO_TTFT, _SLO_TPOT = Threshold(2.0, "objective 2 s"), Threshold(0.1, "objective 100 ms")
_FULL = Threshold(1.0, "set point")
_SERVER_ERRORS = _share(_rate(c.REQUEST_ERRORS_TOTAL, where=_SERVER), _rate(c.REQUESTS_TOTAL))
_CACHED = _share(_rate(c.TOKENS_TOTAL, where='type="cached_input"'), _rate(c.TOKENS_TOTAL, where='type="input"'))


def _card(title: str, query: Query, unit: Unit, *thresholds: Threshold) -> Panel:
    return Panel(title, (query,), unit, thresholds, scorecard=True, width=8, height=8)


def overview() -> tuple[Row, ...]:
    """One screen for whoever is on call: rate, errors, latency, saturation, then the causes."""
    availability = Query(f"1 - {_SERVER_ERRORS}", "availability")
    ttft, tpot = c.TIME_TO_FIRST_TOKEN_SECONDS, c.TIME_PER_OUTPUT_TOKEN_SECONDS
    duration = c.REQUEST_DURATION_SECONDS
    return (
        Row(
            "Now",
            "Is it well?",
            (
                _card("Availability", availability, "10^2.%", Threshold(0.999, "objective", below=True)),
                _card("TTFT p95 (streams)", _quantile(0.95, ttft, where=_STREAMS), "s", _SLO_TTFT),
                _card("TPOT p95", _quantile(0.95, tpot), "s", _SLO_TPOT),
                _card(
                    "Saturation of the fullest pool", Query(f"max({c.POOL_SATURATION.name}{{$selector}})"), "1", _FULL
                ),
                _card("Requests per second", Query(_rate(c.REQUESTS_TOTAL)), "1/s"),
                _card("Requests in flight", Query(f"sum({c.REQUESTS_INFLIGHT.name}{{$selector}})"), "1"),
            ),
        ),
        Row(
            "Traffic",
            "How much, for whom?",
            (
                Panel("Requests by model", _rates(c.REQUESTS_TOTAL, "model_name"), "1/s", stacked=True),
                Panel("Requests by pool", _rates(c.REQUESTS_TOTAL, "pool"), "1/s", stacked=True),
                Panel("Requests by priority", _rates(c.REQUESTS_TOTAL, "priority"), "1/s", stacked=True),
            ),
        ),
        Row(
            "Latency",
            "Requests that ended well; objectives as lines",
            (
                Panel("Time to first token, streams", _quantiles(ttft, _STREAMS), "s", (_SLO_TTFT,), log_scale=True),
                Panel("Time per output token", _quantiles(tpot), "s", (_SLO_TPOT,), log_scale=True),
                Panel("Request duration", _quantiles(duration, _GOOD), "s", log_scale=True),
                Panel("TTFT p95 by model", (_quantile(0.95, ttft, "model_name", _STREAMS),), "s", (_SLO_TTFT,)),
                Panel("TTFT p95 by priority", (_quantile(0.95, ttft, "priority", _STREAMS),), "s", (_SLO_TTFT,)),
                Panel("Picking an endpoint", _quantiles(c.SCHEDULE_DURATION_SECONDS), "s", log_scale=True),
            ),
        ),
        Row(
            "Errors",
            "Whose, and why?",
            (
                Panel("Errors by reason", _rates(c.REQUEST_ERRORS_TOTAL, "class,reason"), "1/s", stacked=True),
                Panel("Server errors of all requests", (Query(_SERVER_ERRORS, "ratio"),), "10^2.%"),
                Panel("Streams ended early", _rates(c.STREAM_ABORTS_TOTAL, "by"), "1/s", stacked=True),
            ),
        ),
        Row(
            "Saturation",
            "What fills up?",
            (
                Panel("Pool saturation", (_max(c.POOL_SATURATION, "pool"),), "1", (_FULL,), width=12),
                Panel("Waiting in servers", (_max(c.POOL_QUEUE_DEPTH, "pool"),), "1", width=12),
                Panel("KV cache in use", (_max(c.POOL_KV_CACHE_UTILIZATION, "pool"),), "10^2.%", width=12),
                Panel("Endpoints", (_max(c.POOL_ENDPOINTS, "pool,state"),), "1", width=12),
            ),
        ),
        Row(
            "Tokens and prefix cache",
            "What is computed, and what is not computed again?",
            (
                Panel("Tokens", _rates(c.TOKENS_TOTAL, "type"), "{token}/s", width=12),
                Panel("Input tokens from the cache", (Query(_CACHED, "share"),), "10^2.%", width=12),
                Panel("Prefix match, predicted", _quantiles(c.PREFIX_MATCH_RATIO), "10^2.%", width=12),
                Panel(
                    "Error of the prediction, p95",
                    (_quantile(0.95, c.PREFIX_PREDICTION_ERROR_TOKENS, "direction"),),
                    "{token}",
                    width=12,
                ),
            ),
        ),
        Row(
            "Envoy fleet",
            "Does every Envoy have what was configured?",
            (
                Panel(
                    "Envoys connected",
                    (Query(f"sum({c.XDS_CONNECTED_CLIENTS.name}{{$selector}})", "Envoys"),),
                    "1",
                    width=12,
                ),
                Panel("Pushes", _rates(c.XDS_PUSHES_TOTAL, "type_url"), "1/s", width=12),
                Panel("Rejected by Envoy", _rates(c.XDS_NACKS_TOTAL, "type_url"), "1/s", width=12),
                Panel("Event loop lag", _quantiles(c.LOOP_LAG_SECONDS), "s", log_scale=True, width=12),
            ),
        ),
    )


def references(promql: str) -> Iterator[tuple[str, frozenset[str]]]:
    """(series name, labels that the query asks of it) of each selector: matchers, and groupings around it.

    Groupings stand before their argument, `sum by (x) (...)`. `on()` and its kin bind both sides: not followed here.
    """
    tokens = _TOKEN.findall(promql)
    groups: list[frozenset[str]] = []  # of each open parenthesis
    pending: frozenset[str] = frozenset()  # a grouping whose argument comes next
    at = 0
    while at < len(tokens):
        word, after = tokens[at], tokens[at + 1 : at + 2]
        at += 1
        if word in _LISTS:
            end = tokens.index(")", at)
            if word in {"by", "without"}:
                if tokens[end + 1 : end + 2] != ["("]:
                    raise ValueError(f"{word} (...) must come before what it groups: {promql}")
                pending = frozenset(tokens[at + 1 : end]) - {","}
            at = end + 1
        elif word == "(":
            groups.append(pending)
            pending = frozenset()
        elif word == ")":
            groups.pop()
        elif re.match(r"[A-Za-z_:]", word) and word not in _WORDS and after != ["("] and after[:1] != ["by"]:
            inside = tokens[at : tokens.index("}", at)] if after == ["{"] else []
            at += len(inside)
            matched = {name for name, sign in pairwise(inside) if sign in {"=", "!=", "=~", "!~"}}
            yield word, frozenset().union(matched, *groups)


def check(promql: str) -> None:
    """ValueError where the query asks for a metric or a label that the catalogue does not have."""
    for name, labels in references(promql):
        if name not in _SERIES:
            raise ValueError(f"{name} is not in the catalogue: {promql}")
        known = {*_SERIES[name].label_names, *(["le"] if name.endswith("_bucket") else [])}
        if not labels <= known:
            raise ValueError(f"{name} has no label {sorted(labels - known)}: {promql}")


def _fill(promql: str, window: str, filters: dict[str, str], always: str = "") -> str:
    """The query for one side: `filters` by label, applied where the metric has it; `always` fits every metric."""
    check(promql)

    def fit(found: re.Match[str]) -> str:
        names = _SERIES[found["name"]].label_names
        chosen = [always, *(matcher for label, matcher in filters.items() if label in names)]
        before = found["before"]
        return f"{found['name']}{{{','.join(part for part in (before.rstrip(','), *chosen) if part)}}}"

    return re.sub(r"(?P<name>[\w:]+)\{(?P<before>[^{}]*)\$selector\}", fit, promql).replace("$window", window)


def _placed(rows: tuple[Row, ...], header: int) -> Iterator[tuple[Row | Panel, tuple[int, int, int, int]]]:
    """Each row's header, then its panels from left to right; (x, y, width, height) in 48 columns."""
    y = 0
    for row in rows:
        yield row, (0, y, 48, header)
        x, y, below = 0, y + header, 0
        for panel in row.panels:
            if x + panel.width > 48:
                x, y = 0, below
            yield panel, (x, y, panel.width, panel.height)
            x, below = x + panel.width, max(below, y + panel.height)
        y = below


def cloud_monitoring(rows: tuple[Row, ...], name: str) -> dict[str, Any]:
    """google.monitoring.dashboard.v1.Dashboard as JSON."""
    tiles = []
    for item, place in _placed(rows, header=4):
        if isinstance(item, Row):
            widget: dict[str, Any] = {"sectionHeader": {"subtitle": item.subtitle, "dividerBelow": True}}
        else:
            widget = {"scorecard": _scorecard(item)} if item.scorecard else {"xyChart": _chart(item)}
        tiles.append(_tile(place, {"title": item.title, **widget}))
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
    layout = {"columns": 48, "tiles": tiles}
    return {"displayName": name, "labels": {"penstock": ""}, "dashboardFilters": filters, "mosaicLayout": layout}


def _tile(place: tuple[int, int, int, int], widget: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(("xPos", "yPos", "width", "height"), place, strict=True)), "widget": widget}


def _series_query(query: Query, unit: Unit) -> dict[str, Any]:
    filters = {"pool": "${pool}", "model_name": "${model}"}
    promql = _fill(query.promql, "${__interval}", filters, "${cluster},${namespace}")
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
            "plotType": "STACKED_AREA" if panel.stacked else "LINE",
            "legendTemplate": re.sub(r"\{\{(\w+)\}\}", r"${metric.labels.\1}", query.legend),
            "targetAxis": "Y1",
        }
        for query in panel.queries
    ]
    lines = [{"value": found.value, "label": found.label, "targetAxis": "Y1"} for found in panel.thresholds]
    axis = {"scale": "LOG10" if panel.log_scale else "LINEAR"}
    return {"dataSets": sets, "thresholds": lines, "yAxis": axis, "chartOptions": {"mode": "COLOR"}}


_GRAFANA_UNITS = {"s": "s", "By": "bytes", "10^2.%": "percentunit", "1/s": "ops"}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def grafana(rows: tuple[Row, ...], name: str) -> dict[str, Any]:
    """Grafana dashboard JSON; data source, pool and model are variables."""
    panels: list[dict[str, Any]] = []
    for number, (item, (x, y, width, height)) in enumerate(_placed(rows, header=2), 1):
        grid = {"x": x // 2, "y": y // 2, "w": width // 2, "h": height // 2}
        kind = "row" if isinstance(item, Row) else "stat" if item.scorecard else "timeseries"
        more = {"collapsed": False, "panels": []} if isinstance(item, Row) else _grafana_panel(item)
        panels.append({"id": number, "type": kind, "title": item.title, "gridPos": grid, **more})
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
    choose = {"type": "query", "datasource": _SOURCE, "multi": True, "includeAll": True, "allValue": ".*", "refresh": 2}
    variables = [
        {"name": name, "query": f"label_values({c.REQUESTS_TOTAL.name}, {label})", **choose}
        for name, label in (("pool", "pool"), ("model", "model_name"))
    ]
    window = {"from": "now-1h", "to": "now"}
    templating = {"list": [source, *variables]}
    shared = {"schemaVersion": 39, "editable": True, "time": window, "refresh": "30s", "tags": ["penstock"]}
    return {"uid": "penstock-overview", "title": name, **shared, "templating": templating, "panels": panels}


def _grafana_panel(panel: Panel) -> dict[str, Any]:
    filters = {"pool": 'pool=~"$pool"', "model_name": 'model_name=~"$model"'}
    targets = [
        {"refId": ref, "expr": _fill(query.promql, "$__rate_interval", filters), "legendFormat": query.legend}
        for ref, query in zip("ABCDEF", panel.queries, strict=False)
    ]
    good, bad = ("red", "green") if any(found.below for found in panel.thresholds) else ("green", "red")
    steps = [{"color": good, "value": None}, *({"color": bad, "value": found.value} for found in panel.thresholds)]
    defaults: dict[str, Any] = {"unit": _GRAFANA_UNITS.get(panel.unit, "short"), "thresholds": {"mode": "absolute"}}
    defaults["thresholds"]["steps"] = steps
    if not panel.scorecard:
        scale = {"type": "log", "log": 10} if panel.log_scale else {"type": "linear"}
        style = {"mode": "line" if panel.thresholds else "off"}
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults["custom"] = {"scaleDistribution": scale, "thresholdsStyle": style, "stacking": stacking}
    return {"datasource": _SOURCE, "targets": targets, "fieldConfig": {"defaults": defaults, "overrides": []}}


def files() -> dict[str, bytes]:
    """What dashboards/ holds, by file name."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    name, rows = "Penstock overview", overview()
    return {
        "overview.cloud-monitoring.json": orjson.dumps(cloud_monitoring(rows, name), option=option),
        "overview.grafana.json": orjson.dumps(grafana(rows, name), option=option),
    }


if __name__ == "__main__":
    for file_name, content in files().items():
        Path(*(sys.argv[1:] or ["dashboards"]), file_name).write_bytes(content)
