"""A Prometheus asked over HTTP: values now and along a span; what it refuses is told."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from observability.asking import Prometheus, QueryError
from observability.pictures.data import Span
from tests.threaded import threaded


@contextmanager
def server(result: Any, status: int = 200) -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """Answers every query alike; the parameters that it was asked with."""
    asked: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(
                parse_qs(urlsplit(self.path).query) | {"authorization": [self.headers.get("authorization", "")]}
            )
            body = json.dumps({"status": "success", "data": {"result": result}}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with threaded(Handler) as address:
        yield f"http://{address}/", asked


def test_values_now() -> None:
    found = [{"metric": {}, "value": [1.0, "2.5"]}, {"metric": {}, "value": [1.0, "NaN"]}]
    with server(found) as (url, asked):
        values = Prometheus(url, {"authorization": "Bearer t"}).values("up")
    assert values[0] == 2.5
    assert math.isnan(values[1])
    assert asked[0]["query"] == ["up"]
    assert asked[0]["authorization"] == ["Bearer t"]


def test_along_a_span_each_step_has_its_value_or_none() -> None:
    found = [{"metric": {"pool": "a"}, "values": [[1000, "1"], [1020, "+Inf"], [1030, "4"], [1040, "9"]]}]
    with server(found) as (url, asked):
        (series,) = Prometheus(url).along("up", Span(1000, 10, 4))
    assert series.labels == {"pool": "a"}
    assert series.values[0] == 1.0
    assert math.isnan(series.values[1])
    assert series.values[2:] == (math.inf, 4.0)  # what lies beyond the span is left out
    assert {key: asked[0][key] for key in ("start", "end", "step")} == {
        "start": ["1000"],
        "end": ["1030"],
        "step": ["10s"],
    }


def test_a_refusal_is_told() -> None:
    with server([], status=422) as (url, _asked):
        for ask in (lambda at: at.values("up"), lambda at: at.along("up", Span(0, 1, 2))):
            with pytest.raises(QueryError, match="422"):
                ask(Prometheus(url))


def test_a_prometheus_that_is_not_there() -> None:
    with pytest.raises(QueryError, match="refused"):
        Prometheus("http://127.0.0.1:1").values("vector(1)")
