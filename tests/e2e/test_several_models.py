"""The scenario of examples/several-models, its files unchanged: one host, routes by the model in the body, a canary, priorities."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from penstock.sim.server import SimServer
from tests.e2e.waiting import until
from tests.e2e.world import ENDLESS, QUICK, World, serving, sim, world

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
EXAMPLE = Path(__file__).parents[2] / "examples" / "several-models"
HOST = {"default_headers": {"host": "example.com"}}
SLOTS = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[dict[str, SimServer]]:
    slow = replace(QUICK, decode_ms=5)
    settings = [
        sim("gemma-1", "gemma", host="127.0.11.1", port=8000, max_num_seqs=SLOTS, latency=slow),
        sim("gemma-2", "gemma", host="127.0.11.2", port=8000, max_num_seqs=SLOTS, latency=slow),
        sim("gemma-new-1", "gemma-new", host="127.0.12.1", port=8000, max_num_seqs=64),
        sim("small-1", "sentiment", "recommender", host="127.0.13.1", port=8000),
    ]
    async with serving(*settings) as found:
        yield {each.settings.name: each for each in found}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(servers: dict[str, SimServer]) -> AsyncIterator[World]:
    async with world(EXAMPLE) as found:
        yield found


async def served_by(client: openai.AsyncOpenAI, model: str) -> str:
    """The server that answers, through the path of the example: example.com/completions."""
    raw = await client.completions.with_raw_response.create(model=model, prompt="hello", max_tokens=1)
    return raw.headers["x-sim-server"]


async def test_the_example_has_no_problem(gateway: World) -> None:
    assert gateway.problems == []


async def test_a_chatbot_is_shared_90_to_10_between_the_versions(gateway: World) -> None:
    """400 requests: at 10 % a share outside 4 % to 18 % has a chance below 1 in 100 000."""
    async with gateway.client("", **HOST) as client:
        found: Counter[str] = Counter()
        for _ in range(20):
            found.update(await asyncio.gather(*(served_by(client, "chatbot") for _ in range(20))))
    assert set(found) == {"gemma-1", "gemma-2", "gemma-new-1"}
    assert 16 <= found["gemma-new-1"] <= 72, found


async def test_the_rewritten_model_is_recorded_and_the_client_reads_the_one_that_it_asked_for(gateway: World) -> None:
    since = await gateway.settled()
    async with gateway.client("", **HOST) as client:
        answer = await client.completions.create(model="chatbot", prompt="hello", max_tokens=1)
    outcome = await gateway.outcome(since=since)
    assert outcome.model == answer.model == "chatbot"
    assert outcome.target_model in {"gemma", "gemma-new"}


@pytest.mark.parametrize("model", ["sentiment", "recommender"])
async def test_small_models_go_to_the_small_pool(gateway: World, model: str) -> None:
    async with gateway.client("", **HOST) as client:
        assert {await served_by(client, model) for _ in range(5)} == {"small-1"}


async def test_an_objective_applies_by_annotation_and_by_route_without_a_header(gateway: World) -> None:
    async with gateway.client("", **HOST) as client:
        for model, objective, priority in (("chatbot", "chatbot", 10), ("chatbot-batch", "batch", -1)):
            since = await gateway.settled()
            await client.completions.create(model=model, prompt="hello", max_tokens=1)
            outcome = await gateway.outcome(since=since)
            assert outcome.objective.startswith(objective) and outcome.priority == priority


async def test_a_client_cannot_take_away_the_objective_that_its_route_sets(gateway: World) -> None:
    since = await gateway.settled()
    headers = {"x-gateway-inference-objective": "chatbot"}
    body = {"model": "chatbot-batch", "prompt": "hello", "max_tokens": 1}
    answer = await gateway.post("/completions", body, host="example.com", **headers)
    assert answer.status == 200
    assert (await gateway.outcome(since=since)).priority == -1


async def test_under_overload_batch_is_shed_and_the_chatbot_is_not(
    gateway: World, servers: dict[str, SimServer]
) -> None:
    full = "genai-inference/gemma"
    async with gateway.client("", **HOST) as client:
        endless: dict[str, Any] = {"prompt": "go on", "max_tokens": ENDLESS, "stream": True}
        waiting = [
            asyncio.create_task(client.completions.create(model="chatbot", **endless)) for _ in range(2 * SLOTS + 30)
        ]  # of which gemma-new takes some; the others fill gemma, and the queue before it
        try:
            await until(lambda: saturation(gateway, full) >= 1.0, "a pool that is full")
            with pytest.raises(openai.RateLimitError) as refused:
                await client.completions.create(model="chatbot-batch", prompt="hello", max_tokens=1)
            check_refusal(refused.value)
            assert not [task for task in waiting if task.done() and task.exception()]
        finally:
            for task in waiting:
                task.cancel()
            done = await asyncio.gather(*waiting, return_exceptions=True)
            for each in done:
                if not isinstance(each, BaseException):
                    await each.close()
        await until(lambda: saturation(gateway, full) < 1.0, "a pool that has room again")
        patient = client.with_options(max_retries=20)  # comes back when Retry-After says
        await patient.completions.create(model="chatbot-batch", prompt="hello", max_tokens=1)


def saturation(gateway: World, pool: str) -> float:
    return float(gateway.gateway.report.status()["pools"][pool]["saturation"])


def check_refusal(refused: openai.RateLimitError) -> None:
    """What a client, and who debugs it, needs of a 429."""
    assert refused.status_code == 429
    assert int(refused.response.headers["retry-after"]) >= 1
    assert refused.response.headers["x-llm-d-request-dropped-reason"] == "rejected-saturated"
    assert (refused.type, refused.code) == ("rate_limit_error", "shed_priority")


async def test_an_unknown_model_is_404(gateway: World) -> None:
    since = await gateway.settled()
    async with gateway.client("", **HOST) as client:
        with pytest.raises(openai.NotFoundError) as refused:
            await client.completions.create(model="gpt-nobody", prompt="hello")
    assert refused.value.code == "model_not_found" and "gpt-nobody" in str(refused.value)
    outcome = await gateway.outcome(since=since)
    assert (outcome.status, outcome.reason, outcome.model) == (404, "model_not_found", "gpt-nobody")


async def test_another_host_is_404(gateway: World) -> None:
    answer = await gateway.post("/completions", {"model": "chatbot", "prompt": "hello"}, host="example.org")
    assert answer.status == 404
