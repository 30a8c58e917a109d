"""One panel as SVG: lines or stacked areas with axes, or the small line behind a figure.

Colours are classes (`c0` ... `c9`), so that the page's style has them for light and dark. Beyond ten lines they are dashed. Everything
that was named by others is escaped.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from observability.dashboards.model import Threshold
from observability.pictures.data import Line, Picture, Span
from observability.pictures.scale import Scale, clock, figure, scale

COLOURS = 10
_BANDS = 60  # places of a chart that tell their values when pointed at
_TOP, _BOTTOM, _RIGHT = 8.0, 20.0, 8.0
_CHARACTER = 6.2  # width of one on an axis
_FAR = 3.0  # a threshold that is that many times above all data is told in words only: it would flatten them


def chart(picture: Picture, width: int, height: int) -> str:
    """With axes, thresholds, and per place in time what is there. Raises ValueError where there is nothing to draw."""
    panel, span = picture.panel, picture.span
    drawn = stacked(picture.lines) if panel.kind == "stacked" else picture.lines
    values = [value for line in drawn for value in line.known]
    if not values:
        raise ValueError(f"{panel.title}: nothing to draw")
    lines = [each for each in panel.thresholds if _near(each, values)]
    zero = not any(each.below for each in panel.thresholds)  # how near 100 % is cannot be seen from 0
    axis = scale([*values, *(each.value for each in lines)], panel.unit, log=panel.log_scale, zero=zero)
    labels = ["0" if not tick else figure(tick, panel.unit) for tick in axis.ticks]
    left = max(len(label) for label in labels) * _CHARACTER + 8
    box = _Box(left, _TOP, width - _RIGHT, height - _BOTTOM, axis, span)
    parts = [
        *_grid(box, labels),
        *(_areas(box, drawn) if panel.kind == "stacked" else ()),
        *(_line(box, line, number) for number, line in enumerate(drawn)),
        *(_threshold(box, each) for each in lines),
        *_bands(box, picture),
    ]
    return _svg(width, height, _told(picture), parts)


def spark(picture: Picture, width: int, height: int) -> str:
    """The line below a figure: decoration, the figure says what counts. Nothing where there is only one value."""
    line = picture.lines[0]
    if len(line.known) < 2:
        return ""
    low, high = min(line.known), max(line.known)
    room = (high - low) or abs(high) or 1.0
    box = _Box(0, 2, width, height, Scale(low - room * 0.1, high + room * 0.1, ()), picture.span)
    parts = [*_areas(box, [line]), _line(box, line, 0)]
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def stacked(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Each on the sum of those before it; what is not there counts nothing, and where nothing is, there is a gap.

    Lines over the stack stay as they are.
    """
    below = [line for line in lines if not line.over]
    steps = list(zip(*(line.values for line in below), strict=True))
    sums = [0.0 if any(map(math.isfinite, step)) else math.nan for step in steps]
    made = []
    for line in lines:
        if not line.over:
            pairs = zip(sums, line.values, strict=True)
            sums = [under + (value if math.isfinite(value) else 0.0) for under, value in pairs]
        made.append(line if line.over else Line(line.name, tuple(sums)))
    return tuple(made)


