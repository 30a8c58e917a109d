"""The page: every board with its rows and panels, what was not found on top. No script, and nothing from outside.

Without a board in its address (`#overview`) it shows all of them, one below the other.
"""

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from statistics import fmean

from observability.dashboards.model import Board, Panel, Threshold
from observability.pictures.chart import chart, colour, spark
from observability.pictures.data import Picture, Span
from observability.pictures.scale import figure
from observability.verify import Finding

_COLUMN = 28  # pixels of a 48th of the page
_CHART, _CARD = 12, 8  # heights in rows of the board


@dataclass(frozen=True, slots=True)
class About:
    """What the page is of: `source` is the server asked, `window` that of the rates."""

    source: str
    span: Span
    window: str
    missing: tuple[Finding, ...] = ()


def page(about: About, boards: Iterable[Board], pictures: Mapping[tuple[str, str], Picture], style: str) -> str:
    """`pictures` by the names of the board and of the panel; `style` is page.css."""
    boards = tuple(boards)
    css = style + "\n".join(_chosen(board) for board in boards)
    digest = b64encode(sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'"
    links = "".join(f'<a href="#{each.name}">{escape(_short(each))}</a>' for each in boards)
    sections = "\n".join(_board(each, pictures) for each in boards)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Penstock boards</title>
<style>{css}</style>
</head>
<body>
<a class="skip" href="#boards">To the boards</a>
<header>
<h1>Penstock</h1>
<nav aria-label="Boards">{links}<a href="#boards">All</a></nav>
<p>{_when(about)}</p>
</header>
<main id="boards">
{_missing(about.missing)}
{sections}
</main>
</body>
</html>
"""


def _chosen(board: Board) -> str:
    """While one board is in the address, its link is marked."""
    return f'body:has(#{board.name}:target) nav a[href="#{board.name}"] {{ color: var(--ink); border-color: var(--accent); }}'


def _short(board: Board) -> str:
    return board.title.removeprefix("Penstock ").capitalize()


def _when(about: About) -> str:
    start, end = (datetime.fromtimestamp(at, UTC) for at in (about.span.start, about.span.end))
    again = "%H:%M" if start.date() == end.date() else "%Y-%m-%d %H:%M"
    return f"{start:%Y-%m-%d %H:%M} to {end.strftime(again)} UTC, rates over {escape(about.window)}, from {escape(about.source)}"


def _missing(missing: tuple[Finding, ...]) -> str:
    if not missing:
        return '<p class="good all">Every panel and every alert has data.</p>'
    bad = [each for each in missing if not each.allowed]
    said = f"{len(bad)} without data" if bad else "Nothing that should have data is without"
    rest = f"; {len(missing) - len(bad)} that may be" if len(missing) > len(bad) else ""
    items = "".join(
        f'<li class="{"bad" if not each.allowed else "may"}"><b>{escape(each.where)}</b>: {escape(each.problem)}'
        f"{f' ({escape(each.allowed)})' if each.allowed else ''}</li>"
        for each in sorted(missing, key=lambda each: bool(each.allowed))
    )
    return f'<details class="missing"{" open" if bad else ""}><summary>{said}{rest}</summary><ul>{items}</ul></details>'


def _board(board: Board, pictures: Mapping[tuple[str, str], Picture]) -> str:
    rows = []
    for row in board.rows:
        panels = "\n".join(_panel(board, panel, pictures.get((board.name, panel.title))) for panel in row.panels)
        rows.append(
            f'<h3>{escape(row.title)} <small>{escape(row.subtitle)}</small></h3>\n<div class="row">\n{panels}\n</div>'
        )
    inside = "\n".join(rows)
    return f'<section id="{board.name}" aria-labelledby="{board.name}-h"><h2 id="{board.name}-h">{escape(_short(board))}</h2>\n{inside}\n</section>'


def _panel(board: Board, panel: Panel, found: Picture | None) -> str:
    name = f"{board.name}-{''.join(each if each.isalnum() else '-' for each in panel.title.lower())}"
    inside = (
        "".join(_card(found) if panel.kind == "card" else _figure(found))
        if found and found.lines
        else _empty(panel, found)
    )
    kind = "card" if panel.kind == "card" else "chart"
    return f'<figure class="panel {kind} w{panel.width}" id="{name}"><figcaption>{escape(panel.title)}</figcaption>{inside}</figure>'


def _empty(panel: Panel, found: Picture | None) -> str:
    if found and found.problem:
        return f'<p class="empty bad">{escape(found.problem[:300])}</p>'
    why = f"<small>may be so {escape(panel.empty)}</small>" if panel.empty else ""
    return f'<p class="empty{"" if panel.empty else " bad"}">No data{why}</p>'


def _card(found: Picture) -> Iterator[str]:
    """The newest value, coloured by the threshold that it has crossed."""
    panel, value = found.panel, found.lines[0].last
    crossed = [each for each in panel.thresholds if _crossed(value, each)]
    state = "" if not panel.thresholds else "bad" if crossed else "good"
    bounds = "; ".join(_line(panel, each) for each in crossed or panel.thresholds if each.value or crossed)
    said = f"<small>{'crossed: ' if crossed else ''}{escape(bounds)}</small>" if bounds else ""
    number, space, unit = figure(value, panel.unit).partition(" ")
    yield f'<p class="figure {state}">{number}{f"<span>{space}{unit}</span>" if unit else ""}</p>{said}'
    yield spark(found, panel.width * _COLUMN, 40)


def _crossed(value: float, threshold: Threshold) -> bool:
    return value < threshold.value if threshold.below else value > threshold.value


def _line(panel: Panel, threshold: Threshold) -> str:
    label = threshold.label
    return label if any(each.isdigit() for each in label) else f"{label} {figure(threshold.value, panel.unit)}"


def _figure(found: Picture) -> Iterator[str]:
    panel = found.panel
    yield chart(found, panel.width * _COLUMN - 24, 190 if panel.height <= _CHART else 250)
    items = [
        f'<li class="{colour(number)}" title="{escape(_of(found, number))}"><i></i>{escape(line.name)} <b>{figure(line.last, panel.unit)}</b></li>'
        for number, line in enumerate(found.lines)
    ]
    items += [f'<li class="threshold"><i></i>{escape(_line(panel, each))}</li>' for each in panel.thresholds]
    if found.left_out:
        items.append(f"<li>and {found.left_out} more that are smaller</li>")
    yield f'<ul class="legend">{"".join(items)}</ul>'


def _of(found: Picture, number: int) -> str:
    line, unit = found.lines[number], found.panel.unit
    least, mean, most = (figure(value, unit) for value in (min(line.known), fmean(line.known), max(line.known)))
    return f"{line.name}: least {least}, mean {mean}, most {most}"
