"""Panels, rows and boards as values, and where they lie. In queries, `$selector` stands for the filters of the board that fit the
metric, `$window` for the step of the chart, `$input_price` and so on for the prices that the reader sets.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from observability.catalogue import METRICS, series_names
from observability.queries import check

Unit = Literal[
    "s", "By", "1", "10^2.%", "1/s", "{token}/s", "{token}", "{money}"
]  # UCUM, as Cloud Monitoring writes them
Kind = Literal["chart", "stacked", "card"]
COLUMNS = 48
# What a million tokens cost, in whatever currency; nobody knows that here. Variable -> whose price.
PRICES = MappingProxyType({"input_price": "input", "cached_price": "cached input", "output_price": "output"})
_LABELS = {name: metric.label_names for metric in METRICS.values() for name in series_names(metric)}
_SELECTOR = re.compile(r"(?P<name>[\w:]+)\{(?P<before>[^{}]*)\$selector\}")

_EMPTY = re.compile(r"(?<=\w)\{\}")


class BadQueryError(Exception):
    """Our mistake: a query that the catalogue does not bear out."""


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` may name labels as `{{label}}`. `over` a stack it is a line that is not stacked."""

    promql: str
    legend: str = ""
    over: bool = False


@dataclass(frozen=True, slots=True)
class Threshold:
    value: float
    label: str
    below: bool = False  # it is bad to be below


@dataclass(frozen=True, slots=True)
class Panel:
    """A card has one query. Widths are in 48ths of the board, heights in its rows."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit
    thresholds: tuple[Threshold, ...] = ()
    kind: Kind = "chart"
    log_scale: bool = False
    empty: str = ""  # why it may have no data in a gateway that is well: `penstock verify` lets it pass
    width: int = 16
    height: int = 12

    @property
    def priced(self) -> bool:
        """It needs prices: only where a reader can set them."""
        return any(f"${name}" in query.promql for query in self.queries for name in PRICES)


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    subtitle: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """`logs`: with the requests that failed, where there is a log, and the open incidents."""

    name: str  # of its files
    title: str
    rows: tuple[Row, ...]
    logs: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def filled(
    promql: str,
    window: str,
    filters: Mapping[str, str] = {},
    always: str = "",
    recorded: Mapping[str, tuple[str, ...]] = {},
    prices: Mapping[str, str] = {},
) -> str:
    """The query for one side: `filters` by label, applied where the metric has it; `always` fits every metric.

    `prices`: by their variables; those not given are 0.
    """

    def fit(found: re.Match[str]) -> str:
        names = _LABELS.get(found["name"], recorded.get(found["name"], ()))
        chosen = [always, *(matcher for label, matcher in filters.items() if label in names)]
        inside = ",".join(part for part in (found["before"].rstrip(","), *chosen) if part)
        return f"{found['name']}{{{inside}}}" if inside else found["name"]

    query = _EMPTY.sub("", _SELECTOR.sub(fit, promql).replace("$window", window))
    for name in PRICES:
        query = query.replace(f"${name}", prices.get(name, "0"))
    if problems := check(query, recorded):
        raise BadQueryError("\n".join(problems))
    return query


def placed(rows: tuple[Row, ...], header: int) -> Iterator[tuple[Row | Panel, tuple[int, int, int, int]]]:
    """Each row's header, then its panels from left to right; (x, y, width, height) in 48 columns."""
    y = 0
    for row in rows:
        yield row, (0, y, COLUMNS, header)
        x, y, below = 0, y + header, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, below
            yield panel, (x, y, panel.width, panel.height)
            x, below = x + panel.width, max(below, y + panel.height)
        y = below
