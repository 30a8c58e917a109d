"""The scenario of examples/lora: adapters of one base model share a pool of servers with one slot for an adapter each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.sim.server import SimServer
from tests.e2e.waiting import until
from tests.e2e.world import QUICK, World, serving, sim, world

pytestmark = pytest.mark.envoy
EXAMPLE = Path(__file__).parents[2] / "examples" / "lora"
PODS = ("127.0.21.1", "127.0.21.2", "127.0.21.3")
BOTS = ("english-bot", "spanish-bot")


@pytest.fixture
async def servers() -> AsyncIterator[list[SimServer]]:
    each = [
        sim(f"llm-{pod}", "llm-base", host=pod, port=8000, loras=BOTS, max_loras=1, latency=QUICK, max_num_seqs=8)
        for pod in PODS
    ]
    async with serving(*each) as found:
        yield found


@pytest.fixture
async def gateway(servers: list[SimServer]) -> AsyncIterator[World]:
    async with world(EXAMPLE) as found:
        yield found


async def ask(gateway: World, model: str, tokens: int = 2) -> str:
    answer = await gateway.post("/v1/completions", {"model": model, "prompt": "hi", "max_tokens": tokens})
    assert answer.status == 200, answer.body
    return answer.server


async def test_a_bot_goes_where_its_adapter_is_active_or_there_is_room(gateway: World) -> None:
    """A long answer keeps each adapter active on one server: no request of the other bot may go there and wait."""
    async with gateway.client() as client:
        opened: dict[str, Any] = {}
        for bot in BOTS:
            await gateway_sees_running(gateway, len(opened))
            opened[bot] = await client.completions.create(model=bot, prompt="x", max_tokens=20_000, stream=True)
        await gateway_sees_running(gateway, len(BOTS))
        homes = {bot: stream.response.headers["x-sim-server"] for bot, stream in opened.items()}
        assert len(set(homes.values())) == 2  # one slot a server: the second bot went where there was room
        for bot, other in zip(BOTS, reversed(BOTS), strict=True):
            found = Counter([await ask(gateway, bot) for _ in range(8)])
            assert found[homes[other]] == 0 and found[homes[bot]] > 0, found
        for stream in opened.values():
            await stream.close()


async def gateway_sees_running(gateway: World, count: int) -> None:
    """Until the scrapes show adapters on so many servers."""

    def seen() -> bool:
        loads = gateway.gateway.signals.loads("default/llm-base")
        return sum(bool(load.loras) for load in loads.values()) == count and all(
            load.scraped > 0 for load in loads.values()
        )

    await until(seen, f"{count} servers with an adapter")


async def test_the_base_model_is_served_too(gateway: World) -> None:
    assert await asyncio.gather(*(ask(gateway, "llm-base") for _ in range(6)))


async def test_an_adapter_that_no_server_has_is_the_servers_404(gateway: World) -> None:
    answer = await gateway.post("/v1/completions", {"model": "klingon-bot", "prompt": "hi"})
    assert answer.status == 404 and b"klingon-bot" in answer.body
    assert (await gateway.outcome()).reason in {"upstream_4xx", "model_not_found"}
