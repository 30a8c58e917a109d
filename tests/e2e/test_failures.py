"""Model servers and clients that go away: what the client sees, what is tried again, and what is recorded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import free_port, until
from tests.e2e.world import QUICK, World, serving, sim, streaming, world

pytestmark = pytest.mark.envoy
STEADY = replace(QUICK, decode_ms=3)
DEAD = "127.0.0.9"  # nobody listens there


@asynccontextmanager
async def gateway_to(folder: Path, *servers: SimServer | str, mode: str = "") -> AsyncIterator[World]:
    text = documents(GATEWAY, pool("base", servers, mode=mode), route("all", rule("/v1", to_pool("base"))))
    async with world(folder, {"all.yaml": text}) as found:
        yield found


async def test_a_pool_without_endpoints_is_503(tmp_path: Path) -> None:
    async with gateway_to(tmp_path, mode="FailClose") as gateway, gateway.client() as client:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.completions.create(model="base", prompt="hello", extra_headers={"x-llm-d-inference-ttl": "0s"})
        assert refused.value.status_code == 503
        assert (refused.value.type, refused.value.code) == ("service_unavailable_error", "no_endpoints")
        assert refused.value.response.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
        outcome = await gateway.outcome()
        assert (outcome.status, outcome.reason, outcome.pool) == (503, "no_endpoints", "default/base")


async def test_a_client_that_leaves_ends_the_work_and_is_recorded(tmp_path: Path) -> None:
    async with serving(sim("a", latency=STEADY)) as (server,), gateway_to(tmp_path, server) as gateway:
        async with gateway.client() as client:
            stream = await streaming(client)
            await anext(aiter(stream))
            assert gateway.gateway.signals.inflight.count(server.address) == 1
            await stream.close()
        outcome = await gateway.outcome()
        assert (outcome.reason, outcome.status, outcome.endpoint) == ("client_cancelled", 200, server.address)
        await until(lambda: not server.engine.running, "the server to stop its work")
        assert gateway.gateway.signals.inflight.count(server.address) == 0


async def test_a_server_that_dies_in_a_stream_ends_it_and_nothing_is_tried_again(tmp_path: Path) -> None:
    one, two = sim("a", latency=STEADY), sim("b", latency=STEADY)
    async with serving(one, two) as servers, gateway_to(tmp_path, *servers) as gateway, gateway.client() as client:
        stream = await streaming(client)
        await anext(aiter(stream))
        victim = next(each for each in servers if each.served)
        with pytest.raises(openai.APIError):
            victim.die()
            async for _ in stream:
                pass
        outcome = await gateway.outcome()
        assert (outcome.reason, outcome.endpoint, outcome.attempts) == ("stream_aborted", victim.address, 1)
        assert sum(each.served for each in servers) == 1
        assert gateway.gateway.signals.inflight.count(victim.address) == 0


async def all_served(gateway: World, count: int) -> list[str]:
    """Who answers so many requests, one after the other and each with its own prompt; none may fail."""
    found = []
    for number in range(count):
        body = {"model": "base", "prompt": f"{number} hello", "max_tokens": 1}
        answer = await gateway.post("/v1/completions", body)
        assert answer.status == 200, answer
        found.append(answer.server)
    return found


async def test_a_server_that_refuses_connections_is_passed_over(tmp_path: Path) -> None:
    dead = f"{DEAD}:{free_port(DEAD)}"
    async with serving(sim("a")) as (alive,), gateway_to(tmp_path, dead, alive) as gateway:
        assert set(await all_served(gateway, 12)) == {"a"}
        await gateway.settled()
        assert any(decision.endpoints[0] == dead for decision in gateway.decisions)  # or nothing was shown
        assert {outcome.endpoint for outcome in gateway.outcomes} == {alive.address}
        assert {outcome.reason for outcome in gateway.outcomes} == {""}


async def test_a_server_that_dies_is_passed_over_while_it_is_still_listed(tmp_path: Path) -> None:
    async with serving(sim("a"), sim("b")) as servers, gateway_to(tmp_path, *servers) as gateway:
        await all_served(gateway, 4)
        servers[0].die()
        assert set(await all_served(gateway, 12)) == {"b"}


async def test_a_full_queue_is_answered_by_another_server(tmp_path: Path) -> None:
    """vLLM's cap on waiting requests answers 503 before it starts: that is safe to try elsewhere."""
    async with serving(sim("a"), sim("b")) as servers, gateway_to(tmp_path, *servers) as gateway:
        servers[0].faults.change({"kind": "503", "rate": 1.0})
        assert set(await all_served(gateway, 12)) == {"b"}
        assert servers[0].served  # it was asked
        await gateway.settled()
        assert {outcome.reason for outcome in gateway.outcomes} == {""}
        assert max(outcome.attempts for outcome in gateway.outcomes) == 2


async def test_when_every_server_refuses_the_client_gets_their_503(tmp_path: Path) -> None:
    async with serving(sim("a"), sim("b")) as servers, gateway_to(tmp_path, *servers) as gateway:
        for each in servers:
            each.faults.change({"kind": "503", "rate": 1.0})
        async with gateway.client() as client:
            with pytest.raises(openai.InternalServerError) as refused:
                await client.completions.create(model="base", prompt="hello")
        assert refused.value.status_code == 503
        assert (await gateway.outcome()).reason == "upstream_5xx"


async def test_a_500_of_a_server_is_not_tried_again(tmp_path: Path) -> None:
    async with (
        serving(sim("a", fail_rate=1.0), sim("b", fail_rate=1.0)) as servers,
        gateway_to(tmp_path, *servers) as gateway,
    ):
        answer = await gateway.post("/v1/completions", {"model": "base", "prompt": "hello"})
        assert answer.status == 500
        assert sum(each.served for each in servers) == 1
        outcome = await gateway.outcome()
        assert (outcome.reason, outcome.attempts) == ("upstream_5xx", 1)


async def test_nobody_reachable_is_a_503_in_openais_words(tmp_path: Path) -> None:
    dead = [f"{DEAD}:{free_port(DEAD)}" for _ in range(2)]
    async with gateway_to(tmp_path, *dead) as gateway, gateway.client() as client:
        with pytest.raises(openai.InternalServerError) as refused:
            await client.completions.create(model="base", prompt="hello")
        assert (refused.value.status_code, refused.value.code) == (503, "upstream_error")
        assert (await gateway.outcome()).reason == "upstream_connect"


async def test_many_streams_at_once_each_have_all_their_tokens(tmp_path: Path) -> None:
    async with serving(sim("a"), sim("b")) as servers, gateway_to(tmp_path, *servers) as gateway:
        async with gateway.client() as client:

            async def whole(_: int) -> int:
                stream: Any = await streaming(client, tokens=50)
                return sum([1 async for chunk in stream if chunk.choices])

            assert await asyncio.gather(*map(whole, range(40))) == [50] * 40
        await gateway.settled()
        assert {outcome.reason for outcome in gateway.outcomes} == {""}
        assert len(gateway.gateway.signals.inflight) == 0
