"""The page of all boards: complete, strict about where things come from, and honest about what is missing."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from observability.dashboards.files import boards
from observability.dashboards.model import Board, Panel, Query, Row, Threshold
from observability.pictures.data import Line, Picture, Series, Span
from observability.pictures.gather import gather
from observability.pictures.page import About, page
from observability.verify import Finding
from tests.observability.console.browser import rendered

STYLE = (files("observability.pictures") / "page.css").read_text()
SPAN = Span(1_800_000_000, 10, 5)
ABOUT = About("http://prometheus:9090", SPAN, "5m")
CHART = Panel("Requests", (Query("q", "{{pool}}"),), "1/s")
CARD = Panel("TTFT p95", (Query("q"),), "s", (Threshold(2.0, "objective 2 s"),), kind="card", width=8)
BOARD = Board("b", "Penstock board", (Row("Row", "What is it?", (CHART, CARD)),))
EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Elements that are not closed, ids, and everything that would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.attributes |= found.keys()
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if "href" in found else []
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made(*lines: Line, panel: Panel = CHART, about: About = ABOUT, problem: str = "") -> str:
    return page(about, [BOARD], {("b", panel.title): Picture(panel, SPAN, lines, problem=problem)}, STYLE)


def full() -> str:
    """Every board, as if everything had two series."""
    two = [Series({"pool": name, "model_name": name}, tuple(float(n) for n in range(180))) for name in ("a", "b")]

    def along(_promql: str, span: Span) -> list[Series]:
        return [replace(each, values=each.values[: span.count]) for each in two]

    return page(ABOUT, boards(), gather(along, boards(), Span(0, 20, 180), "5m"), STYLE)


def test_every_panel_of_every_board_is_there_once_and_the_page_is_whole() -> None:
    text = full()
    found = Reader(text)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    for board in boards():
        assert board.name in found.ids
        assert f"#{board.name}" in found.links
    for panel in (panel for board in boards() for panel in board.panels):
        assert f"<figcaption>{panel.title}</figcaption>" in text or panel.title in unescape(text)
    assert text.count("<figure") == sum(len(board.panels) for board in boards())
    assert "No data" not in text


def test_nothing_comes_from_outside_and_nothing_runs() -> None:
    text = full()
    found = Reader(text)
    assert not found.tags & {"script", "img", "link", "iframe", "object"}
    assert not [each for each in found.attributes if each.startswith("on") or each in {"src", "style"}]
    assert all(link.startswith("#") for link in found.links)
    assert "url(" not in text
    (css,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = b64encode(sha256(css.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text


def test_every_width_and_colour_that_is_used_has_a_style() -> None:
    assert {panel.width for board in boards() for panel in board.panels} <= {
        int(n) for n in re.findall(r"\.w(\d+) ", STYLE)
    }
    assert {f".c{n} " in STYLE for n in range(10)} == {True}


def test_a_panel_has_its_legend_with_the_newest_values() -> None:
    text = made(Line("ns/a", (1.0, 2.0, 3.0, 4.0, 5.0)))
    assert "ns/a <b>5 /s</b>" in text
    assert 'title="ns/a: least 1 /s, mean 3 /s, most 5 /s"' in text


@pytest.mark.parametrize(("value", "state"), [(0.5, "good"), (2.5, "bad")])
def test_a_card_says_whether_it_is_well_not_by_colour_alone(value: float, state: str) -> None:
    text = made(Line("value", (value,) * 5), panel=CARD)
    assert f'<p class="figure {state}">' in text
    assert ("crossed: objective 2 s" in text) == (state == "bad")
    assert "objective 2 s" in text


def test_what_is_missing_is_named_on_top_and_in_its_place() -> None:
    missing = (
        Finding("b / Requests", "no data", "q", "at night"),
        Finding("PenstockDown", "there is no penstock_build_info", "q"),
    )
    text = made(about=replace(ABOUT, missing=missing), problem="422 too <much>")
    assert "<summary>1 without data; 1 that may be</summary>" in text
    assert text.index("PenstockDown") < text.index("at night")
    assert "422 too &lt;much&gt;" in text
    assert "No data" in text  # the other panel
    assert "Every panel and every alert has data" in made()


def test_what_may_be_empty_says_when() -> None:
    board = Board("b", "B", (Row("r", "", (replace(CHART, empty="while nothing changes"),)),))
    assert "may be so while nothing changes" in page(ABOUT, [board], {}, STYLE)


def test_names_of_others_are_text() -> None:
    text = made(Line(EVIL, (1.0,) * 5), about=replace(ABOUT, source=EVIL, missing=(Finding(EVIL, EVIL, "", EVIL),)))
    assert "<script" not in text
    assert EVIL in unescape(text)


def test_lines_that_are_left_out_are_counted() -> None:
    picture = Picture(CHART, SPAN, (Line("a", (1.0,) * 5),), left_out=7)
    assert "and 7 more that are smaller" in page(ABOUT, [BOARD], {("b", "Requests"): picture}, STYLE)


def test_a_browser_shows_the_board_in_the_address_alone(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(full())
    whole, one = tmp_path / "whole.png", tmp_path / "one.png"
    rendered(f"file://{file}", picture=whole, size="1200,900")
    rendered(f"file://{file}#safety", picture=one, size="1200,900")
    assert whole.read_bytes() != one.read_bytes()
