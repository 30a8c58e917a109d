"""/metrics: the Prometheus text format 0.0.4 and OpenMetrics 1.0, by Accept header, in an order that never changes.

Source: prometheus.io/docs/instrumenting/exposition_formats, and the OpenMetrics 1.0 specification.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

from observability.catalogue import Metric
from observability.registry import Distribution, Exemplar, Reading

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def negotiate(accept: str) -> str:
    """The content type to answer with: OpenMetrics where the scraper prefers it to text (quality `q`), else text."""
    quality = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (item.strip() for item in part.split(";"))
        weight = next((item[2:] for item in parameters if item.startswith("q=")), "1")
        if kind in quality:
            quality[kind] = max(quality[kind], _quality(weight))
    openmetrics, plain = quality.values()
    return OPENMETRICS if openmetrics > 0 and openmetrics >= plain else TEXT


def render(readings: Iterable[Reading], content_type: str) -> bytes:
    return (openmetrics if content_type == OPENMETRICS else text)(readings)


def text(readings: Iterable[Reading]) -> bytes:
    """Format 0.0.4."""
    lines: list[str] = []
    for reading in readings:
        metric = reading.metric
        lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.kind}")
        lines += _points(reading)
    return ("\n".join(lines) + "\n").encode() if lines else b""


def openmetrics(readings: Iterable[Reading]) -> bytes:
    """OpenMetrics 1.0: the family of a counter has no `_total`, a unit must be the suffix of the name, the end is marked."""
    lines: list[str] = []
    for reading in readings:
        metric = reading.metric
        family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        lines.append(f"# TYPE {family} {metric.kind}")
        if metric.unit and family.endswith("_" + metric.unit):
            lines.append(f"# UNIT {family} {metric.unit}")
        lines.append(f"# HELP {family} {_escape(metric.help)}")
        lines += _points(reading, exemplars=True)
    lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def _points(reading: Reading, *, exemplars: bool = False) -> Iterator[str]:
    metric = reading.metric
    for point in reading.points:
        labels = ",".join(
            f'{name}="{_escape(value)}"' for name, value in zip(metric.label_names, point.labels, strict=True)
        )
        if isinstance(point.value, Distribution):
            yield from _distribution(metric, labels, point.value, dict(point.value.exemplars) if exemplars else {})
        else:
            yield (
                f"{metric.name}{{{labels}}} {_number(point.value)}"
                if labels
                else f"{metric.name} {_number(point.value)}"
            )


def _distribution(metric: Metric, labels: str, value: Distribution, exemplars: Mapping[int, Exemplar]) -> Iterator[str]:
    total = 0
    comma = "," if labels else ""
    for index, (bound, count) in enumerate(zip((*metric.buckets, math.inf), value.counts, strict=True)):
        total += count
        found = exemplars.get(index)
        trace = f" {_exemplar(found)}" if found else ""
        yield f'{metric.name}_bucket{{{labels}{comma}le="{_number(float(bound))}"}} {total}{trace}'
    braced = f"{{{labels}}}" if labels else ""
    yield f"{metric.name}_sum{braced} {_number(value.sum)}"
    yield f"{metric.name}_count{braced} {total}"


def _exemplar(found: Exemplar) -> str:
    """Ids are hex and 48 digits together: nothing to escape, and below the 128 characters that OpenMetrics allows."""
    return f'# {{trace_id="{found.trace_id}",span_id="{found.span_id}"}} {_number(found.value)} {found.time:.3f}'


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _escape_help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")  # in 0.0.4 a quote in HELP stays as it is


def _quality(weight: str) -> float:
    try:
        return float(weight)
    except ValueError:
        return 0.0
