"""Cloud Monitoring: the registry by CreateTimeSeries, under the names that Managed Service for Prometheus would write.

`prometheus.googleapis.com/<name>/{counter,gauge,histogram}` on `prometheus_target`: dashboards and alerts in PromQL do not know
by which way a series came. Source: google.monitoring.v3.MetricService, and its quotas. Buckets there are [a, b), ours (a, b]:
Managed Service for Prometheus makes the same of it.

Messages are the raw protobuf ones: proto-plus takes five times as long. The import takes 50 MB, so this module is imported
only where it is asked for.
"""

import asyncio
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.api import distribution_pb2, metric_pb2, monitored_resource_pb2
from google.api_core import exceptions
from google.cloud import monitoring_v3

from observability.catalogue import Kind, Metric
from observability.exporters.intervals import Intervals
from observability.exporters.push import Tally, Why
from observability.registry import Distribution, Point, Reading

log = logging.getLogger("penstock.export")

MOST_SERIES = 200  # in a request
LONGEST_VALUE = 1024  # characters of a label's value
_GIVE_WAY = 20  # series, built in 0.2 ms
TIMEOUT = 12.0  # seconds for a request: the client library's own default
_CreateTimeSeries = type(monitoring_v3.CreateTimeSeriesRequest.pb(monitoring_v3.CreateTimeSeriesRequest()))
_Span = type(monitoring_v3.SpanContext.pb(monitoring_v3.SpanContext()))
_Summary = type(monitoring_v3.CreateTimeSeriesSummary.pb(monitoring_v3.CreateTimeSeriesSummary()))
_KINDS: Mapping[Kind, int] = {
    "gauge": metric_pb2.MetricDescriptor.GAUGE,
    "counter": metric_pb2.MetricDescriptor.CUMULATIVE,
    "histogram": metric_pb2.MetricDescriptor.CUMULATIVE,
}
_TRANSIENT = (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded)
_DENIED = (exceptions.Forbidden, exceptions.Unauthorized, exceptions.NotFound)


