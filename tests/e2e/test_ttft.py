"""The gateway's time to first token lies between the server's own and the client's, stream by stream, however busy the machine is.

How close the gateway's is to the client's: benchmarks/ttft.py.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import QUICK, World, serving, sim, world

pytestmark = pytest.mark.envoy
OVERHEAD = 0.05  # seconds that the server takes for the first token
EARLY = 0.002  # a timer of the server may fire so much before its time, and a clock be read so much late


async def stream(gateway: World, number: int) -> float:
    """Seconds until the client has the first bytes of the body."""
    body = {"model": "base", "prompt": f"{number} go on", "max_tokens": 3, "stream": True}
    start = time.monotonic()
    headers = {"user-agent": f"stream/{number}"}
    async with gateway.session.post(gateway.url("/v1/completions"), json=body, headers=headers) as answer:
        assert answer.status == 200
        await answer.content.readany()
        seconds = time.monotonic() - start
        await answer.read()
    return seconds


async def test_ttft_of_the_gateway_is_between_the_servers_and_the_clients(tmp_path: Path) -> None:
    slow = replace(QUICK, overhead_ms=OVERHEAD * 1e3)
    async with serving(sim("a", latency=slow), sim("b", latency=slow)) as servers:
        text = documents(GATEWAY, pool("base", servers), route("all", rule("/v1", to_pool("base"))))
        async with world(tmp_path, {"all.yaml": text}) as gateway:
            seen = [await stream(gateway, number) for number in range(10)]
            seen += await asyncio.gather(*(stream(gateway, number) for number in range(10, 30)))
            await gateway.settled()
    told = {outcome.user_agent: outcome.ttft for outcome in gateway.outcomes}
    for number, client in enumerate(seen):
        ttft = told[f"stream/{number}"]
        assert ttft is not None
        assert OVERHEAD - EARLY <= ttft <= client + EARLY
