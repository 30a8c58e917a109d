"""An OTLP collector, over HTTP and over gRPC: keeps what it is sent, and refuses what the protocol forbids."""

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from tests.threaded import threaded

_KINDS = {
    "/v1/metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
    "/v1/traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
}
_SERVICES = {
    "/v1/metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "/v1/traces": "opentelemetry.proto.collector.trace.v1.TraceService",
}


class FakeCollector:
    def __init__(self) -> None:
        self.received: list[Any] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.wrong: list[str] = []
        self.status = 200

    @property
    def metrics(self) -> dict[str, Any]:
        """Of the last message, by name."""
        last = next(each for each in reversed(self.received) if hasattr(each, "resource_metrics"))
        return {found.name: found for found in last.resource_metrics[0].scope_metrics[0].metrics}

    @property
    def spans(self) -> list[Any]:
        found = [each for each in self.received if hasattr(each, "resource_spans")]
        return [span for each in found for of in each.resource_spans for s in of.scope_spans for span in s.spans]

    def take(self, path: str, data: bytes, headers: dict[str, str]) -> bytes:
        request, response = _KINDS[path]
        found = request.FromString(data)
        self.wrong += list(check_metrics(found) if path == "/v1/metrics" else check_spans(found))
        self.received.append(found)
        self.raw.append(data)
        self.headers.append(headers)
        return response().SerializeToString()

    @contextmanager
    def http(self) -> Iterator[str]:
        """Gives the endpoint."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                answer = collector.take(self.path, data, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        with threaded(Handler) as address:
            yield f"http://{address}"

    @contextmanager
    def grpc(self) -> Iterator[str]:
        """Gives the endpoint."""
        server = grpc.server(ThreadPoolExecutor(2))
        for path, name in _SERVICES.items():

            def export(data: bytes, context: Any, path: str = path) -> bytes:
                return self.take(path, data, {str(k): str(v) for k, v in context.invocation_metadata()})

            method = grpc.unary_unary_rpc_method_handler(export)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop(None).wait()


def check_metrics(request: Any) -> Iterator[str]:
    seen = set()
    for metric in request.resource_metrics[0].scope_metrics[0].metrics:
        kind = metric.WhichOneof("data")
        data = getattr(metric, kind)
        if kind != "gauge" and data.aggregation_temporality != 2:
            yield f"{metric.name}: not cumulative"
        for point in data.data_points:
            key = metric.name, tuple(sorted((each.key, each.value.string_value) for each in point.attributes))
            if key in seen:
                yield f"{key} twice"
            seen.add(key)
            if kind != "gauge" and not 0 < point.start_time_unix_nano < point.time_unix_nano:
                yield f"{key}: from {point.start_time_unix_nano} to {point.time_unix_nano}"
            if kind == "histogram" and (
                len(point.bucket_counts) != len(point.explicit_bounds) + 1 or sum(point.bucket_counts) != point.count
            ):
                yield f"{key}: buckets"


def check_spans(request: Any) -> Iterator[str]:
    for resource in request.resource_spans:
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            if len(span.trace_id) != 16 or len(span.span_id) != 8 or not any(span.trace_id) or not any(span.span_id):
                yield f"{span.name}: ids"
            if len(span.parent_span_id) not in {0, 8}:
                yield f"{span.name}: parent"
            if not 0 < span.start_time_unix_nano <= span.end_time_unix_nano:
                yield f"{span.name}: times"
