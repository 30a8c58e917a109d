"""Charts as SVG: what is drawn where, and nothing of others as markup."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, strategies as st

from observability.dashboards.model import Panel, Threshold
from observability.pictures.chart import chart, colour, spark, stacked
from observability.pictures.data import Line, Picture, Span

NAN = math.nan
SPAN = Span(1_800_000_000, 10, 5)
PANEL = Panel("Latency", (), "s")
EVIL = '<script>alert("1")</script>'


def drawn(*lines: Line, panel: Panel = PANEL, span: Span = SPAN) -> Any:
    """The chart, read strictly."""
    return ET.fromstring(chart(Picture(panel, span, lines), 400, 200))


def path(root: Any, kind: str) -> list[str]:
    return [each.attrib["d"] for each in root.iter("path") if kind in each.attrib["class"].split()]


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", text)]


def test_a_line_goes_from_the_left_edge_to_the_right_and_up_where_values_rise() -> None:
    (line,) = path(drawn(Line("p95", (0.0, 1.0, 2.0, 3.0, 4.0))), "line")
    found = points(line)
    steps = {round(b[0] - a[0], 1) for a, b in pairwise(found)}
    assert max(steps) - min(steps) <= 0.11
    assert found[-1][0] == 392.0
    assert [y for _, y in found] == sorted((y for _, y in found), reverse=True)
    assert found[0][1] == 180.0  # zero is the bottom
    assert found[-1][1] == 8.0  # 4 is the last tick


def test_a_gap_is_a_gap_and_one_value_alone_a_dot() -> None:
    (line,) = path(drawn(Line("p95", (1.0, 2.0, NAN, 4.0, NAN))), "line")
    assert line.count("M") == 2
    assert line.endswith("h.1")
    assert len(points(line)) == 3


def test_areas_lie_on_each_other_and_a_line_over_them_does_not() -> None:
    panel = replace(PANEL, kind="stacked")
    lines = Line("a", (1.0,) * 5), Line("b", (NAN, 2.0, 2.0, 2.0, 2.0)), Line("sum", (3.0,) * 5, over=True)
    assert [line.values for line in stacked(lines)] == [(1.0,) * 5, (1.0, 3.0, 3.0, 3.0, 3.0), (3.0,) * 5]
    root = drawn(*lines, panel=panel)
    areas, over = path(root, "area"), path(root, "line")
    assert len(areas) == 2
    assert len(over) == 3
    top = [y for _, y in points(areas[0])[:5]]
    assert [y for _, y in points(areas[1])[5:]] == top[::-1]  # b's floor is a's top
    assert {y for _, y in points(over[2])} == {points(over[1])[-1][1]}


@given(st.lists(st.lists(st.floats(0, 1e6) | st.just(NAN), min_size=5, max_size=5), min_size=1, max_size=5))
def test_the_top_of_a_stack_is_the_sum(values: list[list[float]]) -> None:
    top = stacked([Line(str(n), tuple(each)) for n, each in enumerate(values)])[-1]
    steps = [[each[at] for each in values if not math.isnan(each[at])] for at in range(5)]
    assert top.values == pytest.approx([sum(step) if step else NAN for step in steps], nan_ok=True)


def test_a_threshold_is_drawn_unless_it_would_flatten_the_data() -> None:
    near, far = Threshold(4.0, "late"), Threshold(1000.0, "hopeless")
    root = drawn(Line("p95", (1.0, 2.0, 3.0, 2.0, 3.0)), panel=replace(PANEL, thresholds=(near, far)))
    assert len(path(root, "threshold")) == 1
    texts = [each.text for each in root.iter("text")]
    assert "late" in texts
    assert "hopeless" not in texts


def test_how_near_a_goal_is_can_be_seen() -> None:
    panel = replace(PANEL, unit="10^2.%", thresholds=(Threshold(0.99, "goal", below=True),))
    root = drawn(Line("good", (1.0, 0.995, 1.0, 0.998, 1.0)), panel=panel)
    found = [y for _, y in points(path(root, "line")[0])]
    assert max(found) - min(found) > 50


def test_axes_have_units_and_times() -> None:
    texts = [each.text for each in drawn(Line("p95", (0.01, 0.02, 0.03, 0.02, 0.045))).iter("text")]
    assert texts[:3] == ["0", "10 ms", "20 ms"]
    assert any(re.fullmatch(r"\d\d:\d\d:\d\d", text) for text in texts)


def test_what_is_said_to_those_who_do_not_see_it_and_to_who_points_at_it() -> None:
    root = drawn(Line("p95", (0.01, NAN, 0.03, 0.02, 0.02)))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "Latency. p95: 20 ms, between 10 ms and 30 ms"
    titles = [each.text for each in root.iter("title")]
    assert titles == [
        "08:00:40 UTC\np95: 20 ms",
        "08:00:30 UTC\np95: 20 ms",
        "08:00:20 UTC\np95: 30 ms",
        "08:00:00 UTC\np95: 10 ms",
    ]


def test_places_are_bounded_however_many_steps_there_are() -> None:
    span = Span(1_800_000_000, 1, 1000)
    assert len(list(drawn(Line("p", (1.0,) * 1000), span=span).iter("rect"))) <= 60


def test_names_of_others_are_text() -> None:
    panel = replace(PANEL, title=EVIL, thresholds=(Threshold(1.0, EVIL),))
    root = drawn(Line(EVIL, (1.0,) * 5), panel=panel)
    assert {each.tag for each in root.iter()} == {"svg", "path", "text", "rect", "title"}
    assert EVIL in root.attrib["aria-label"]


def test_lines_beyond_the_colours_are_dashed() -> None:
    assert len({colour(number) for number in range(20)}) == 20
    assert colour(3) == "c3"
    assert colour(13) == "c3 dashed"


def test_nothing_to_draw_is_an_error_of_ours() -> None:
    with pytest.raises(ValueError, match="Latency"):
        chart(Picture(PANEL, SPAN), 400, 200)


def test_the_line_below_a_figure() -> None:
    assert spark(Picture(PANEL, SPAN, (Line("v", (1.0, NAN, NAN, NAN, NAN)),)), 200, 40) == ""
    root = ET.fromstring(spark(Picture(PANEL, SPAN, (Line("v", (1.0,) * 5),)), 200, 40))
    assert root.attrib["aria-hidden"] == "true"
    assert {y for _, y in points(path(root, "line")[0])} == {21.0}  # a value that stays is in the middle
