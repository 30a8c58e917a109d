"""PromQL held against the catalogue: whether a query names what exists, and can find anything.

For all that is generated (dashboards, alerts, SLOs, autoscaling manifests) and for whoever writes more. The labels of every
part of a query are worked out from its leaves up, as Prometheus does. Grammar: the package promql-parser.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import promql_parser as promql

from observability.catalogue import METRICS, Metric, series_names

Labels = frozenset[str]
# What the scraper adds to every series: Prometheus, and Google's managed collectors.
TARGET: Labels = frozenset({"job", "instance", "cluster", "namespace", "location", "project_id"})
_SERIES: Mapping[str, Metric] = MappingProxyType(
    {name: metric for metric in METRICS.values() for name in series_names(metric)}
)
_OTHERS: Mapping[str, Labels] = MappingProxyType({"up": frozenset()})
_NONE: Labels = frozenset()
# Outside of strings: the window of a chart, prices that its reader sets, and the filters that a dashboard fills in.
_TEMPLATE = re.compile(
    r'"(?:[^"\\]|\\.)*"|(?P<window>\[\$\{?\w+\}?\])|(?P<price>\$\w+_price\b)|(?P<filter>\$\{\w+\}\s*,?)'
)
_OF_COUNTERS = frozenset({"rate", "irate", "increase", "resets"})
_OF_GAUGES = frozenset({"delta", "deriv", "idelta", "predict_linear"})
_SETS = frozenset({"and", "or", "unless"})
_GOOGLE = re.compile(r"prometheus\.googleapis\.com[|/](?P<name>[\w:]+)[|/](?P<kind>\w+)")


def check(query: str, recorded: Mapping[str, Iterable[str]] = MappingProxyType({})) -> list[str]:
    """What is wrong with a query; nothing where it is right. Templates of Grafana and Cloud Monitoring may stand in it.

    `recorded`: series that are not ours but exist (recording rules, other exporters), with their labels.
    """
    known = {**_OTHERS, **{name: frozenset(labels) for name, labels in recorded.items()}}
    try:
        tree = promql.parse(_filled(query))
    except ValueError as error:
        return [f"{error}: {query}"]
    reader = _Reader(known)
    reader.labels(tree)
    return [f"{problem}: {query}" for problem in reader.problems]


def check_series(name: str, labels: Iterable[str] = ()) -> list[str]:
    """What is wrong with a metric that a manifest names without PromQL, e.g. `prometheus.googleapis.com|NAME|gauge` of an HPA."""
    kind = ""
    if found := _GOOGLE.fullmatch(name):
        name, kind = found["name"], found["kind"]
    # Cloud Monitoring has one distribution per histogram, by the name of its family.
    metric = METRICS.get(name) if kind == "histogram" else _SERIES.get(name)
    if metric is None:
        return [f"{name} is not in the catalogue"]
    problems = [f"{name} is a {metric.kind}, not a {kind}"] if kind not in ("", metric.kind) else []
    unknown = set(labels) - TARGET - set(metric.label_names)
    return problems + [f"{name} has no label {label}" for label in sorted(unknown)]


def series(query: str) -> Labels:
    """The names of the series that a query reads. ValueError where it is no PromQL."""
    return frozenset(_name(each) for each in _selectors(promql.parse(_filled(query))))


def _filled(query: str) -> str:
    """The query as Prometheus would get it: a window, prices, and no filters."""

    def fill(found: re.Match[str]) -> str:
        return "[5m]" if found["window"] else "1" if found["price"] else "" if found["filter"] else found[0]

    return _TEMPLATE.sub(fill, query)


def _name(selector: Any) -> str:
    if selector.name:
        return str(selector.name)
    return next((str(each.value) for each in selector.matchers.matchers if each.name == "__name__"), "")


def _selectors(tree: Any) -> Iterator[Any]:
    """The vector selectors below, in the order of the text."""
    match tree:
        case promql.VectorSelector():
            yield tree
        case promql.MatrixSelector():
            yield tree.vector_selector
        case promql.BinaryExpr():
            yield from _selectors(tree.lhs)
            yield from _selectors(tree.rhs)
        case promql.Call():
            for each in tree.args:
                yield from _selectors(each)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selectors(tree.expr)


class _Reader:
    """Works out labels, and notes what cannot be."""

    def __init__(self, others: Mapping[str, Labels]) -> None:
        self.problems: list[str] = []
        self._others = others

    def labels(self, tree: Any) -> Labels | None:
        """The labels of what the expression gives, without the target's; None for a number."""
        match tree:
            case promql.VectorSelector():
                return self._selector(tree)
            case promql.MatrixSelector():
                return self._selector(tree.vector_selector)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                return self.labels(tree.expr)
            case promql.AggregateExpr():
                return self._aggregate(tree)
            case promql.BinaryExpr():
                return self._binary(tree)
            case promql.Call():
                return self._call(tree)
        return None

    def _selector(self, selector: Any) -> Labels:
        name = _name(selector)
        metric = _SERIES.get(name)
        if metric is None:
            if name not in self._others:
                self.problems.append(f"{name or 'a selector without a name'} is not in the catalogue")
            return self._others.get(name, _NONE)
        found = frozenset(metric.label_names) | ({"le"} if name.endswith("_bucket") else set())
        for matcher in selector.matchers.matchers:
            if matcher.name not in found | TARGET | {"__name__"}:
                self.problems.append(f"{name} has no label {matcher.name}")
            else:
                self._values(name, metric, matcher)
        return found

    def _values(self, name: str, metric: Metric, matcher: Any) -> None:
        """A closed set of values is a part of the contract, as the bounds of the buckets are."""
        values: tuple[str, ...] = next((label.values for label in metric.labels if label.name == matcher.name), ())
        if matcher.name == "le":
            values = (*(repr(float(bound)) for bound in metric.buckets), "+Inf")
        exact = matcher.op in (promql.MatchOp.Equal, promql.MatchOp.NotEqual)  # they have no hash
        asked = [matcher.value] if exact else matcher.value.split("|") if re.fullmatch(r"[\w|]+", matcher.value) else []
        for value in asked if values else ():
            if value not in values and not value.startswith("$"):
                self.problems.append(f"{name}: {matcher.name} is never {value!r}, but one of {', '.join(values)}")

    def _aggregate(self, tree: Any) -> Labels:
        inner = self.labels(tree.expr) or _NONE
        modifier = tree.modifier
        if str(tree.op) in {"topk", "bottomk"}:
            return inner
        if modifier is None:
            return _NONE
        named = frozenset(modifier.labels)
        for missing in sorted(named - inner - TARGET):
            self.problems.append(f"{tree.op} names the label {missing}, which {tree.expr} does not have")
        return named if modifier.type == promql.AggModifierType.By else inner - named

    def _call(self, tree: Any) -> Labels | None:
        name = tree.func.name
        given = [self.labels(each) for each in tree.args]
        inner = next((each for each in given if each is not None), None)
        if name in _OF_COUNTERS | _OF_GAUGES:
            self._kind(name, tree)
        match name:
            case "histogram_quantile":
                if "le" not in (inner or _NONE) or not _aggregated(tree.args[1]):
                    self.problems.append("a percentile needs `sum by (le, ...)` inside")
                return (inner or _NONE) - {"le"}
            case "label_replace" | "label_join":
                return (inner or _NONE) | {tree.args[1].val}
            case "vector" | "absent" | "absent_over_time":
                return _NONE
            case "time" | "scalar" | "pi":
                return None
        return inner

    def _kind(self, function: str, tree: Any) -> None:
        counted = function in _OF_COUNTERS
        for selector in _selectors(tree):
            metric = _SERIES.get(_name(selector))
            if metric is not None and (metric.kind == "gauge") == counted:
                self.problems.append(
                    f"{function}() is for {'counters' if counted else 'gauges'}; {metric.name} is none"
                )

    def _binary(self, tree: Any) -> Labels | None:
        left, right = self.labels(tree.lhs), self.labels(tree.rhs)
        if left is None or right is None:
            return right if left is None else left
        matching = tree.modifier.matching if tree.modifier else None
        keep: Callable[[Labels], Labels] = lambda labels: labels - TARGET  # noqa: E731
        if matching is not None:
            named = frozenset(matching.labels)
            listed = matching.type == promql.LabelModifierType.Include
            keep = (lambda labels: labels & named) if listed else (lambda labels: labels - named - TARGET)
            missing = named - (left & right) if listed else named - left - right
            self.problems += [f"{each} is matched, but no label of both sides" for each in sorted(missing - TARGET)]
        if str(tree.op) not in _SETS and keep(left) != keep(right):
            sides = " and ".join(f"({', '.join(sorted(keep(side)))})" for side in (left, right))
            self.problems.append(f"`{tree.op}` finds no pairs: its sides have the labels {sides}")
        if matching is None or str(tree.op) in _SETS:
            return left
        many = str(tree.modifier.card).rpartition(".")[2]
        group = frozenset(tree.modifier.group_labels or ())
        return {"ManyToOne": left | group, "OneToMany": right | group}.get(many, keep(left))


def _aggregated(tree: Any) -> bool:
    match tree:
        case promql.AggregateExpr():
            return True
        case promql.ParenExpr():
            return _aggregated(tree.expr)
    return False
