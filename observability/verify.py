"""Runs the query of every panel and of every alert, and names what finds nothing: the rot that no test at home can see.

It takes a function that asks, such as `asking.Prometheus.values`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from observability import catalogue as c
from observability.asking import QueryError
from observability.dashboards.alerts import Alert
from observability.dashboards.model import Board, Panel, filled
from observability.dashboards.traffic import CACHED, WAITED
from observability.queries import series

Ask = Callable[[str], Sequence[float]]  # PromQL -> the values of its result; raises QueryError
# Why an alert's metric may be absent from a gateway that is well.
_ABSENT: Mapping[str, str] = MappingProxyType(
    {
        c.REQUEST_ERRORS_TOTAL.name: "until the first error",
        c.OBJECTS_INVALID.name: "while no object has a mistake",
        c.LEADER.name: "outside a cluster",
        c.PREFIX_TRUST_RATIO.name: "where no server sends KV events",
        c.EXPORT_ERRORS_TOTAL.name: "where no door is open",
        c.AUTOSCALE_SERVED_TOTAL.name: "until an autoscaler has asked",
        c.LOG_RECORDS_DROPPED_TOTAL.name: "where there is no request log",
        **dict.fromkeys(c.series_names(c.GATEWAY_QUEUE_DURATION_SECONDS), WAITED),
        **dict.fromkeys(c.series_names(c.PREFIX_PREDICTION_ERROR_TOKENS), CACHED),
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """`allowed` says why it may be so in a gateway that is well; "" where it may not."""

    where: str  # e.g. "overview / TPOT p95"
    problem: str
    query: str
    allowed: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}{f' ({self.allowed})' if self.allowed else ''}: {self.query}"


def verify(ask: Ask, boards: Iterable[Board], alerts: Iterable[Alert], window: str = "5m") -> Iterator[Finding]:
    """In the order of the boards; `window` is the step of a chart. NaN is what a percentile of nothing is: no data, too."""
    for board in boards:
        for panel in board.panels:
            yield from _panel(ask, f"{board.name} / {panel.title}", panel, window)
    for alert in alerts:
        yield from _alert(ask, alert)


def _panel(ask: Ask, where: str, panel: Panel, window: str) -> Iterator[Finding]:
    for query in panel.queries:
        promql = filled(query.promql, window)
        try:
            values = ask(promql)
        except QueryError as error:
            yield Finding(where, str(error), promql)
        else:
            if all(math.isnan(value) for value in values):
                yield Finding(where, "no data", promql, panel.empty)


def _alert(ask: Ask, alert: Alert) -> Iterator[Finding]:
    """An alert that is silent finds nothing, too: but what it looks at must be there."""
    promql = alert.query(recorded=False)
    try:
        ask(promql)
        for name in sorted(series(promql)):
            if not ask(f"count({name})"):
                yield Finding(alert.name, f"there is no {name}", promql, _ABSENT.get(name, ""))
    except QueryError as error:
        yield Finding(alert.name, str(error), promql)
