"""The same requests, through the real Envoy, by every door: the doors agree."""

import re
from pathlib import Path

import pytest

from observability.exporters import push
from penstock.settings import Export
from picker.trace import Tracing
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import serving, sim, world
from tests.observability.fake_collector import FakeCollector
from tests.observability.fake_monitoring import FakeMonitoring

pytestmark = pytest.mark.envoy
REQUESTS, TOKENS = 5, 3


async def test_every_door_tells_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the doors write at the end is what /metrics last said."""
    monkeypatch.setattr(push, "FLOOR", 0.0)  # the test ends sooner than the first period
    collector, monitoring = FakeCollector(), FakeMonitoring()
    doors = Export(("cloud-monitoring", "otlp"), tracing=Tracing(1.0), project="p", location="l", cluster="c")
    with collector.http() as endpoint, monitoring.serving() as client:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setattr("google.cloud.monitoring_v3.MetricServiceClient", lambda: client)
        async with serving(sim("a")) as servers:
            text = documents(GATEWAY, pool("base", servers), route("all", rule("/v1", to_pool("base"))))
            async with world(tmp_path, {"all.yaml": text}, export=doors) as gateway:
                for _ in range(REQUESTS):
                    await gateway.post("/v1/completions", {"model": "base", "prompt": "p", "max_tokens": TOKENS})
                await gateway.settled()
                page = await gateway.metrics()
    assert not monitoring.refused
    assert not collector.wrong

    labels = {"pool": "default/base", "model_name": "base", "target_model_name": "base", "priority": "0"}
    tokens = {**labels, "type": "output"}
    written = {
        (name.rpartition("/")[0].rpartition("/")[2], found): w.total for (name, found), w in monitoring.latest().items()
    }
    scraped = {
        (name, frozenset(re.findall(r'(\w+)="([^"]*)"', found))): float(value)
        for name, found, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", page, re.MULTILINE)
    }
    sent = {
        (name, frozenset((each.key, each.value.string_value) for each in point.attributes)): point.as_double
        or point.as_int
        for name, metric in collector.metrics.items()
        if metric.HasField("sum")
        for point in metric.sum.data_points
    }
    for name, found, total in (
        ("penstock_requests_total", labels, REQUESTS),
        ("penstock_tokens_total", tokens, REQUESTS * TOKENS),
    ):
        assert scraped[name, frozenset(found.items())] == total
        assert sent[name, frozenset(found.items())] == total
        assert written[name, tuple(sorted(found.items()))] == total
    assert sum(span.name == "gateway.request" for span in collector.spans) == REQUESTS
