"""Autoscaling of a whole gateway: a request waits for a pool at zero, KEDA is told, a server comes, the request is served."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from observability.autoscaling import keda_messages as m
from observability.autoscaling.signals import BACKLOG, DESIRED, INFLIGHT, QUEUE
from penstock.settings import Autoscaling
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import eventually, free_port, until
from tests.e2e.world import World, serving, sim, streaming, world

pytestmark = pytest.mark.envoy
BODY = {"model": "base", "prompt": "hello", "max_tokens": 1}
ROUTE = route("all", rule("/v1", to_pool("base")))


async def explained(gateway: World) -> dict[str, object]:
    url = f"http://{gateway.gateway.settings.telemetry}/autoscale?pool=default/base"
    async with gateway.session.get(url) as answer:
        found: dict[str, object] = await answer.json()
        return found


async def test_a_request_that_waits_brings_the_first_server(tmp_path: Path) -> None:
    scaler = f"127.0.0.1:{free_port()}"
    text = documents(GATEWAY, pool("base", [], mode="FailClose"), ROUTE)
    async with (
        serving(sim("a")) as (server,),
        world(tmp_path, {"all.yaml": text}, autoscaling=Autoscaling(scaler=scaler)) as gateway,
        grpc.aio.insecure_channel(scaler) as channel,
    ):
        call = channel.unary_stream(
            f"/{m.SERVICE}/StreamIsActive", lambda each: each.SerializeToString(), m.IsActiveResponse.FromString
        )
        reference = m.ScaledObjectRef(name="base", namespace="default", scalerMetadata={"pool": "base"})
        stream = call(reference, timeout=30)
        assert (await stream.read()).result is False
        asked = asyncio.ensure_future(gateway.post("/v1/completions", BODY))
        assert (await stream.read()).result is True  # KEDA would now make the first pod
        readings = await gateway.gateway.autoscaling.read("default/base")
        assert [readings.value(signal) for signal in (DESIRED, QUEUE, INFLIGHT)] == [1, 1, 1]
        gateway.write("all.yaml", documents(GATEWAY, pool("base", [server], mode="FailClose"), ROUTE))
        assert (await asked).status == 200
        assert (await stream.read()).result is False


async def test_what_was_learned_of_a_server_makes_the_backlog(tmp_path: Path) -> None:
    """Unknown while nothing was learned and something waits; then seconds, also in /metrics and /autoscale."""
    text = documents(GATEWAY, pool("base", ["127.0.0.1:1"]), ROUTE)
    async with (
        serving(sim("a", max_num_seqs=1)) as (server,),
        world(tmp_path, {"all.yaml": text.replace("127.0.0.1:1", server.address)}) as gateway,
        gateway.client() as client,
    ):

        async def scraped() -> bool:
            return (await explained(gateway))["age_seconds"] is not None

        await eventually(scraped, "the first scrape")
        for _ in range(3):
            async for _ in await streaming(client, tokens=3):
                pass
        await gateway.settled()
        ends = await streaming(client)
        queue = asyncio.ensure_future(streaming(client))

        async def waits() -> bool:
            readings = await gateway.gateway.autoscaling.read("default/base")
            return readings.value(QUEUE) == 1 and readings.value(BACKLOG) > 0

        await eventually(waits, "a backlog")
        assert "penstock_pool_token_backlog_seconds{" in await gateway.metrics()
        await ends.close()
        await (await queue).close()
        await until(lambda: gateway.gateway.autoscaling.here("default/base").active is False, "an idle pool")


async def test_accelerators_are_read_beside_the_servers(tmp_path: Path) -> None:
    annotated = pool("base", ["127.0.0.1:1"]).replace(
        "  annotations:", '  annotations:\n    penstock.dev/accelerator-metrics: "/dcgm"'
    )
    async with serving(sim("a")) as (server,):
        text = documents(GATEWAY, annotated.replace("127.0.0.1:1", server.address), ROUTE)
        async with world(tmp_path, {"all.yaml": text}) as gateway:

            async def told() -> bool:
                return "penstock_endpoint_accelerator_utilization{" in await gateway.metrics()

            await eventually(told, "the accelerator's figure")
