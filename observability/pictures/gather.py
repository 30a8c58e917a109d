"""Asks for what every panel shows along a span of time."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from observability.asking import QueryError
from observability.dashboards.model import Board, Panel, filled
from observability.pictures.data import Picture, Series, Span, picture

Along = Callable[[str, Span], Sequence[Series]]  # PromQL -> its series; raises QueryError
_OF_CARD = 45  # steps of the line behind a figure: it may be a sum over 28 days each time


def gather(
    along: Along, boards: Iterable[Board], span: Span, window: str, prices: Mapping[str, str] = MappingProxyType({})
) -> dict[tuple[str, str], Picture]:
    """By the names of the board and of the panel. `window` of the rates shall be no shorter than a step; `prices`: see `filled`."""

    def ask(promql: str, chosen: Span) -> Sequence[Series]:
        return along(filled(promql, window, prices=prices), chosen)

    return {(board.name, panel.title): _picture(ask, panel, span) for board in boards for panel in board.panels}


def _picture(ask: Along, panel: Panel, span: Span) -> Picture:
    chosen = span.coarser(_OF_CARD) if panel.kind == "card" else span
    try:
        found = [(query, ask(query.promql, chosen)) for query in panel.queries]
    except QueryError as error:
        return Picture(panel, chosen, problem=str(error))
    return picture(panel, chosen, found)