class CloudMonitoring:
    """A Door. `resource` are the labels of prometheus_target; `began` is time.time() when the counters were 0."""

    name = "cloud_monitoring"

    def __init__(self, client: monitoring_v3.MetricServiceClient, resource: Mapping[str, str], began: float) -> None:
        self._client = client
        self._resource = monitored_resource_pb2.MonitoredResource(type="prometheus_target", labels=resource)
        self._project = f"projects/{resource['project_id']}"
        self._intervals = Intervals(began)
        self._closed = False

    async def write(self, readings: Sequence[Reading], now: float) -> Tally:
        """Each piece is built and sent in a thread, and the loop has its turn between two."""
        tally = Tally()
        requests = self._requests(readings, now, tally)
        while (request := await asyncio.to_thread(next, requests, None)) is not None:
            found, go_on = await asyncio.to_thread(self._send, request)
            tally.add(found)
            if not go_on:  # the next pieces would fare no better, and take as long: the next period supersedes them
                left = [len(each.time_series) for each in await asyncio.to_thread(list, requests)]
                tally.failed[next(iter(found.failed))] += sum(left)
        return tally

    def close(self) -> None:
        self._closed = True
        self._client.transport.close()

    def _requests(self, readings: Sequence[Reading], now: float, tally: Tally) -> Iterator[Any]:
        starts = self._intervals.update(readings, now)
        request = _CreateTimeSeries(name=self._project)
        for reading in readings:
            for number, point in enumerate(reading.points):
                if number % _GIVE_WAY == 0:
                    time.sleep(0)  # the event loop need not wait for the interpreter's lock until its 5 ms are over
                if not _within_limits(point):
                    tally.failed["limits"] += 1
                    continue
                start = starts.get((reading.metric.name, point.labels))
                self._add(request.time_series.add(), reading.metric, point, start, now)
                if len(request.time_series) == MOST_SERIES:
                    yield request
                    request = _CreateTimeSeries(name=self._project)
        if request.time_series:
            yield request

    def _add(self, series: Any, metric: Metric, point: Point, start: float | None, end: float) -> None:
        """`start` is None for a gauge: it has no interval."""
        series.metric.type = f"prometheus.googleapis.com/{metric.name}/{metric.kind}"
        for name, value in zip(metric.label_names, point.labels, strict=True):
            series.metric.labels[name] = value
        series.resource.CopyFrom(self._resource)
        series.metric_kind = _KINDS[metric.kind]
        written = series.points.add()
        _set_time(written.interval.end_time, end)
        if start is not None:
            _set_time(written.interval.start_time, start)
        if isinstance(point.value, Distribution):
            series.value_type = metric_pb2.MetricDescriptor.DISTRIBUTION
            self._distribution(written.value.distribution_value, metric, point.value, start or 0.0, end)
        else:
            series.value_type = metric_pb2.MetricDescriptor.DOUBLE
            written.value.double_value = point.value

    def _distribution(
        self, found: distribution_pb2.Distribution, metric: Metric, value: Distribution, start: float, end: float
    ) -> None:
        found.count = count = sum(value.counts)
        found.mean = mean = value.sum / count if count else 0.0
        found.sum_of_squared_deviation = _deviation(metric.buckets, value.counts, mean)
        found.bucket_options.explicit_buckets.bounds.extend(metric.buckets)
        found.bucket_counts.extend(value.counts)
        for each in value.within(start, end):  # by bucket, so by value: that order is wanted
            exemplar = found.exemplars.add()
            exemplar.value = each.value
            _set_time(exemplar.timestamp, each.time)
            exemplar.attachments.add().Pack(
                _Span(span_name=f"{self._project}/traces/{each.trace_id}/spans/{each.span_id}")
            )

    def _send(self, request: Any) -> tuple[Tally, bool]:
        """What became of the series, and whether to go on with the next ones."""
        count = len(request.time_series)
        wrapped = monitoring_v3.CreateTimeSeriesRequest.wrap(request)
        try:
            try:
                self._client.create_time_series(wrapped, timeout=TIMEOUT, retry=None)
            except _TRANSIENT:
                if self._closed:
                    raise
                self._client.create_time_series(wrapped, timeout=TIMEOUT, retry=None)
        except exceptions.InvalidArgument as error:  # of some series; the others are written, and none is sent again
            wrong = _refused(error, count)
            log.debug("Cloud Monitoring: %s", error)
            return Tally(count - wrong, _failed("invalid", wrong)), True
        except _TRANSIENT:
            return Tally(0, _failed("unavailable", count)), False
        except _DENIED as error:
            log.warning(
                "Cloud Monitoring: %s; the account needs roles/monitoring.metricWriter in %s",
                error.message,
                self._project,
            )
            return Tally(0, _failed("denied", count)), False
        except (exceptions.GoogleAPICallError, ValueError) as error:  # ValueError: the channel was closed
            log.debug("Cloud Monitoring: %s", error)
            return Tally(0, _failed("other", count)), False
        return Tally(count), True


def _failed(why: Why, count: int) -> Any:
    return Tally().failed | {why: count}


def _refused(error: exceptions.InvalidArgument, count: int) -> int:
    """How many points were not written, as the error's CreateTimeSeriesSummary says; without one, all."""
    for detail in error.details or ():
        summary = _Summary()
        if getattr(detail, "type_url", "").endswith("CreateTimeSeriesSummary") and detail.Unpack(summary):
            return int(summary.total_point_count - summary.success_point_count)
    return count


def _within_limits(point: Point) -> bool:
    """A figure that is no number is not taken, either."""
    value = point.value.sum if isinstance(point.value, Distribution) else point.value
    return math.isfinite(value) and all(len(label) <= LONGEST_VALUE for label in point.labels)


def _deviation(bounds: Sequence[float], counts: Sequence[int], mean: float) -> float:
    """Sum of squared deviations, as if each value lay in the middle of its bucket."""
    total, below = 0.0, 0.0
    for bound, count in zip((*bounds, bounds[-1]), counts, strict=True):
        if count:
            total += count * ((below + bound) / 2 - mean) ** 2
        below = bound
    return total


def _set_time(field: Any, seconds: float) -> None:
    whole, nanos = divmod(round(seconds * 1e6), 1_000_000)
    field.seconds, field.nanos = whole, nanos * 1000
