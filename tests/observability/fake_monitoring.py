"""google.monitoring.v3.MetricService as far as CreateTimeSeries goes, with the limits of the real one.

What it refuses is in the API's documentation: TimeSeries, TimeInterval, Distribution, and the quotas of Cloud Monitoring. A whole
request is refused for its form; a series for what is in it, and then the others are written. Time is that of the points.
"""

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.api import metric_pb2
from google.cloud.monitoring_v3 import CreateTimeSeriesRequest, CreateTimeSeriesSummary, MetricServiceClient
from google.cloud.monitoring_v3.services.metric_service.transports import MetricServiceGrpcTransport
from google.protobuf import any_pb2, empty_pb2
from google.rpc import status_pb2
from grpc_status import rpc_status

RESOURCE = {"project_id", "location", "cluster", "namespace", "job", "instance"}
KINDS = metric_pb2.MetricDescriptor
FORMS = {
    "counter": (KINDS.CUMULATIVE, KINDS.DOUBLE),
    "gauge": (KINDS.GAUGE, KINDS.DOUBLE),
    "histogram": (KINDS.CUMULATIVE, KINDS.DISTRIBUTION),
}
TYPE = re.compile(r"prometheus\.googleapis\.com/[a-zA-Z_:][a-zA-Z0-9_:]*/(counter|gauge|histogram)")
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
Key = tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class Written:
    start: float | None
    end: float
    total: float
    series: Any


class Refused(Exception):
    """Why a series is not written."""


class FakeMonitoring:
    def __init__(self) -> None:
        self.points: dict[Key, list[Written]] = {}
        self.refused: list[str] = []
        self.requests: list[int] = []  # series in each
        self.fail: list[grpc.StatusCode] = []  # answers to the next requests

    def latest(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], Written]:
        """By type and labels of the metric."""
        return {(kind, labels): found[-1] for (kind, labels, _), found in self.points.items()}

    @contextmanager
    def serving(self) -> Iterator[MetricServiceClient]:
        server = grpc.server(ThreadPoolExecutor(1))
        method = grpc.unary_unary_rpc_method_handler(
            self._create, CreateTimeSeriesRequest.deserialize, empty_pb2.Empty.SerializeToString
        )
        service = grpc.method_handlers_generic_handler(
            "google.monitoring.v3.MetricService", {"CreateTimeSeries": method}
        )
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        try:
            yield MetricServiceClient(transport=MetricServiceGrpcTransport(channel=channel))
        finally:
            channel.close()
            server.stop(None).wait()

    def _create(self, wrapped: CreateTimeSeriesRequest, context: Any) -> empty_pb2.Empty:
        if self.fail:
            context.abort(self.fail.pop(0), "as the test wants")
        request = CreateTimeSeriesRequest.pb(wrapped)
        self.requests.append(len(request.time_series))
        if not 1 <= len(request.time_series) <= 200:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{len(request.time_series)} series, of 200")
        keys = Counter(key_of(series) for series in request.time_series)
        if keys.most_common(1)[0][1] > 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"twice in one request: {keys.most_common(1)}")
        wrong = []
        for series in request.time_series:
            try:
                self._write(request.name, series)
            except Refused as error:
                wrong.append(f"{series.metric.type}{dict(series.metric.labels)}: {error}")
        self.refused += wrong
        if wrong:
            context.abort_with_status(rpc_status.to_status(partial(wrong, len(request.time_series))))
        return empty_pb2.Empty()

    def _write(self, project: str, series: Any) -> None:
        check_form(project, series)
        (point,) = series.points
        start, end = seconds(point.interval, "start_time"), seconds(point.interval, "end_time")
        cumulative = series.metric_kind == KINDS.CUMULATIVE
        expect(end is not None, "no end")
        expect((start is not None and start < end) if cumulative else start in {None, end}, f"from {start} to {end}")
        value = point.value
        for each in value.distribution_value.exemplars:
            expect(start <= each.timestamp.seconds + each.timestamp.nanos / 1e9 <= end, "an exemplar of another time")
        total = value.distribution_value.count if value.HasField("distribution_value") else value.double_value
        history = self.points.setdefault(key_of(series), [])
        if history:
            before = history[-1]
            expect(round(end - before.end, 3) >= 10.0, f"written {end - before.end} s after the last point")
            if cumulative and start != before.start:
                expect(round(start - before.end, 6) >= 0.001, "an interval overlaps the one before")
            elif cumulative:
                expect(total >= before.total, f"{before.total} became {total} without a new start")
        history.append(Written(start, end, total, series))


def key_of(series: Any) -> Key:
    return series.metric.type, *(tuple(sorted(of.labels.items())) for of in (series.metric, series.resource))


def check_form(project: str, series: Any) -> None:
    found = TYPE.fullmatch(series.metric.type)
    expect(found, "the type")
    expect((series.metric_kind, series.value_type) == FORMS[found[1]], "kind and type of the value")
    expect(series.resource.type == "prometheus_target" and set(series.resource.labels) == RESOURCE, "the resource")
    expect(
        project == f"projects/{series.resource.labels['project_id']}" and series.resource.labels["location"], "where"
    )
    labels = series.metric.labels
    expect(len(labels) <= 30 and all(NAME.fullmatch(name) and len(name) <= 100 for name in labels), "labels")
    expect(all(len(value) <= 1024 for value in labels.values()), "a label's value")
    expect(not RESOURCE & set(labels), "a label of the resource")
    expect(len(series.points) == 1, "one point")
    value = series.points[0].value
    expect(value.WhichOneof("value") == ("distribution_value" if found[1] == "histogram" else "double_value"), "value")
    if found[1] == "histogram":
        check_distribution(value.distribution_value)


def check_distribution(value: Any) -> None:
    bounds = list(value.bucket_options.explicit_buckets.bounds)
    expect(1 <= len(bounds) <= 199 and bounds == sorted(set(bounds)), "bounds of 200 buckets, ascending")
    expect(len(value.bucket_counts) <= len(bounds) + 1 and sum(value.bucket_counts) == value.count, "counts")
    expect(value.count or not (value.mean or value.sum_of_squared_deviation), "a mean of nothing")
    exemplars = [each.value for each in value.exemplars]
    expect(exemplars == sorted(exemplars), "order of the exemplars")


def seconds(interval: Any, name: str) -> float | None:
    stamp = getattr(interval, name)
    return stamp.seconds + stamp.nanos / 1e9 if interval.HasField(name) else None


def expect(holds: object, what: str) -> None:
    if not holds:
        raise Refused(what)


def partial(wrong: list[str], count: int) -> status_pb2.Status:
    """As the API tells of series that it has not written."""
    summary = CreateTimeSeriesSummary.pb(CreateTimeSeriesSummary())
    summary.total_point_count, summary.success_point_count = count, count - len(wrong)
    detail = any_pb2.Any()
    detail.Pack(summary)
    return status_pb2.Status(code=grpc.StatusCode.INVALID_ARGUMENT.value[0], message=wrong[0], details=[detail])
