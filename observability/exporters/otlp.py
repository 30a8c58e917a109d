"""OTLP: the registry as MetricsData of opentelemetry-sdk, handed to its exporter. No instrument of the SDK is on the request path.

Names are those of /metrics and units UCUM, so that a collector which writes for Prometheus arrives at the same names. Always
cumulative. Standard environment variables are obeyed: OTEL_EXPORTER_OTLP_*, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME,
OTEL_METRICS_EXPORTER=none. Source: OpenTelemetry protocol and SDK configuration.
"""

import asyncio
import importlib
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric as Exported,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from observability.catalogue import Metric
from observability.exporters.intervals import Intervals, Key
from observability.exporters.push import Tally
from observability.registry import Distribution, Point, Reading

# UCUM, of the catalogue's units. Of a ratio no unit is told: a translator to Prometheus would append `_ratio` to the name.
_UCUM = {"seconds": "s", "bytes": "By", "tokens": "{token}", "requests": "{request}"}
_PROTOCOLS = {"http/protobuf": "http", "grpc": "grpc"}
_CUMULATIVE = AggregationTemporality.CUMULATIVE
SCOPE = InstrumentationScope("penstock", version("penstock"))


class Exporter(Protocol):
    """opentelemetry-sdk's MetricExporter, as far as we care."""

    def export(self, data: MetricsData) -> MetricExportResult: ...
    def shutdown(self) -> None: ...


class Seldom(logging.Filter):
    """The exporters tell of every try of a collector that is away: here each of their loggers speaks once in a while."""

    def __init__(self, seconds: float = 300.0) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = record.name, record.levelno
        if record.created - self._last.get(key, -math.inf) < self._seconds:
            return False
        self._last[key] = record.created
        return True


_SELDOM = Seldom()


class UnknownProtocol(Exception):
    """The user's mistake, in the environment."""


class ShadowedPackage(Exception):
    """xds-protos has old files of opentelemetry-proto, and was installed after it: docs/decisions/0003."""


class Otlp:
    """A Door; `began` is time.time() when the counters were 0."""

    name = "otlp"

    def __init__(self, exporter: Exporter, resource: Resource, began: float) -> None:
        self._exporter, self._resource = exporter, resource
        self._intervals = Intervals(began)

    async def write(self, readings: Sequence[Reading], now: float) -> Tally:
        """The exporter tries again by itself, for as long as OTEL_EXPORTER_OTLP_TIMEOUT; what it gives up is superseded."""
        count = sum(len(reading.points) for reading in readings)
        result = await asyncio.to_thread(self._export, readings, now)
        tally = Tally()
        if result is MetricExportResult.SUCCESS:
            tally.written = count
        else:
            tally.failed["unavailable"] = count
        return tally

    def close(self) -> None:
        self._exporter.shutdown()

    def _export(self, readings: Sequence[Reading], now: float) -> MetricExportResult:
        starts = self._intervals.update(readings, now)
        return self._exporter.export(metrics_data(readings, starts, now, self._resource))


def exporter(signal: str) -> Any:
    """The one for "metric" or "trace" by the protocol that the environment names; http/protobuf by default, as the standard wants."""
    mine = f"OTEL_EXPORTER_OTLP_{signal.upper()}S_PROTOCOL"
    variable = mine if os.environ.get(mine) else "OTEL_EXPORTER_OTLP_PROTOCOL"
    named = os.environ.get(variable) or "http/protobuf"
    if named not in _PROTOCOLS:
        raise UnknownProtocol(f"{variable}={named}: write one of {', '.join(_PROTOCOLS)}")
    try:
        module = importlib.import_module(f"opentelemetry.exporter.otlp.proto.{_PROTOCOLS[named]}.{signal}_exporter")
    except ImportError as error:
        found = version("opentelemetry-proto")
        raise ShadowedPackage(
            f"files of opentelemetry-proto are those of xds-protos ({error}); install it again, last: "
            f"pip install --force-reinstall --no-deps opentelemetry-proto=={found}"
        ) from error
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("opentelemetry.exporter.")]:
        logging.getLogger(name).addFilter(_SELDOM)  # added once, however often this is called
    return getattr(module, {"metric": "OTLPMetricExporter", "trace": "OTLPSpanExporter"}[signal])()


def resource(attributes: Mapping[str, str]) -> Resource:
    """Who we are; what the environment says of it goes before `attributes`."""
    known = {name: value for name, value in attributes.items() if value}
    ours = {"service.name": "penstock", "service.version": SCOPE.version or "", **known}
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def metrics_data(
    readings: Iterable[Reading], starts: Mapping[Key, float], end: float, described: Resource
) -> MetricsData:
    """One point of every series; times are time.time()."""
    metrics = [
        Exported(
            reading.metric.name, reading.metric.help, _UCUM.get(reading.metric.unit, ""), _data(reading, starts, end)
        )
        for reading in readings
    ]
    return MetricsData([ResourceMetrics(described, [ScopeMetrics(SCOPE, metrics, "")], "")])


def _data(reading: Reading, starts: Mapping[Key, float], end: float) -> Sum | Gauge | Histogram:
    metric = reading.metric
    at = nanos(end)
    if metric.kind == "histogram":
        points = [_histogram(metric, point, nanos(starts[metric.name, point.labels]), at) for point in reading.points]
        return Histogram(points, _CUMULATIVE)
    if metric.kind == "counter":
        numbers = [_number(metric, point, nanos(starts[metric.name, point.labels]), at) for point in reading.points]
        return Sum(numbers, _CUMULATIVE, is_monotonic=True)
    return Gauge([_number(metric, point, None, at) for point in reading.points])


def _number(metric: Metric, point: Point, start: int | None, end: int) -> NumberDataPoint:
    assert not isinstance(point.value, Distribution)  # noqa: S101 -- the catalogue says what a metric is
    return NumberDataPoint(_labels(metric, point), start or 0, end, point.value)


def _histogram(metric: Metric, point: Point, start: int, end: int) -> HistogramDataPoint:
    value = point.value
    assert isinstance(value, Distribution)  # noqa: S101
    exemplars = [
        Exemplar({}, each.value, nanos(each.time), int(each.span_id, 16), int(each.trace_id, 16))
        for each in value.within(start / 1e9, end / 1e9)
    ]
    unknown: Any = None  # the least and the most are not kept; the encoder leaves None out
    return HistogramDataPoint(
        *(_labels(metric, point), start, end, sum(value.counts), value.sum),
        *(list(value.counts), metric.buckets, unknown, unknown, exemplars),
    )


def _labels(metric: Metric, point: Point) -> dict[str, str]:
    return dict(zip(metric.label_names, point.labels, strict=True))


def nanos(seconds: float) -> int:
    return round(seconds * 1e6) * 1000
