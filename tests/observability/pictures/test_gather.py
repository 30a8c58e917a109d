"""Every query of every panel is asked, once, with the window; a refusal is of one panel."""

from observability.asking import QueryError
from observability.dashboards.files import boards
from observability.dashboards.model import Board, Panel, Query, Row
from observability.pictures.data import Series, Span
from observability.pictures.gather import gather

SPAN = Span(0, 10, 361)
RATE = Panel("Rate", (Query("sum(rate(penstock_requests_total{$selector}[$window]))", "rate"),), "1/s")
NOW = Panel("Now", (Query("max(penstock_pool_saturation{$selector})", "now"),), "1", kind="card")
BOARD = Board("b", "B", (Row("r", "", (RATE, NOW)),))


def test_cards_are_asked_for_fewer_steps_and_what_is_refused_harms_nobody_else() -> None:
    asked: list[tuple[str, Span]] = []

    def along(promql: str, span: Span) -> list[Series]:
        asked.append((promql, span))
        if "saturation" in promql:
            raise QueryError("422 too much")
        return [Series({}, (1.0,) * span.count)]

    found = gather(along, [BOARD], SPAN, "2m")
    assert asked == [
        ("sum(rate(penstock_requests_total[2m]))", SPAN),
        ("max(penstock_pool_saturation)", SPAN.coarser(45)),
    ]
    assert [line.name for line in found["b", "Rate"].lines] == ["rate"]
    assert (found["b", "Now"].lines, found["b", "Now"].problem) == ((), "422 too much")


def test_every_query_of_every_board_is_asked() -> None:
    asked: list[str] = []

    def along(promql: str, _span: Span) -> list[Series]:
        asked.append(promql)
        return []

    found = gather(along, boards(), SPAN, "5m")
    panels = [panel for board in boards() for panel in board.panels]
    assert len(found) == len(panels)
    assert len(asked) == sum(len(panel.queries) for panel in panels)
    assert not any("$" in promql for promql in asked)
