"""A client, the gateway with the real Envoy, simulated model servers: requests that end well, and what is known of them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import World, serving, sim, world

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
MESSAGES: Any = [{"role": "user", "content": "Where does the water go?"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[SimServer]]:
    async with serving(sim("a"), sim("b")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, servers: list[SimServer]) -> AsyncIterator[World]:
    text = documents(GATEWAY, pool("base", servers), route("all", rule("/v1", to_pool("base"))))
    async with world(Path(tmp_path_factory.mktemp("manifests")), {"all.yaml": text}) as found:
        yield found


async def test_a_completion_is_answered_and_recorded(gateway: World) -> None:
    since = await gateway.settled()
    async with gateway.client() as client:
        answer = await client.completions.create(model="base", prompt="Say hello.", max_tokens=7)
    assert answer.usage is not None and answer.usage.completion_tokens == 7 and len(answer.choices[0].text) == 28
    outcome = await gateway.outcome(since=since)
    assert (outcome.status, outcome.reason, outcome.pool, outcome.attempts) == (200, "", "default/base", 1)
    assert (outcome.input_tokens, outcome.output_tokens) == (answer.usage.prompt_tokens, 7)
    assert not outcome.streaming and outcome.ttft and outcome.duration and outcome.ttft <= outcome.duration


async def test_the_endpoint_of_an_outcome_is_the_one_that_answered(gateway: World, servers: list[SimServer]) -> None:
    since = await gateway.settled()
    answer = await gateway.post("/v1/completions", {"model": "base", "prompt": "p", "max_tokens": 1})
    outcome = await gateway.outcome(since=since)
    assert outcome.endpoint == next(each.address for each in servers if each.settings.name == answer.server)


async def test_a_chat_is_answered(gateway: World) -> None:
    async with gateway.client() as client:
        answer = await client.chat.completions.create(model="base", messages=MESSAGES, max_tokens=5)
    assert answer.choices[0].message.content and answer.usage and answer.usage.completion_tokens == 5


async def test_a_streamed_chat_arrives_in_chunks_and_its_usage_is_recorded(gateway: World) -> None:
    since = await gateway.settled()
    async with gateway.client() as client:
        stream = await client.chat.completions.create(
            model="base", messages=MESSAGES, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(words) == 20
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 20
    outcome = await gateway.outcome(since=since)
    assert (outcome.reason, outcome.streaming, outcome.output_tokens) == ("", True, 20)
    assert outcome.input_tokens == chunks[-1].usage.prompt_tokens
    assert outcome.ttft and outcome.duration and outcome.ttft < outcome.duration


async def test_each_request_has_exactly_one_decision_and_one_outcome(gateway: World) -> None:
    before = await gateway.settled(), len(gateway.decisions)
    for _ in range(10):
        await gateway.post("/v1/completions", {"model": "base", "prompt": "p", "max_tokens": 1})
    await gateway.outcome(since=before[0] + 9)
    decided = [decision.id for decision in gateway.decisions[before[1] :]]
    assert sorted(outcome.id for outcome in gateway.outcomes[before[0] :]) == sorted(decided)
    assert gateway.gateway.signals.inflight.count(gateway.decisions[-1].endpoints[0]) == 0


async def test_the_metrics_have_the_series_of_the_requests(gateway: World) -> None:
    since = await gateway.settled()
    await gateway.post("/v1/completions", {"model": "base", "prompt": "p", "max_tokens": 3})
    await gateway.outcome(since=since)
    text = await gateway.metrics()
    series = {line.partition(" ")[0] for line in text.splitlines() if 'pool="default/base"' in line}
    names = {each.partition("{")[0].removeprefix("penstock_") for each in series if 'model_name="base"' in each}
    assert names >= {
        *("requests_total", "tokens_total", "request_duration_seconds_bucket", "time_to_first_token_seconds_bucket")
    }
    assert any("tokens_total" in each and 'type="output"' in each for each in series)
    assert {each.partition("{")[0] for each in series} >= {"penstock_picks_total", "penstock_pool_saturation"}


async def test_a_body_passes_unchanged_where_nothing_rewrites_it(gateway: World, servers: list[SimServer]) -> None:
    body = json.dumps({"model": "base", "prompt": "x" * 300_000, "max_tokens": 1}).encode()
    answer = await gateway.post("/v1/completions", body, content_type="application/json")
    assert answer.status == 400 and b"maximum context length" in answer.body  # so the server has read all of it
    assert b"75000 input tokens" in answer.body


async def test_the_server_names_itself_through_the_gateway(gateway: World, servers: list[SimServer]) -> None:
    answer = await gateway.send("GET", "/v1/models")
    assert answer.status == 200 and answer.server in {each.settings.name for each in servers}
