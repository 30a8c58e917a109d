"""The Cloud Monitoring door against a MetricService that enforces its limits; time is virtual."""

import asyncio
import math
from collections.abc import Iterator

import grpc
import pytest
from google.cloud.monitoring_v3 import MetricServiceClient, SpanContext
from hypothesis import given, settings, strategies as st

from observability import catalogue as c
from observability.exporters.cloud_monitoring import MOST_SERIES, CloudMonitoring
from observability.exporters.push import Push, Tally
from observability.registry import Registry, Sample
from tests.observability.fake_monitoring import RESOURCE, FakeMonitoring

TARGET = dict.fromkeys(sorted(RESOURCE), "x") | {"project_id": "p", "location": "europe-west4"}
BASE = {"pool": "ns/p", "model_name": "m", "target_model_name": "m-1", "priority": "0"}
T0 = 1_700_000_000.0


@pytest.fixture
def fake() -> FakeMonitoring:
    return FakeMonitoring()


@pytest.fixture
def client(fake: FakeMonitoring) -> Iterator[MetricServiceClient]:
    with fake.serving() as found:
        yield found


def registry_of(endpoints: int = 0) -> Registry:
    registry = Registry()
    registry.counter(c.REQUESTS_TOTAL).bind(**BASE).inc(3)
    histogram = registry.histogram(c.TIME_TO_FIRST_TOKEN_SECONDS).bind(**BASE, streaming="true")
    for seconds in (0.02, 0.15, 0.16, 500.0):
        histogram.observe(seconds)
    histogram.exemplify(500.0, "a" * 32, "b" * 16, T0)
    histogram.exemplify(0.15, "c" * 32, "d" * 16, T0)
    registry.gauge(c.POOL_SATURATION).bind(pool="ns/p").set(0.5)
    for number in range(endpoints):
        registry.counter(c.PICKS_TOTAL).bind(pool="ns/p", endpoint=f"10.0.{number // 250}.{number % 250}:80").inc()
    return registry


async def test_every_series_is_written_once_a_period(fake: FakeMonitoring, client: MetricServiceClient) -> None:
    registry = registry_of(endpoints=450)
    door = CloudMonitoring(client, TARGET, T0)
    for period in range(1, 4):
        snapshot = registry.snapshot()
        tally = await door.write(snapshot, T0 + 60 * period)
        assert tally == Tally(sum(len(reading.points) for reading in snapshot))
    assert not fake.refused
    assert max(fake.requests) == MOST_SERIES
    assert {len(points) for points in fake.points.values()} == {3}
    labels = tuple(sorted(BASE.items()))
    counter = fake.latest()["prometheus.googleapis.com/penstock_requests_total/counter", labels]
    assert (counter.start, counter.end, counter.total) == (T0, T0 + 180, 3.0)
    gauge = fake.latest()["prometheus.googleapis.com/penstock_pool_saturation/gauge", (("pool", "ns/p"),)]
    assert (gauge.start, gauge.total) == (None, 0.5)


async def test_a_distribution_has_buckets_and_exemplars(fake: FakeMonitoring, client: MetricServiceClient) -> None:
    await CloudMonitoring(client, TARGET, T0).write(registry_of().snapshot(), T0 + 60)
    labels = tuple(sorted({**BASE, "streaming": "true"}.items()))
    name = "prometheus.googleapis.com/penstock_time_to_first_token_seconds/histogram"
    found = fake.latest()[name, labels].series.points[0].value.distribution_value
    assert found.count == 4
    assert math.isclose(found.mean, (0.02 + 0.15 + 0.16 + 500.0) / 4)
    bounds = list(found.bucket_options.explicit_buckets.bounds)
    assert bounds == list(c.TTFT_BUCKETS)
    assert found.bucket_counts[bounds.index(0.15)] == 1  # (0.1, 0.15]
    assert found.bucket_counts[len(bounds)] == 1
    assert [each.value for each in found.exemplars] == [0.15, 500.0]
    span = SpanContext.pb(SpanContext())
    assert found.exemplars[0].attachments[0].Unpack(span)
    assert span.span_name == f"projects/p/traces/{'c' * 32}/spans/{'d' * 16}"


async def test_an_exemplar_of_an_earlier_interval_is_not_written(
    fake: FakeMonitoring, client: MetricServiceClient
) -> None:
    await CloudMonitoring(client, TARGET, T0 + 30).write(registry_of().snapshot(), T0 + 60)
    assert not fake.refused
    assert not any(each.series.points[0].value.distribution_value.exemplars for each in fake.latest().values())


async def test_a_restarted_gateway_begins_a_new_interval(fake: FakeMonitoring, client: MetricServiceClient) -> None:
    for began in (T0, T0 + 200.0):
        door = CloudMonitoring(client, TARGET, began)
        for period in (1, 2):
            assert not (await door.write(registry_of().snapshot(), began + 60 * period)).failed
    assert not fake.refused
    starts = [written.start for points in fake.points.values() for written in points if written.start]
    assert set(starts) == {T0, T0 + 200.0}


