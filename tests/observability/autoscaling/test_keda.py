"""KEDA's external scaler over real gRPC, asked as KEDA's operator asks: pkg/scalers/external_scaler.go."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from observability.autoscaling import keda_messages as m
from observability.autoscaling.keda import BadTrigger, Scaler, trigger
from observability.autoscaling.signals import Readings, Unavailable, UnknownPool, read
from picker.demand import Demand
from tests.picker.test_demand import demand, figures

IDLE, BUSY = demand(figures()), demand(figures(waiting=4.0, running=1.0), queued=2)
METHODS = {
    "IsActive": m.IsActiveResponse,
    "StreamIsActive": m.IsActiveResponse,
    "GetMetricSpec": m.GetMetricSpecResponse,
    "StreamMetricSpec": m.GetMetricSpecResponse,
    "GetMetrics": m.GetMetricsResponse,
}


class Pool:
    """What the gateway knows of ns/vllm; `set` wakes the streams at once."""

    def __init__(self, found: Demand | Exception) -> None:
        self.found = found
        self.changed = asyncio.Event()
        self.labels: Mapping[str, str] = {}

    def set(self, found: Demand | Exception) -> None:
        self.found = found
        self.changed.set()

    async def read(self, pool: str, labels: Mapping[str, str]) -> Readings:
        self.labels = labels
        if pool != "ns/vllm":
            raise UnknownPool(f"there is no InferencePool {pool}")
        if isinstance(self.found, Exception):
            raise self.found
        return read(self.found)

    async def woken(self, _pool: str, _seconds: float) -> None:
        await self.changed.wait()
        self.changed.clear()


class Operator:
    """KEDA, as far as an external scaler sees it."""

    def __init__(self, channel: grpc.aio.Channel, **metadata: str) -> None:
        self._channel = channel
        self.reference = m.ScaledObjectRef(
            name="vllm", namespace="ns", scalerMetadata={"scalerAddress": "here:1", "pool": "vllm"} | metadata
        )

    async def call(self, method: str, request: Any = None) -> Any:
        call = self._channel.unary_unary(
            f"/{m.SERVICE}/{method}", lambda each: each.SerializeToString(), METHODS[method].FromString
        )
        return await call(request or self.reference, timeout=10)

    def stream(self, method: str) -> Any:
        call = self._channel.unary_stream(
            f"/{m.SERVICE}/{method}", lambda each: each.SerializeToString(), METHODS[method].FromString
        )
        return call(self.reference, timeout=30)

    async def metrics(self) -> float:
        """GetMetricSpec when the ScaledObject is made, then GetMetrics with the name that it gave."""
        (spec,) = (await self.call("GetMetricSpec")).metricSpecs
        request = m.GetMetricsRequest(scaledObjectRef=self.reference, metricName=spec.metricName)
        (value,) = (await self.call("GetMetrics", request)).metricValues
        assert value.metricName == spec.metricName
        return float(value.metricValueFloat)

    async def refused(self, method: str) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            request = m.GetMetricsRequest(scaledObjectRef=self.reference) if method == "GetMetrics" else None
            await self.call(method, request)
        return error.value.code(), error.value.details() or ""


@asynccontextmanager
async def operator(pool: Pool, counted: list[str] | None = None, /, **metadata: str) -> AsyncIterator[Operator]:
    server = grpc.aio.server()
    scaler = Scaler(pool.read, pool.woken, [].append if counted is None else counted.append)
    server.add_generic_rpc_handlers((scaler.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Operator(channel, **metadata)
    finally:
        await server.stop(None)


async def test_the_target_and_the_figure() -> None:
    counted: list[str] = []
    async with operator(Pool(BUSY), counted, signal="queue", target="2.5") as keda:
        (spec,) = (await keda.call("GetMetricSpec")).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat, spec.targetSize) == ("queue", 2.5, 2)
        assert await keda.metrics() == 6
    assert counted == ["ok"]


async def test_without_a_signal_it_is_our_own_formula_and_without_a_target_the_pools() -> None:
    async with operator(Pool(BUSY)) as keda:
        (spec,) = (await keda.call("GetMetricSpec")).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat) == ("desired-replicas", 1.0)
        assert await keda.metrics() == 2
    slow = demand(figures(), ttft_objective=4.0)
    async with operator(Pool(slow), signal="token-backlog-seconds", labels="role=decode") as keda:
        assert (await keda.call("GetMetricSpec")).metricSpecs[0].targetSizeFloat == 2.0
        await keda.metrics()


async def test_labels_narrow_the_pool() -> None:
    pool = Pool(BUSY)
    async with operator(pool, labels="llm-d.ai/role=decode,x=y") as keda:
        await keda.metrics()
    assert pool.labels == {"llm-d.ai/role": "decode", "x": "y"}


@pytest.mark.parametrize("method", ["IsActive", "GetMetrics"])
async def test_what_is_not_known_is_an_error_and_never_zero(method: str) -> None:
    counted: list[str] = []
    async with operator(Pool(Unavailable("replica 10.0.0.7:9090 is away")), counted) as keda:
        assert await keda.refused(method) == (grpc.StatusCode.UNAVAILABLE, "replica 10.0.0.7:9090 is away")
    assert counted == ["unknown"]


async def test_stale_figures_are_unavailable() -> None:
    async with operator(Pool(demand(figures(known=False, age=60.0)))) as keda:
        code, details = await keda.refused("GetMetrics")
        assert code == grpc.StatusCode.UNAVAILABLE and "no fresh figures" in details


async def test_a_pool_that_does_not_exist_is_not_found_but_has_a_target() -> None:
    async with operator(Pool(BUSY), pool="other") as keda:
        assert (await keda.refused("IsActive"))[0] == grpc.StatusCode.NOT_FOUND
        assert (await keda.call("GetMetricSpec")).metricSpecs[0].targetSizeFloat == 1.0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"pool": ""}, "metadata.pool"),
        ({"signal": "cpu"}, "metadata.signal: 'cpu' is none; write one of desired-replicas"),
        ({"target": "many"}, "metadata.target: 'many' is no number"),
        ({"target": "0"}, "metadata.target: '0' must be above 0"),
        ({"target": "nan"}, "must be above 0"),
        ({"labels": "a!=b"}, "metadata.labels"),
    ],
)
async def test_a_trigger_that_makes_no_sense_is_told_so(metadata: dict[str, str], message: str) -> None:
    async with operator(Pool(BUSY), **metadata) as keda:
        for method in METHODS.keys() - {"StreamIsActive", "StreamMetricSpec"}:
            code, details = await keda.refused(method)
            assert code == grpc.StatusCode.INVALID_ARGUMENT and message in details and "ns/vllm" in details
    with pytest.raises(BadTrigger):
        trigger(keda.reference)


async def test_a_pool_at_zero_is_active_as_soon_as_a_request_waits() -> None:
    pool = Pool(demand())
    async with operator(pool) as keda:
        stream = keda.stream("StreamIsActive")
        assert (await stream.read()).result is False
        pool.set(demand(queued=1))
        assert (await stream.read()).result is True
        pool.set(Unavailable("stale"))  # nothing is said of what is not known
        await until_taken(pool)
        pool.set(IDLE)
        assert (await stream.read()).result is False


async def until_taken(pool: Pool) -> None:
    async with asyncio.timeout(10):
        while pool.changed.is_set():
            await asyncio.sleep(0.001)


async def test_is_active_while_anybody_waits_or_is_served() -> None:
    for found, active in ((demand(), False), (IDLE, False), (BUSY, True), (demand(queued=1), True)):
        async with operator(Pool(found)) as keda:
            assert (await keda.call("IsActive")).result is active


async def test_servers_that_cannot_be_seen_are_not_idle() -> None:
    async with operator(Pool(demand(figures(known=False, age=60.0)))) as keda:
        assert (await keda.refused("IsActive"))[0] == grpc.StatusCode.UNAVAILABLE
    async with operator(Pool(demand(figures(known=False, age=60.0, inflight=1)))) as keda:
        assert (await keda.call("IsActive")).result is True


async def test_a_target_that_changes_is_told() -> None:
    pool = Pool(demand(figures(), ttft_objective=1.0))
    async with operator(pool, signal="token-backlog-seconds") as keda:
        stream = keda.stream("StreamMetricSpec")
        assert (await stream.read()).metricSpecs[0].targetSizeFloat == 0.5
        pool.set(demand(figures(), ttft_objective=2.0))
        assert (await stream.read()).metricSpecs[0].targetSizeFloat == 1.0
        stream.cancel()
        with suppress(asyncio.CancelledError):
            await stream.read()
