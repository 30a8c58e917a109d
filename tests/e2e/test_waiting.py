"""Requests that wait in the gateway, longer than Envoy would wait for a picker: served, given up in time, or left by the client."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import QUICK, World, serving, sim, world

pytestmark = pytest.mark.envoy
TIMEOUT = 0.5  # seconds that Envoy waits for the picker, unless it is asked for more
BODY = {"model": "base", "prompt": "hello", "max_tokens": 1}
ROUTE = route("all", rule("/v1", to_pool("base")))


def waiting(gateway: World) -> int:
    return sum(count for count, _ in gateway.gateway.picker.queued("default/base").values())


async def test_a_request_that_waits_longer_than_envoys_timeout_is_served(tmp_path: Path) -> None:
    """Scale from zero: the first endpoint comes when the request has waited three times what Envoy is told to wait."""
    text = documents(GATEWAY, pool("base", [], mode="FailClose"), ROUTE)
    async with serving(sim("a")) as (server,), world(tmp_path, {"all.yaml": text}, picker_timeout=TIMEOUT) as gateway:
        asked = asyncio.ensure_future(gateway.post("/v1/completions", BODY))
        listed = asyncio.ensure_future(gateway.send("GET", "/v1/models"))  # decided on its headers
        await until(lambda: waiting(gateway) == 2, "both to wait")
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 3 * TIMEOUT, "Envoy's patience to end")
        assert not asked.done()
        gateway.write("all.yaml", documents(GATEWAY, pool("base", [server], mode="FailClose"), ROUTE))
        assert [(await one).status for one in (asked, listed)] == [200, 200]
        outcome = await gateway.outcome_of(await asked)
        assert outcome.queue > 2 * TIMEOUT
        assert waiting(gateway) == 0


async def test_a_request_that_waited_for_as_long_as_it_may_is_answered(tmp_path: Path) -> None:
    text = documents(GATEWAY, pool("base", []), ROUTE)
    async with world(tmp_path, {"all.yaml": text}, picker_timeout=TIMEOUT) as gateway:
        answer = await gateway.post("/v1/completions", BODY, x_llm_d_inference_ttl="500ms")
        assert answer.status == 503
        assert answer.header("x-llm-d-request-dropped-reason") == "rejected-no-endpoints"
        outcome = await gateway.outcome_of(answer)
        assert (outcome.reason, outcome.queue >= 0.5) == ("no_endpoints", True)


async def test_a_client_that_leaves_waits_no_longer(tmp_path: Path) -> None:
    text = documents(GATEWAY, pool("base", []), ROUTE)
    async with world(tmp_path, {"all.yaml": text}, picker_timeout=TIMEOUT) as gateway:
        asked = asyncio.ensure_future(gateway.post("/v1/completions", BODY))
        await until(lambda: waiting(gateway) == 1, "it to wait")
        asked.cancel()
        await until(lambda: waiting(gateway) == 0, "it to be gone")
        assert (await gateway.outcome()).reason == "client_cancelled"


async def test_nothing_stays_in_flight_of_clients_that_leave_as_they_are_decided(tmp_path: Path) -> None:
    """Each is decided when a slot becomes free, and just then all leave: Envoy's log may tell it before the picker does."""
    async with serving(sim("a", latency=replace(QUICK, decode_ms=5), max_num_seqs=2)) as (server,):
        text = documents(GATEWAY, pool("base", [server]), ROUTE)
        async with world(tmp_path, {"all.yaml": text}, picker_timeout=TIMEOUT) as gateway:
            long = [asyncio.ensure_future(gateway.post("/v1/completions", BODY | {"max_tokens": 40})) for _ in range(6)]
            speed = gateway.gateway.signals.latency.speed
            await until(lambda: speed(server.address).slots == 2.0, "its slots to be known")
            await asyncio.gather(*long)
            for _ in range(60):
                asked = [asyncio.ensure_future(gateway.post("/v1/completions", BODY)) for _ in range(12)]
                await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for each in asked:
                    each.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            await gateway.settled()
            assert gateway.gateway.signals.inflight.count(server.address) == 0


async def test_requests_wait_here_and_not_in_a_server_that_is_full(tmp_path: Path) -> None:
    """Nobody told us that it has two slots: the first requests have to queue there, the later ones need not."""
    slow = replace(QUICK, decode_ms=10)
    async with serving(sim("a", latency=slow, max_num_seqs=2)) as (server,):
        text = documents(GATEWAY, pool("base", [server]), ROUTE)
        async with world(tmp_path, {"all.yaml": text}, picker_timeout=TIMEOUT) as gateway:
            asked = [
                asyncio.ensure_future(gateway.post("/v1/completions", BODY | {"max_tokens": 40})) for _ in range(6)
            ]
            speed = gateway.gateway.signals.latency.speed
            await until(lambda: speed(server.address).slots == 2.0, "its slots to be known")
            asked += [asyncio.ensure_future(gateway.post("/v1/completions", BODY)) for _ in range(4)]
            await until(lambda: waiting(gateway), "some to wait in the gateway")
            assert {(await one).status for one in asked} == {200}
            await gateway.settled()
            assert "penstock_gateway_queue_duration_seconds_bucket" in await gateway.metrics()