VALUES = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=6)


@settings(max_examples=20)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_whatever_counters_do_no_point_is_refused(histories: list[list[int | None]]) -> None:
    """Endpoints come, go and come back, their counters fall: the series of a pool's members do all that."""
    with FakeMonitoring().serving() as own, asyncio.Runner() as runner:
        registry, now = Registry(), T0
        value: dict[str, int] = {}
        registry.collect(
            lambda: [
                Sample(c.ENDPOINT_SCRAPE_ERRORS_TOTAL, {"pool": "p", "endpoint": name}, count)
                for name, count in value.items()
            ]
        )
        door = CloudMonitoring(own, TARGET, T0)
        for turn in range(max(map(len, histories))):
            now += 10.0
            present = {str(n): history[turn] for n, history in enumerate(histories) if turn < len(history)}
            value = {name: count for name, count in present.items() if count is not None}
            assert not runner.run(door.write(registry.snapshot(), now)).failed


async def test_what_is_refused_is_counted_and_the_rest_is_written(
    fake: FakeMonitoring, client: MetricServiceClient
) -> None:
    """A second writer with the same labels: the API takes the first of two points within 10 s."""
    registry = registry_of(endpoints=3)
    await CloudMonitoring(client, TARGET, T0).write(registry.snapshot(), T0 + 60)
    registry.counter(c.PICKS_TOTAL).bind(pool="ns/p", endpoint="new:80").inc()
    before = len(fake.requests)
    tally = await CloudMonitoring(client, TARGET, T0).write(registry.snapshot(), T0 + 65)
    assert tally.written == 1
    assert set(tally.failed) == {"invalid"}
    assert len(fake.requests) == before + 1  # not sent again


async def test_a_service_that_is_away_is_asked_once_more_and_then_left_alone(
    fake: FakeMonitoring, client: MetricServiceClient
) -> None:
    registry = registry_of(endpoints=450)
    count = sum(len(reading.points) for reading in registry.snapshot())
    door = CloudMonitoring(client, TARGET, T0)
    fake.fail = [grpc.StatusCode.UNAVAILABLE]
    assert (await door.write(registry.snapshot(), T0 + 60)).written == count
    fake.fail = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED]
    tally = await door.write(registry.snapshot(), T0 + 120)
    assert (tally.written, tally.failed) == (0, {"unavailable": count})
    assert (await door.write(registry.snapshot(), T0 + 180)).written == count  # the next period supersedes
    assert not fake.refused


async def test_an_account_without_rights_is_told_what_it_needs(
    fake: FakeMonitoring, client: MetricServiceClient, caplog: pytest.LogCaptureFixture
) -> None:
    fake.fail = [grpc.StatusCode.PERMISSION_DENIED]
    tally = await CloudMonitoring(client, TARGET, T0).write(registry_of().snapshot(), T0 + 60)
    assert set(tally.failed) == {"denied"}
    assert "roles/monitoring.metricWriter" in caplog.text


async def test_what_is_beyond_the_limits_is_not_sent(fake: FakeMonitoring, client: MetricServiceClient) -> None:
    registry = registry_of()
    registry.gauge(c.POOL_SATURATION).bind(pool="p" * 1025).set(1)
    registry.gauge(c.POOL_SATURATION).bind(pool="nan").set(math.nan)
    tally = await CloudMonitoring(client, TARGET, T0).write(registry.snapshot(), T0 + 60)
    assert tally.failed == {"limits": 2}
    assert not fake.refused


async def test_the_loop_has_its_turns_while_pieces_are_written(
    fake: FakeMonitoring, client: MetricServiceClient
) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    await CloudMonitoring(client, TARGET, T0).write(registry_of(endpoints=900).snapshot(), T0 + 60)
    other.cancel()
    assert turns > len(fake.requests)


async def test_the_door_tells_of_itself(fake: FakeMonitoring, client: MetricServiceClient) -> None:
    registry, now = registry_of(), T0
    push = Push(CloudMonitoring(client, TARGET, T0), registry, clock=lambda: now)
    now += 60
    assert await push.turn()
    now += 60
    assert await push.turn()
    labels = (("door", "cloud_monitoring"), ("signal", "metrics"))
    assert fake.latest()["prometheus.googleapis.com/penstock_exported_total/counter", labels].total > 0
    assert not fake.refused


def test_every_metric_fits() -> None:
    for metric in c.METRICS.values():
        assert len(metric.labels) <= 30
        assert not RESOURCE & set(metric.label_names), f"{metric.name} has a label of the resource"
        assert len(metric.buckets) < 200
