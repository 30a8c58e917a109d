"""`penstock verify --draw`: every board as one page."""

import time
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit, urlunsplit

from observability.asking import Prometheus
from observability.dashboards.files import boards
from observability.pictures.data import span
from observability.pictures.gather import gather
from observability.pictures.page import About, page
from observability.verify import Finding
from penstock.durations import in_seconds
from penstock.process import UserError


def draw(
    file: Path,
    server: Prometheus,
    found: Iterable[Finding],
    *,
    source: str,
    since: int,
    window: str,
    prices: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Asks for the last `since` seconds and writes the page; `source` is the server's URL, for people. Raises UserError."""
    drawn, every = span(time.time(), since), boards()
    # A rate over less than a step would not see what happened in between.
    window = window if in_seconds(window) >= drawn.step else f"{drawn.step}s"
    style = (files("observability.pictures") / "page.css").read_text(encoding="utf-8")
    about = About(without_secrets(source), drawn, window, tuple(found))
    text = page(about, every, gather(server.along, every, drawn, window, prices), style)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--draw {file}: {error.strerror}") from error


def without_secrets(url: str) -> str:
    """The page is passed on: no password of the URL, nor what a query string may carry."""
    split = urlsplit(url)
    return urlunsplit((split.scheme, split.netloc.rpartition("@")[2], split.path, "", ""))