class _Box:
    """The inside of the axes, in pixels; y grows downwards."""

    def __init__(self, left: float, top: float, right: float, bottom: float, axis: Scale, span: Span) -> None:
        self.left, self.top, self.right, self.bottom, self.axis, self.span = left, top, right, bottom, axis, span

    def x(self, at: float) -> float:
        """Of a time."""
        return self.left + (at - self.span.start) / max(self.span.end - self.span.start, 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self.axis.place(value) * (self.bottom - self.top)

    def point(self, number: int, value: float) -> str:
        return f"{self.x(self.span.start + number * self.span.step):.1f} {self.y(value):.1f}"


def _near(threshold: Threshold, values: Sequence[float]) -> bool:
    return threshold.below or threshold.value <= max(values) * _FAR


def _grid(box: _Box, labels: Iterable[str]) -> Iterator[str]:
    for tick, label in zip(box.axis.ticks, labels, strict=True):
        y = box.y(tick)
        yield f'<path class="grid" d="M{box.left:.1f} {y:.1f}H{box.right:.1f}"/>'
        yield f'<text x="{box.left - 6:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{escape(label)}</text>'
    for at, label in clock(box.span.start, box.span.end, max(int((box.right - box.left) / 62), 2)):
        x = box.x(at)
        half = len(label) * _CHARACTER / 2
        yield f'<path class="grid" d="M{x:.1f} {box.top:.1f}V{box.bottom:.1f}"/>'
        if box.left - 12 <= x - half and x + half <= box.right + _RIGHT:
            yield f'<text x="{x:.1f}" y="{box.bottom + 14:.1f}" text-anchor="middle">{label}</text>'


def _pieces(line: Line) -> Iterator[list[int]]:
    """The numbers of the steps that have a value, in unbroken runs."""
    run: list[int] = []
    for number, value in enumerate(line.values):
        if math.isfinite(value):
            run.append(number)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _line(box: _Box, line: Line, number: int) -> str:
    runs = ["L".join(box.point(at, line.values[at]) for at in run) for run in _pieces(line)]
    path = "".join(f"M{run}" + ("h.1" if "L" not in run else "") for run in runs)  # one value alone is a dot
    return f'<path class="line {colour(number)}" d="{path}"/>'


def _areas(box: _Box, lines: Sequence[Line]) -> Iterator[str]:
    """Between each line and the one below it."""
    for number, line in enumerate(each for each in lines if not each.over):
        below = lines[number - 1].values if number else None
        path = ""
        for run in _pieces(line):
            over = "L".join(box.point(at, line.values[at]) for at in run)
            floor = "L".join(box.point(at, below[at] if below else box.axis.low) for at in reversed(run))
            path += f"M{over}L{floor}Z"
        yield f'<path class="area {colour(number)}" d="{path}"/>'


def _threshold(box: _Box, threshold: Threshold) -> str:
    y = box.y(threshold.value)
    under = y + 11 if y < box.top + 12 else y - 4
    return (
        f'<path class="threshold" d="M{box.left:.1f} {y:.1f}H{box.right:.1f}"/>'
        f'<text class="threshold" x="{box.right - 3:.1f}" y="{under:.1f}" text-anchor="end">{escape(threshold.label)}</text>'
    )


def _bands(box: _Box, picture: Picture) -> Iterator[str]:
    """Pointed at, a place tells its time and the value of each line: without a script."""
    span = picture.span
    every = max(math.ceil(span.count / _BANDS), 1)
    width = every * (box.right - box.left) / max(span.count - 1, 1)
    for number in range(span.count - 1, -1, -every):
        found = [(line.name, line.values[number]) for line in picture.lines if math.isfinite(line.values[number])]
        if not found:
            continue
        at = datetime.fromtimestamp(span.start + number * span.step, UTC)
        said = "\n".join([f"{at:%H:%M:%S} UTC", *(f"{name}: {figure(v, picture.panel.unit)}" for name, v in found)])
        x = max(box.x(span.start + number * span.step) - width / 2, box.left)
        yield (
            f'<rect x="{x:.1f}" y="{box.top:.0f}" width="{min(width, box.right - x):.1f}" '
            f'height="{box.bottom - box.top:.0f}"><title>{escape(said)}</title></rect>'
        )


def colour(number: int) -> str:
    """The classes of a line."""
    return f"c{number % COLOURS}" + (" dashed" if number >= COLOURS else "")


def _told(picture: Picture) -> str:
    """The chart in words, for whoever cannot see it."""
    unit = picture.panel.unit
    lines = []
    for line in picture.lines:
        low, high, last = (figure(value, unit) for value in (min(line.known), max(line.known), line.last))
        lines.append(f"{line.name}: {last}, between {low} and {high}")
    return f"{picture.panel.title}. {'; '.join(lines)}"


def _svg(width: int, height: int, told: str, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(told)}">{"".join(parts)}</svg>'
