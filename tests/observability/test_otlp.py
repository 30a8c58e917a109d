"""OTLP metrics: against a collector, over both protocols, told where by the standard environment variables."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from observability import catalogue as c
from observability.exporters import otlp
from observability.exporters.otlp import Otlp, Seldom, ShadowedPackage, UnknownProtocol, exporter, resource
from observability.exporters.push import Tally
from observability.registry import Registry
from tests.observability.fake_collector import FakeCollector
from tests.observability.test_cloud_monitoring import BASE, T0, registry_of

PROTOCOLS: dict[str, Callable[[FakeCollector], Any]] = {"http/protobuf": FakeCollector.http, "grpc": FakeCollector.grpc}


def attributes(found: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in found.attributes}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_registry_arrives(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = FakeCollector()
    with PROTOCOLS[protocol](collector) as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=edge,deployment.environment=prod")
        snapshot = registry_of().snapshot()
        door = Otlp(exporter("metric"), resource({"service.instance.id": "gw-0", "k8s.pod.name": ""}), T0)
        assert await door.write(snapshot, T0 + 60) == Tally(sum(len(reading.points) for reading in snapshot))
        door.close()
    assert not collector.wrong
    assert collector.headers[0]["x-tenant"] == "blue"
    described = attributes(collector.received[0].resource_metrics[0].resource)
    assert described["service.name"] == "edge"  # the environment says so
    assert (described["deployment.environment"], described["service.instance.id"]) == ("prod", "gw-0")
    assert "k8s.pod.name" not in described

    total = collector.metrics["penstock_requests_total"]
    (point,) = total.sum.data_points
    assert total.sum.is_monotonic
    assert (total.unit, point.as_double or point.as_int, attributes(point)) == ("{request}", 3, BASE)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (T0 * 1e9, (T0 + 60) * 1e9)
    ttft = collector.metrics["penstock_time_to_first_token_seconds"]
    (point,) = ttft.histogram.data_points
    assert (ttft.unit, point.count, list(point.explicit_bounds)) == ("s", 4, list(c.TTFT_BUCKETS))
    assert not point.HasField("min")
    assert [(each.value if hasattr(each, "value") else each.as_double) for each in point.exemplars] == [0.15, 500.0]
    assert point.exemplars[0].trace_id.hex() == "c" * 32
    assert point.exemplars[0].span_id.hex() == "d" * 16
    assert collector.metrics["penstock_pool_saturation"].gauge.data_points[0].as_double == 0.5


async def test_a_collector_that_refuses_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = FakeCollector()
    collector.status = 400
    registry = Registry()
    with collector.http() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        door = Otlp(exporter("metric"), resource({}), T0)
        registry.gauge(c.POOL_SATURATION).bind(pool="p").set(1)
        tally = await door.write(registry.snapshot(), T0 + 120)
        door.close()
    assert (tally.written, tally.failed) == (0, {"unavailable": 1})


def test_a_protocol_that_nobody_speaks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier-pigeon")
    with pytest.raises(UnknownProtocol, match=r"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=carrier-pigeon: write one of"):
        exporter("trace")


def test_files_of_another_package_in_place_of_the_exporters_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ShadowedPackage, match="pip install --force-reinstall --no-deps opentelemetry-proto==1"):
        exporter("trace")


def test_units_let_a_translator_to_prometheus_keep_the_names() -> None:
    """It appends the unit to the name unless the name has it, and `_ratio` for the unit 1."""
    for metric in c.METRICS.values():
        unit = otlp._UCUM.get(metric.unit, "")
        assert unit != "1"
        word = {"s": "seconds", "By": "bytes"}.get(unit)
        assert word is None or word in metric.name.split("_")


def test_exporters_tell_of_a_collector_that_is_away_once_in_a_while() -> None:
    seldom = Seldom(seconds=300.0)

    def told(name: str, level: int, at: float) -> bool:
        record = logging.LogRecord(name, level, "", 0, "", (), None)
        record.created = at
        return seldom.filter(record)

    assert [told("a", logging.WARNING, at) for at in (0.0, 1.0, 299.0, 300.0, 301.0)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert told("a", logging.ERROR, 1.0)
    assert told("b", logging.WARNING, 1.0)
