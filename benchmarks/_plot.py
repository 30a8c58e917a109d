"""A picture of the rows of benchmarks.quality: for each workload TTFT p90 and goodput over the load, a line for each policy."""

from collections.abc import Callable, Sequence
from math import log10
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 360, 210  # of one panel
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 34, 34
LEGEND = 56
# Told apart by the colour-blind as well (Okabe and Ito); ours is the thick one.
COLOURS = ("#999999", "#e69f00", "#56b4e9", "#009e73", "#b8b000", "#0072b2", "#cc79a7", "#d55e00", "#000000")
TICKS = (
    (50, "50 ms"),
    (100, "0.1 s"),
    (500, "0.5 s"),
    (1000, "1 s"),
    (5000, "5 s"),
    (10_000, "10 s"),
    (50_000, "50 s"),
)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)

Rows = Sequence[dict[str, Any]]
Scale = Callable[[float], float]  # a figure -> a share of the height


def draw(rows: Rows) -> str:
    """An SVG; a row of two panels for each workload."""
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(policies)}
    height = LEGEND + HEIGHT * len(workloads)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{2 * WIDTH}" height="{height}" fill="white"/>',
        *_legend(colours),
    ]
    for index, name in enumerate(workloads):
        found = [row for row in rows if row["workload"] == name]
        top = LEGEND + HEIGHT * index
        parts += _panel(0, top, f"{name}: TTFT p90 of the served", found, "ttft_p90_ms", colours, _logarithmic, TICKS)
        shares = [(share, f"{share:.0%}") for share in SHARES]
        parts += _panel(WIDTH, top, f"{name}: first token within 0.5 s", found, "goodput", colours, _linear, shares)
    return "\n".join([*parts, "</svg>", ""])


def _logarithmic(value: float) -> float:
    return (log10(max(value, 40.0)) - log10(40.0)) / (log10(100_000.0) - log10(40.0))


def _linear(value: float) -> float:
    return value


def _legend(colours: dict[str, str]) -> list[str]:
    parts = []
    for index, (name, colour) in enumerate(colours.items()):
        x, y = LEFT + 165 * (index % 4), 14 + 16 * (index // 4)
        parts.append(f'<rect x="{x}" y="{y - 6}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 19}" y="{y}">{escape(name)}</text>')
    return parts


def _panel(
    x: float, y: float, title: str, rows: Rows, key: str, colours: dict[str, str], scale: Scale, ticks: Sequence[Any]
) -> list[str]:
    loads = sorted({row["load"] for row in rows})
    left, right, top, bottom = x + LEFT, x + WIDTH - RIGHT, y + TOP, y + HEIGHT - BOTTOM

    def across(load: float) -> float:
        width = loads[-1] - loads[0]
        return left + (right - left) * ((load - loads[0]) / width if width else 0.5)

    def up(value: float) -> float:
        return bottom - (bottom - top) * min(1.0, scale(value))

    parts = [f'<text x="{left}" y="{top - 10}" font-weight="bold">{escape(title)}</text>']
    for value, label in ticks:
        parts.append(f'<path d="M{left} {up(value):.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 5}" y="{up(value) + 4:.1f}" text-anchor="end" fill="#555">{label}</text>')
    parts += [
        f'<text x="{across(load):.1f}" y="{bottom + 15}" text-anchor="middle" fill="#555">{load:.0%}</text>'
        for load in loads
    ]
    parts.append(f'<text x="{right}" y="{bottom + 28}" text-anchor="end" fill="#555">load, of the capacity</text>')
    for name, colour in colours.items():
        points = [(across(row["load"]), up(row[key])) for row in rows if row["policy"] == name and row[key] is not None]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in sorted(points))
        wide = 3 if name == "ours" else 1.3
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{wide}" fill="{colour}"/>' for a, b in points]
    return parts
