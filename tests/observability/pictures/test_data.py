"""Lines of a panel: named by legends, in order, without what says nothing, bounded."""

import math

from hypothesis import given, strategies as st

from observability.dashboards.model import Panel, Query
from observability.pictures.data import MOST, Series, Span, named, picture, span

PANEL = Panel("P", (), "1")
SPAN = Span(0, 1, 3)
NAN = math.nan


@given(st.floats(1e9, 2e9), st.integers(1, 366 * 86_400), st.integers(1, 400))
def test_a_span_ends_now_in_whole_steps_and_has_about_as_many_as_were_asked_for(
    now: float, seconds: int, count: int
) -> None:
    found = span(now, seconds, count)
    assert now - found.step - 1 < found.end <= now
    assert found.end % found.step == 0
    assert 1 <= found.count <= 2 * count + 1
    assert found.step * (found.count - 1) <= seconds


@given(st.integers(1, 100), st.integers(1, 500), st.integers(1, 60))
def test_a_coarser_span_ends_at_the_same_time_and_stays_inside(step: int, count: int, wanted: int) -> None:
    whole = Span(1000, step, count)
    found = whole.coarser(wanted)
    assert found.end == whole.end
    assert whole.start <= found.start
    assert found.step % step == 0
    assert found.count <= min(2 * wanted + 1, count)


def test_legends_name_labels() -> None:
    query = Query("q", "{{pool}} p95 {{state}}")
    assert named(query, {"pool": "ns/a"}) == "ns/a p95 none"
    assert named(Query("q"), {"__name__": "x", "b": "2", "a": "1"}) == "a=1, b=2"
    assert named(Query("q"), {}) == "value"


def test_lines_are_in_the_order_of_queries_and_names_without_those_that_have_no_value() -> None:
    first, second = Query("a", "{{x}}"), Query("b", "second", over=True)
    found = picture(
        PANEL,
        SPAN,
        [
            (
                first,
                [Series({"x": "2"}, (1.0, NAN, 3.0)), Series({"x": "1"}, (0.0,) * 3), Series({"x": "3"}, (NAN,) * 3)],
            ),
            (second, [Series({}, (5.0, 6.0, NAN))]),
        ],
    )
    assert [(line.name, line.last, line.over) for line in found.lines] == [
        ("1", 0.0, False),
        ("2", 3.0, False),
        ("second", 6.0, True),
    ]
    assert found.lines[1].known == (1.0, 3.0)


def test_the_zero_that_stands_for_nothing_is_left_out_beside_something() -> None:
    query, zero = Query("q", "{{reason}}"), Series({}, (0.0, 0.0, 0.0))
    some = Series({"reason": "shed"}, (1.0, 1.0, 1.0))
    assert [line.name for line in picture(PANEL, SPAN, [(query, [zero, some])]).lines] == ["shed"]
    assert [line.name for line in picture(PANEL, SPAN, [(query, [zero])]).lines] == ["none"]
    unnamed = Series({}, (0.0, 2.0, 0.0))  # requests that reached no pool: their label is empty, and so is not there
    assert [line.name for line in picture(PANEL, SPAN, [(query, [unnamed, some])]).lines] == ["none", "shed"]


def test_of_many_lines_the_largest_are_shown_and_the_rest_is_counted() -> None:
    many = [Series({"n": f"{n:03}"}, (float(n), NAN, NAN)) for n in range(MOST + 5)]
    found = picture(PANEL, SPAN, [(Query("q", "{{n}}"), many)])
    assert [line.name for line in found.lines] == [f"{n:03}" for n in range(5, MOST + 5)]
    assert found.left_out == 5
