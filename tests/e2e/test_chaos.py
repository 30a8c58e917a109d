"""Everything at once: routes and pools come and go, servers fail, clients leave. A route that nobody touches serves every request,
each decision has one outcome, and nothing is left behind.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import eventually, until
from tests.e2e.world import QUICK, World, serving, sim, world

pytestmark = pytest.mark.envoy
SECONDS = 6.0
STRIPPED = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}]"
BATCH = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: a}}
"""
PATHS = ("/a", "/b", "/ab")
# Between two edits: also about the second after which Envoy loses what is no longer used.
GAPS = (0.02, 0.1, 0.3, 0.97, 1.0, 1.03)


def manifests(servers: list[SimServer], routes: tuple[str, ...], more: tuple[str, ...]) -> str:
    backends = {"/a": [to_pool("a")], "/b": [to_pool("b")], "/ab": [to_pool("a", 1), to_pool("b", 2)]}
    edited = [route("edited", *(rule(path, *backends[path], more=STRIPPED) for path in routes))] if routes else []
    stable = route("stable", rule("/v1", to_pool("stable")))
    return documents(GATEWAY, pool("stable", servers[:1]), stable, *edited, *more)


def whole(servers: list[SimServer]) -> str:
    return manifests(servers, PATHS, (pool("a", servers[1:4]), pool("b", servers[3:])))


def some(servers: list[SimServer], dice: random.Random) -> str:
    """Parts of the whole, and now and then an editor's half-written file."""
    pools = [
        pool(name, [each for each in found if dice.random() < 0.7])
        for name, found in (("a", servers[1:4]), ("b", servers[3:]))
        if dice.random() < 0.8
    ]
    extra = [text for text, chance in ((BATCH, 0.6), ("kind: [", 0.05)) if dice.random() < chance]
    return manifests(servers, tuple(path for path in PATHS if dice.random() < 0.7), (*pools, *extra))


async def ask(gateway: World, path: str, dice: random.Random, **headers: str) -> int:
    body = {"model": "base", "prompt": "word " * dice.randint(1, 300), "max_tokens": dice.randint(1, 12)}
    answer = await gateway.post(f"{path}/completions", body | {"stream": dice.random() < 0.5}, **headers)
    return answer.status


async def wild(gateway: World, dice: random.Random) -> None:
    """Batch and patience of all lengths; some ask for a failure, and many leave."""
    headers = {}
    if dice.random() < 0.3:
        headers["x_gateway_inference_objective"] = "batch"
    if dice.random() < 0.2:
        headers["x_llm_d_inference_ttl"] = dice.choice(("20ms", "200ms"))
    if dice.random() < 0.1:
        headers["x_sim_fail"] = dice.choice(("500", "503", "reset", "abort:2"))
    patience = dice.choice((0.003, 0.01, 0.03, 0.1)) if dice.random() < 0.4 else 10.0
    with suppress(TimeoutError, aiohttp.ClientError):
        await asyncio.wait_for(ask(gateway, dice.choice(PATHS), dice, **headers), patience)


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost_and_nothing_stays(seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(seed)
    steady: Counter[int] = Counter()
    settings = [sim(f"sim-{n}", "base", latency=replace(QUICK, decode_ms=3), max_num_seqs=3) for n in range(5)]
    async with (
        serving(*settings) as servers,
        world(tmp_path, {"all.yaml": whole(servers)}, picker_timeout=2.0) as gateway,
    ):
        over = asyncio.get_running_loop().time() + SECONDS

        async def repeat(act: Callable[[], Awaitable[None]]) -> None:
            while asyncio.get_running_loop().time() < over:
                await act()

        async def ordinary() -> None:
            steady[await ask(gateway, "/v1", dice)] += 1

        async def edit() -> None:
            gateway.write("all.yaml", some(servers, dice))
            await asyncio.sleep(dice.choice(GAPS))

        async def fail() -> None:
            kind, rate = dice.choice(("500", "503", "reset")), dice.choice((0.0, 0.3, 1.0))
            dice.choice(servers[1:]).faults.change({"kind": kind, "rate": rate})
            await asyncio.sleep(dice.random())

        acts = (*[ordinary] * 3, *[lambda: wild(gateway, dice)] * 12, edit, fail)
        await asyncio.gather(*map(repeat, acts))
        assert steady.total() > 0
        assert set(steady) == {200}

        await gateway.settled()
        ids = Counter(found.id for found in gateway.outcomes)
        assert [id_ for id_, count in ids.items() if count > 1] == []
        await until(lambda: not gateway.gateway.picker.waits, "nobody to wait")
        assert len(gateway.gateway.signals.inflight) == 0

        for server in servers:
            server.faults.change({"rate": 0.0})
        gateway.write("all.yaml", whole(servers))

        async def all_serve() -> bool:
            return {await ask(gateway, path, dice) for path in ("/v1", *PATHS)} == {200}

        await eventually(all_serve, "every route to serve")
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []
