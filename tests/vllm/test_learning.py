"""What the picker learns of speeds and slots from ordinary traffic, beside what a stopwatch at the server says in the same run.

The machine has other things to do, so the bounds are of orders of magnitude: they find figures of the wrong unit or of the wrong
thing, not those that are a third off.
"""

import time
from statistics import median
from typing import Any

import pytest

from picker.latency import Speed
from tests.e2e.waiting import until
from tests.e2e.world import World
from tests.vllm.rig import POOL, host
from tests.vllm.server import BASE, Server
from tests.vllm.text import text
from tests.vllm.traffic import sent

pytestmark = pytest.mark.envoy
LENGTHS = (50, 400, 1000, 2000)  # words


async def test_the_predicted_ttft_is_the_one_that_a_stopwatch_shows(
    gateway: World, servers: list[Server], figures: dict[str, Any]
) -> None:
    """Nothing is cached and nobody else is there: base and prefill speed alone."""
    measured: dict[int, list[float]] = {length: [] for length in LENGTHS}
    long: list[list[float]] = [[] for _ in servers]
    async with gateway.client() as client:
        for turn in range(10):
            for length in LENGTHS:
                await sent(client, [text(("learn", turn, length), length)], at_once=1, tokens=2)
                number = turn % len(servers)
                measured[length].append(await stopwatch(gateway, text(("watch", turn, length), length), number))
            long[number].append(measured[length][-1])
    await gateway.settled()
    loads = gateway.gateway.signals.loads(POOL)
    for length, found in measured.items():
        tokens = len(text(("learn", 0, length), length)) / 4
        learned = median(load.speed.prefill(tokens, 0.0, time.monotonic()) for load in loads.values())
        figures[f"TTFT of {tokens:.0f} tokens, ms: learned, measured"] = (
            f"{1000 * learned:.1f}, {1000 * median(found):.1f}"
        )
        assert 1 / 3 < learned / median(found) < 3
    now = time.monotonic()
    figures["the longest on each server, ms: learned, measured, requests"] = ", ".join(
        f"{1000 * load.speed.prefill(tokens, 0.0, now):.0f} {1000 * median(each):.0f} {load.speed.seen:.0f}"
        for load, each in zip((loads[one.address] for one in servers), long, strict=True)
    )


async def stopwatch(gateway: World, prompt: str, number: int) -> float:
    """Seconds to the first byte of a stream, past the picker."""
    body = {"model": BASE, "prompt": prompt, "max_tokens": 2, "stream": True}
    began = time.perf_counter()
    async with gateway.session.post(
        gateway.url("/v1/completions"), json=body, headers={"host": host(number)}
    ) as answer:
        await answer.content.readany()
        return time.perf_counter() - began


async def test_the_slots_are_those_that_the_server_was_given(
    gateway: World, servers: list[Server], figures: dict[str, Any]
) -> None:
    """Three times as many requests as both have slots; nobody told the picker --max-num-seqs."""
    many = 6 * servers[0].options.slots

    def speeds() -> dict[str, Speed]:
        return {name: load.speed for name, load in gateway.gateway.signals.loads(POOL).items()}

    async with gateway.client() as client:
        await sent(client, (text(("slots", each), 60) for each in range(3 * many)), at_once=many, tokens=96)
    figures["slots learned"] = {name: round(speed.slots, 1) for name, speed in speeds().items()}
    figures["slots given"] = servers[0].options.slots
    await until(lambda: all(speed.slots < float("inf") for speed in speeds().values()), "slots to be known")
    for speed in speeds().values():
        assert servers[0].options.slots / 2 < speed.slots < servers[0].options.slots * 2
