"""Adapters that are on some servers only, through the real Envoy: requests go where they are, also when they come and go."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import World, serving, sim, world

pytestmark = pytest.mark.envoy
NAME = "default/base"


@pytest.fixture
async def servers() -> AsyncIterator[list[SimServer]]:
    each = [sim(name, loras=("sql",) if name == "c" else (), max_loras=2) for name in "abcd"]
    async with serving(*each) as found:
        yield found


@pytest.fixture
async def gateway(tmp_path: Path, servers: list[SimServer]) -> AsyncIterator[World]:
    text = documents(GATEWAY, pool("base", servers), route("all", rule("/v1", to_pool("base"))))
    async with world(tmp_path, {"all.yaml": text}, explain=True) as found:
        yield found


async def ask(gateway: World, model: str, count: int, at_once: int = 8) -> Counter[tuple[int, str]]:
    """(status, server) of so many requests."""
    slots = asyncio.Semaphore(at_once)

    async def one(number: int) -> tuple[int, str]:
        async with slots:
            body = {"model": model, "prompt": f"{number} hi", "max_tokens": 2}
            answer = await gateway.post("/v1/completions", body)
            return answer.status, answer.server

    return Counter(await asyncio.gather(*map(one, range(count))))


async def manage(server: SimServer, action: str, adapter: str) -> None:
    """By the server's own API, as operators do it."""
    body = {"lora_name": adapter, "lora_path": "/adapters"}
    async with aiohttp.ClientSession() as session, session.post(f"{server.url}/v1/{action}", json=body) as answer:
        assert answer.status == 200


async def test_an_adapter_on_one_of_four_servers_fails_no_request_of_200(gateway: World) -> None:
    assert await ask(gateway, "sql", 200) == {(200, "c"): 200}
    base = await ask(gateway, "base", 40)
    assert {status for status, _ in base} == {200} and len(base) == 4  # the base model is everywhere


async def test_a_pool_that_ignores_the_lists_has_the_servers_404(tmp_path: Path, servers: list[SimServer]) -> None:
    """What all of these tests would see without them."""
    lists = pool("base", servers, more="penstock.dev/model-lists: ignore")
    async with world(
        tmp_path, {"all.yaml": documents(GATEWAY, lists, route("all", rule("/v1", to_pool("base"))))}
    ) as found:
        answers = await ask(found, "sql", 40)
    assert answers[200, "c"] < 40 and {status for status, _ in answers} == {200, 404}


async def test_an_adapter_that_is_loaded_elsewhere_is_found_after_one_404(
    gateway: World, servers: list[SimServer]
) -> None:
    await manage(servers[1], "load_lora_adapter", "chat")
    served = gateway.gateway.signals.served
    answers = [next(iter(await ask(gateway, "chat", 1)))]
    while answers[-1][0] == 404 and len(answers) < 50:
        await until(lambda: "chat" in (served.has(servers[1].address) or ()), "the list that has it")
        answers += await ask(gateway, "chat", 1)
    assert len(answers) <= 2
    await until(lambda: "chat" in (served.has(servers[1].address) or ()), "the list that has it")
    assert await ask(gateway, "chat", 50) == {(200, "b"): 50}


async def test_an_adapter_that_moves_is_followed(gateway: World, servers: list[SimServer]) -> None:
    await ask(gateway, "sql", 5)
    await manage(servers[0], "load_lora_adapter", "sql")
    await manage(servers[2], "unload_lora_adapter", "sql")
    served = gateway.gateway.signals.served
    await ask(gateway, "sql", 1)  # 404: it is asked again, and so, as nobody has it any more, are the others
    await until(lambda: "sql" not in (served.has(servers[2].address) or ("sql",)), "the list without it")
    await ask(gateway, "sql", 1)
    await until(lambda: "sql" in (served.has(servers[0].address) or ()), "the list that has it")
    assert await ask(gateway, "sql", 50) == {(200, "a"): 50}


async def test_a_model_that_nobody_has_is_the_servers_404(gateway: World) -> None:
    answer = await gateway.post("/v1/completions", {"model": "klingon", "prompt": "hi"})
    assert answer.status == 404 and b"klingon" in answer.body and answer.server in set("abcd")
    loads = gateway.gateway.signals.loads(NAME)
    assert all(load.resting < 0 for load in loads.values())


async def test_it_is_explained_and_shown(gateway: World, servers: list[SimServer]) -> None:
    body = {"model": "sql", "prompt": "hi", "max_tokens": 2}
    answer = await gateway.post("/v1/completions", body, penstock_explain="1")
    address = gateway.gateway.settings.telemetry
    async with gateway.session.get(f"http://{address}/decisions/{answer.header('penstock-decision')}") as response:
        found = await response.json()
    others = sorted(each.address for each in servers if each.settings.name != "c")
    assert found["explanation"]["dropped"] == [{"filter": "served-models", "endpoints": others}]
    assert found["explanation"]["same"]
    known = gateway.gateway.report.status()["pools"][NAME]["endpoints"]
    assert known[servers[2].address]["model_names"] == ["base", "sql"]
    assert [known[each.address]["models"] for each in servers] == [1, 1, 2, 1]
    assert f'penstock_endpoint_models{{pool="{NAME}",endpoint="{servers[2].address}"}} 2' in await gateway.metrics()
