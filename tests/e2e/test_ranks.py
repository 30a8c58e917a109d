"""Data-parallel ranks behind one port, through the real Envoy: prefixes stay on their rank, each rank's load is seen."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from penstock.sim.server import SimServer
from picker.facts import Decision
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import QUICK, Answer, World, serving, sim, streaming, world

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
RANKS = 3
READS = replace(
    QUICK, prefill_ms_per_token=0.05
)  # 50 ms for a prompt of these tests: what makes its cache worth going to
NAME = "default/base"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[SimServer]]:
    async with serving(*(sim(name, latency=READS, data_parallel_size=RANKS) for name in "ab")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, servers: list[SimServer]) -> AsyncIterator[World]:
    said = f'penstock.dev/data-parallel-ranks: "{RANKS}"'
    text = documents(GATEWAY, pool("base", servers, more=said), route("all", rule("/v1", to_pool("base"))))
    async with world(Path(tmp_path_factory.mktemp("manifests")), {"all.yaml": text}) as found:
        yield found


async def completion(gateway: World, prompt: str, **headers: str) -> Answer:
    return await gateway.post("/v1/completions", {"model": "base", "prompt": prompt, "max_tokens": 2}, **headers)


def rank(answer: Answer) -> tuple[str, str]:
    return answer.server, answer.header("x-sim-rank")


async def test_prefixes_stay_on_their_rank_and_are_cached_there(gateway: World) -> None:
    prompts = [f"{number} " * 2000 for number in range(12)]
    first = [rank(await completion(gateway, prompt)) for prompt in prompts]
    assert len(set(first)) >= 3  # ranks, not two servers; all are idle, so that chance decides among them
    again = [await completion(gateway, prompt) for _ in range(3) for prompt in prompts]
    stayed = [answer for answer, place in zip(again, first * 3, strict=True) if rank(answer) == place]
    assert (
        len(stayed) >= 32
    )  # of 36, of which chance alone would bring back 6; a rank that had a slow moment is left alone
    details = [orjson.loads(answer.body)["usage"]["prompt_tokens_details"] for answer in stayed]
    assert all(each["cached_tokens"] > 900 for each in details)


async def test_a_client_does_not_choose_the_rank(gateway: World) -> None:
    answers = [await completion(gateway, f"{number}", x_data_parallel_rank="99") for number in range(6)]
    assert {answer.status for answer in answers} == {200}  # the server would have answered 400


async def test_an_outcome_names_the_rank_that_answered_and_envoy_the_address(
    gateway: World, servers: list[SimServer]
) -> None:
    answer = await completion(gateway, "who")
    outcome = await gateway.outcome_of(answer)
    server = next(each for each in servers if each.settings.name == answer.server)
    assert outcome.endpoint == f"{server.address}@{answer.header('x-sim-rank')}"
    decision = next(each for each in gateway.decisions if each.id == outcome.id)
    other = next(each for each in servers if each is not server)
    assert decision.endpoints == (outcome.endpoint, f"{other.address}@{answer.header('x-sim-rank')}")
    assert f'endpoint="{outcome.endpoint}"' in await gateway.metrics()


async def test_the_load_of_each_rank_is_seen_and_the_next_requests_go_elsewhere(
    gateway: World, servers: list[SimServer]
) -> None:
    await gateway.settled()
    async with gateway.client() as client:
        stream = await streaming(client, tokens=20_000)
        busy = gateway.decisions[-1].endpoints[0]
        loads = gateway.gateway.signals.loads
        await until(lambda: loads(NAME)[busy].running == 1, "the scrape of the rank that works")
        assert {name: load.inflight for name, load in loads(NAME).items() if load.inflight} == {busy: 1}
        assert sum(load.running for load in loads(NAME).values()) == 1
        answers = await asyncio.gather(*(completion(gateway, f"{number} at once") for number in range(5)))
        assert {answer.status for answer in answers} == {200}
        assert busy not in {each.endpoints[0] for each in gateway.decisions[-5:]}
        status = gateway.gateway.report.status()["pools"][NAME]["endpoints"]
        assert set(status) == {f"{each.address}@{number}" for each in servers for number in range(RANKS)}
        assert status[busy]["running"] == 1
        await stream.close()
    await gateway.settled()


async def test_the_kv_events_of_a_rank_are_its_own(tmp_path: Path) -> None:
    more = 'penstock.dev/data-parallel-ranks: "2"\n    penstock.dev/kv-events: auto'
    async with serving(sim("a", latency=READS, data_parallel_size=2, kv_blocks=200, kv_events=0)) as (server,):
        text = documents(GATEWAY, pool("base", [server], more=more), route("all", rule("/v1", to_pool("base"))))
        async with world(tmp_path / "m", {"all.yaml": text}) as found:
            events, tokenizer = found.gateway.kv_events, found.gateway.tokenizer
            await until(lambda: sum(one.port > 0 for one in events._subscriptions.values()) == 2, "both ports")
            ports = {key[1]: one.port for key, one in events._subscriptions.items()}
            assert ports == {f"{server.address}@{r}": each.port for r, each in enumerate(server.ranks.publishers)}
            known = found.gateway.picker.precise(NAME)
            assert known is not None

            async def ask(prompt: str) -> Decision:
                await found.outcome_of(await completion(found, prompt))
                return found.decisions[-1]

            prompts = [f"{number} tells of another thing. " * 80 for number in range(2)]  # 500 tokens each
            for linked, prompt in enumerate(prompts, 1):  # it comes again: a tokenizer is asked
                first = await ask(prompt)
                await until(lambda first=first: known[1].feeds[first.endpoints[0]].events, "its events")
                await ask(prompt)
                await until(lambda linked=linked: tokenizer.linked >= linked, "the tokenizer's answer")
            before = [await ask(prompt) for prompt in prompts]
            assert min(each.matched_tokens for each in before) > 300
            gone = int(before[0].headers[-1][1])
            for number in range(8):  # others push out what this rank has
                body = {"model": "base", "prompt": f"{number} and more " * 200, "max_tokens": 1}
                told = {"x-data-parallel-rank": str(gone)}
                async with found.session.post(f"{server.url}/v1/completions", json=body, headers=told) as answer:
                    assert answer.headers["x-sim-rank"] == str(gone)
            said = server.ranks.publishers[gone]
            await until(lambda: known[1].feeds[f"{server.address}@{gone}"].sequence == said._sequence - 1, "the last events")  # fmt: skip
            after = [await ask(prompt) for prompt in prompts]
            lost = [each.endpoints[0] == before[0].endpoints[0] for each in before]
            assert [each.matched_tokens == 0 for each in after] == lost
