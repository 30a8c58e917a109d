"""`penstock verify --draw`: the page is written, whatever was found; a window no shorter than a step; no secret of the URL."""

from pathlib import Path
from typing import Any, cast

import pytest

from observability.asking import Prometheus
from observability.pictures.data import Series, Span
from penstock.drawing import draw, without_secrets
from penstock.process import UserError


class Server:
    """Has a line for every query."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def along(self, promql: str, span: Span) -> list[Series]:
        self.asked.append(promql)
        return [Series({}, (1.0,) * span.count)]


def drawn(file: Path, **more: Any) -> Server:
    server = Server()
    options = {"source": "http://prometheus:9090", "since": 3600, "window": "5m"} | more
    draw(file, cast(Prometheus, server), [], **options)
    return server


def test_the_page_of_an_hour(tmp_path: Path) -> None:
    server = drawn(tmp_path / "boards.html")
    assert any("[5m]" in promql for promql in server.asked)
    text = (tmp_path / "boards.html").read_text()
    assert "rates over 5m, from http://prometheus:9090" in text
    assert text.count("<svg") > 100


def test_rates_over_a_week_leave_out_nothing_between_two_steps(tmp_path: Path) -> None:
    server = drawn(tmp_path / "boards.html", since=7 * 86_400)
    assert any("[5040s]" in promql for promql in server.asked)


def test_prices_are_in_the_queries(tmp_path: Path) -> None:
    server = drawn(
        tmp_path / "boards.html", prices={"input_price": "0.15", "cached_price": "0.03", "output_price": "0.6"}
    )
    assert any("* (0.03 - 0.15)" in promql and "* 0.6" in promql for promql in server.asked)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--draw .*: No such file"):
        drawn(tmp_path / "nowhere" / "boards.html")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@prometheus:9090/path", "http://prometheus:9090/path"),
        ("https://prometheus/?token=secret", "https://prometheus/"),
    ],
)
def test_no_secret_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
