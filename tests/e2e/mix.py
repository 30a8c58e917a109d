"""A mix of traffic that shows everything: a world in which every panel of every board has data.

Two pools; streams, adapters, batch work, mistakes; requests that wait and some that are turned away; edits of the configuration, one
object that carries a mistake; servers that send KV events and tell of their accelerators; a collector that spans and metrics are
written to; an autoscaler that asks; a lease that is led. `python -m tests.e2e.pictures` draws it.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import grpc
import grpc.aio

from observability.autoscaling import keda_messages as m
from observability.exporters import push
from penstock.settings import Autoscaling, Export
from penstock.sim.server import SimServer
from picker.trace import Tracing
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import free_port
from tests.e2e.world import QUICK, World, serving, sim, world
from tests.observability.fake_collector import FakeCollector
from tests.xds_server.kubernetes.fake_api import FakeApi
from xds_server.kubernetes.lease import Leading, Lease

OBJECTIVES = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: narrow}}
"""
BROKEN = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: broken}
spec: {parentRefs: 7}
"""
STRIPPED = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}]"
TELLING = 'penstock.dev/kv-events: auto\n    penstock.dev/accelerator-metrics: "/dcgm"'
PROMPT = "The same long beginning of every prompt, cached after the first. " * 40
PERIOD = 1.0  # seconds between two exports
# Alerts that this world gives reason for: an object carries a mistake; a collector refuses what is sent at first, which a Prometheus
# may have come too late to see.
REASONS = {"PenstockObjectsInvalid", "PenstockExportFails"}

Act = Callable[[World], Awaitable[None]]


def manifests(wide: list[SimServer], narrow: list[SimServer], *more: str) -> str:
    to = route("all", rule("/narrow", to_pool("narrow"), more=STRIPPED), rule("/v1", to_pool("wide")))
    return documents(GATEWAY, pool("wide", wide, more=TELLING), pool("narrow", narrow), OBJECTIVES, to, *more)


_turns = itertools.count()


async def stream(gateway: World) -> None:
    """Prompts and answers of several lengths."""
    turn = next(_turns)
    prompt, tokens = PROMPT + f"And number {turn}. " * (turn % 7 * 5), 10 + turn % 5 * 5
    body = {"model": "base", "prompt": prompt, "max_tokens": tokens, "stream": True}
    await gateway.post("/v1/completions", body)  # it does not ask for usage


async def adapter(gateway: World) -> None:
    await gateway.post("/v1/completions", {"model": "bot", "prompt": PROMPT, "max_tokens": 5})


async def narrow(gateway: World) -> None:
    """More at once than its server has slots."""
    await gateway.post("/narrow/completions", {"model": "narrow", "prompt": PROMPT, "max_tokens": 20})


async def impatient(gateway: World) -> None:
    """Batch work that is turned away rather than wait."""
    headers = {"x_gateway_inference_objective": "batch", "x_llm_d_inference_ttl": "50ms"}
    await gateway.post("/narrow/completions", {"model": "narrow", "prompt": PROMPT, "max_tokens": 20}, **headers)


async def wrong(gateway: World) -> None:
    await gateway.post("/v1/completions", b"this is no JSON")


class Mix(NamedTuple):
    """The world, and what happens in it over and over."""

    world: World
    servers: list[SimServer]  # two of the pool wide, one of narrow
    acts: tuple[Act, ...]


@asynccontextmanager
async def mix(folder: Path) -> AsyncIterator[Mix]:
    """Nothing happens before `traffic(world, *acts)`."""
    slow = replace(QUICK, decode_ms=10)
    wide = [sim(name, "base", loras=("bot",), max_loras=1, kv_events=0) for name in ("a", "b")]
    scaler = f"127.0.0.1:{free_port()}"
    with collector() as endpoint, _environment(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint):
        async with (
            serving(*wide, sim("c", "narrow", latency=slow, max_num_seqs=2)) as servers,
            world(
                folder,
                {"all.yaml": manifests(servers[:2], servers[2:], BROKEN)},
                request_log=str(folder.parent / "log"),
                export=Export(("otlp",), period=PERIOD, tracing=Tracing(0.1)),
                autoscaling=Autoscaling(scaler=scaler),
            ) as gateway,
            grpc.aio.insecure_channel(scaler) as channel,
            leading(gateway),
        ):
            number = itertools.count()

            async def edit(gateway: World) -> None:
                """A change of the configuration."""
                extra = route("extra", rule(f"/extra/{next(number)}", to_pool("wide")))
                gateway.write("all.yaml", manifests(servers[:2], servers[2:], BROKEN, extra))
                await asyncio.sleep(0.5)

            async def scale(_gateway: World) -> None:
                """KEDA asks."""
                ask = channel.unary_unary(
                    f"/{m.SERVICE}/GetMetrics", lambda each: each.SerializeToString(), m.GetMetricsResponse.FromString
                )
                reference = m.ScaledObjectRef(name="wide", namespace="default", scalerMetadata={"pool": "wide"})
                await ask(m.GetMetricsRequest(scaledObjectRef=reference, metricName=""), timeout=10)
                await asyncio.sleep(0.5)

            acts = (stream, stream, adapter, wrong, impatient, edit, scale, *[narrow] * 5)
            yield Mix(gateway, servers, acts)


@contextmanager
def collector() -> Iterator[str]:
    """An OTLP collector's endpoint. It refuses the first two messages, as one that is not ready does."""
    found = FakeCollector()
    take, refused = found.take, itertools.count()

    def reluctant(path: str, data: bytes, headers: dict[str, str]) -> bytes:
        found.status = 400 if next(refused) < 2 else 200
        answer = take(path, data, headers)
        for kept in (found.received, found.raw, found.headers):  # nobody looks, and the pictures show our memory
            kept.clear()
        return answer

    with mock.patch.object(found, "take", reluctant), mock.patch.object(push, "FLOOR", 0.0), found.http() as endpoint:
        yield endpoint


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    with mock.patch.dict("os.environ", variables):
        yield


@asynccontextmanager
async def leading(gateway: World) -> AsyncIterator[None]:
    """The gateway leads, as one of a cluster does: by the real Lease on an API server's fake."""
    fake = FakeApi()
    async with fake.serve() as api:
        lease = Lease(api, "penstock-system", "penstock", "one", Leading(), gateway.gateway.facts.tell)
        task = asyncio.ensure_future(lease.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def traffic(gateway: World, *acts: Act) -> AsyncIterator[None]:
    """Each act over and over, one after the other, while the block lasts."""

    async def repeat(act: Act) -> None:
        while True:
            await act(gateway)
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(repeat(act)) for act in acts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in ended} <= {asyncio.CancelledError}, ended
