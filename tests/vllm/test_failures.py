"""Servers that die or hang in the middle of traffic: what clients see, and how soon nobody is sent there."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from picker.facts import Outcome
from tests.e2e.waiting import until
from tests.e2e.world import World
from tests.vllm.rig import POOL
from tests.vllm.server import BASE, Server
from tests.vllm.text import text

pytestmark = pytest.mark.envoy


@asynccontextmanager
async def traffic(gateway: World, at_once: int = 4, tokens: int = 8) -> AsyncIterator[list[tuple[float, Any]]]:
    """Requests one after the other by so many clients, while the block lasts: (when it was sent, how it ended)."""
    found: list[tuple[float, Any]] = []
    over = asyncio.Event()

    async def client(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            body = {"model": BASE, "prompt": text((number, count), 60), "max_tokens": tokens, "stream": True}
            began = time.monotonic()
            try:
                answer: Any = await gateway.post("/v1/completions", body)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the test counts it
                answer = error
            found.append((began, answer))

    tasks = [asyncio.create_task(client(number)) for number in range(at_once)]
    try:
        yield found
    finally:
        over.set()
        await asyncio.wait(tasks, timeout=30)
        for each in tasks:
            each.cancel()


def to(server: Server, since: float) -> Callable[[Outcome], bool]:
    return lambda outcome: outcome.endpoint == server.address and outcome.time >= since


async def test_a_server_that_is_killed_takes_nobody_with_it_who_had_not_begun(
    gateway: World, servers: list[Server], figures: dict[str, Any]
) -> None:
    """SIGKILL in mid-run. Only streams that it had begun can break: the others go to the next of the decision's list."""
    victim, _ = servers
    async with traffic(gateway) as found:
        await until(
            lambda: {each.endpoint for each in gateway.outcomes} == {one.address for one in servers}, "both to serve"
        )
        killed, since = time.monotonic(), time.time()
        victim.kill()
        await until(lambda: sum(began > killed + 0.5 for began, _ in found) >= 40, "traffic without it")
    begun_after = [answer for began, answer in found if began > killed]
    broken = [answer for _, answer in found if isinstance(answer, Exception) or answer.status != 200]
    await gateway.settled()
    aborted = [each for each in gateway.outcomes if each.reason]
    figures |= {
        "requests": len(found),
        "broken": len(broken),
        "reasons": sorted({each.reason for each in aborted}),
        "tried the dead one first": sum(
            each.endpoints[0] == victim.address and each.time > since for each in gateway.decisions
        ),
        "of requests after": sum(each.time > since for each in gateway.decisions),
    }
    assert all(not isinstance(each, Exception) and each.status == 200 for each in begun_after)
    assert len(broken) <= 4  # those that it was working on
    assert {each.reason for each in aborted} <= {"stream_aborted", "upstream_reset"}
    victim.start()
    victim.ready()
    since = time.time()
    async with traffic(gateway):
        await gateway.outcome(to(victim, since))  # and it is served again when it is back


async def test_a_server_whose_engine_hangs_loses_its_traffic_and_gets_it_back(
    gateway: World, servers: list[Server], figures: dict[str, Any]
) -> None:
    """SIGSTOP of the engine: /health and /metrics go on to say that all is well."""
    victim, _ = servers
    engine = victim.engine()
    async with traffic(gateway, at_once=16) as found:
        await until(
            lambda: {each.endpoint for each in gateway.outcomes} == {one.address for one in servers}, "both to serve"
        )
        stopped = time.time()
        engine.send_signal(signal.SIGSTOP)
        try:
            loads = gateway.gateway.signals.loads
            await until(lambda: loads(POOL)[victim.address].resting > time.monotonic() - 60, "it to be found out")
            noticed = time.time()
            served = len(found)
            await until(lambda: len(found) > served + 100, "traffic without it")
            late = [each for each in gateway.decisions if each.time > noticed]
            sent = [each for each in late if each.endpoints[0] == victim.address]
            assert victim._healthy()  # it still says so
        finally:
            engine.send_signal(signal.SIGCONT)
        figures |= {
            "found out after, s": noticed - stopped,
            "sent there after that": len(sent),
            "of": len(late),
            "stuck until it went on": sum(
                each.endpoints[0] == victim.address and stopped <= each.time <= noticed for each in gateway.decisions
            ),
        }
        await gateway.outcome(to(victim, time.time()))  # it is served again
    assert len(sent) <= len(late) / 10
    assert all(not isinstance(answer, Exception) and answer.status == 200 for _, answer in found)
