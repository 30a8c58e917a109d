"""What every request of real vLLM must have: its answer, its usage, its times; and what its /metrics page says, read in two ways."""

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from picker.facts import Outcome
from picker.load import parse
from tests.e2e.waiting import until
from tests.e2e.world import World
from tests.vllm.rig import POOL
from tests.vllm.server import ADAPTERS, BASE, BLOCK, Server
from tests.vllm.text import text

pytestmark = pytest.mark.envoy
USAGE: Any = {"include_usage": True}


async def test_a_plain_answer_and_its_usage(gateway: World) -> None:
    async with gateway.client() as client:
        answer = await client.completions.create(model=BASE, prompt=text("plain", 40), max_tokens=7)
    outcome = await gateway.outcome()
    assert answer.usage is not None
    assert (outcome.status, outcome.reason, outcome.pool) == (200, "", POOL)
    assert (outcome.input_tokens, outcome.output_tokens) == (answer.usage.prompt_tokens, 7)
    assert outcome.cached_tokens in (0, None)  # vLLM leaves the details out where nothing was cached


async def test_a_streamed_chat_and_the_same_again_from_the_cache(gateway: World) -> None:
    """All but the last, partial block is cached, and the picker knew it."""
    messages: Any = [{"role": "user", "content": text("streamed", 400)}]
    async with gateway.client() as client:
        for _ in range(2):
            since = await gateway.settled()
            stream = await client.chat.completions.create(
                model=BASE, messages=messages, max_tokens=5, stream=True, stream_options=USAGE
            )
            chunks = [chunk async for chunk in stream]
            outcome = await gateway.outcome(since=since)
    usage = chunks[-1].usage
    assert usage is not None
    assert (outcome.input_tokens, outcome.output_tokens) == (usage.prompt_tokens, 5)
    assert outcome.ttft is not None and outcome.duration is not None and 0 < outcome.ttft < outcome.duration
    assert outcome.cached_tokens == (usage.prompt_tokens - 1) // BLOCK * BLOCK
    assert outcome.predicted_cached_tokens == pytest.approx(outcome.cached_tokens, rel=0.25)
    page = await gateway.metrics()
    for name in ("penstock_time_to_first_token_seconds_count", "penstock_time_per_output_token_seconds_count"):
        assert any(line.startswith(name) and POOL in line for line in page.splitlines()), name


async def test_a_stream_whose_client_does_not_ask_is_counted_and_tells_nothing(gateway: World) -> None:
    messages: Any = [{"role": "user", "content": text("unasked", 40)}]
    async with gateway.client() as client:
        stream = await client.chat.completions.create(model=BASE, messages=messages, max_tokens=5, stream=True)
        chunks = [chunk async for chunk in stream]
    outcome = await gateway.outcome()
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)
    assert outcome.output_tokens == 5
    assert outcome.input_tokens


async def test_usage_of_every_request_is_in_the_metrics(gateway: World, servers: list[Server]) -> None:
    """vLLM's own counters and ours, from the access log alone, have seen the same tokens."""
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    before = [each.counts(*names) for each in servers]
    async with gateway.client() as client:
        for number in range(8):
            await client.completions.create(model=BASE, prompt=text(number, 30 + number), max_tokens=3 + number)
    await gateway.settled()
    theirs = [sum(after) for after in zip(*(each.counts(*names) for each in servers), strict=True)]
    theirs = [after - sum(each[i] for each in before) for i, after in enumerate(theirs)]
    assert [sum(tokens(each)) for each in zip(*map(usage, gateway.outcomes), strict=True)] == theirs


def usage(outcome: Outcome) -> tuple[int | None, int | None]:
    return outcome.input_tokens, outcome.output_tokens


def tokens(found: tuple[int | None, ...]) -> tuple[int, ...]:
    assert all(each is not None for each in found)
    return tuple(each or 0 for each in found)


async def test_an_unknown_model_and_a_prompt_that_is_too_long_are_vllms_answers(gateway: World) -> None:
    answer = await gateway.post("/v1/completions", {"model": "nobody", "prompt": "hello"})
    assert answer.status == 404 and b"does not exist" in answer.body
    answer = await gateway.post("/v1/completions", {"model": BASE, "prompt": text("long", 12_000)})
    assert answer.status == 400 and b"context length" in answer.body.lower().replace(b"_", b" "), answer.body
    await gateway.settled()
    assert {each.reason for each in gateway.outcomes} == {"upstream_4xx"}
    loads = gateway.gateway.signals.loads(POOL)
    assert all(load.resting < 0 for load in loads.values())  # nobody is ill for a client's mistake


async def test_our_scan_of_the_page_agrees_with_prometheus_parser(gateway: World, servers: list[Server]) -> None:
    async with gateway.client() as client:
        stream = await client.completions.create(
            model=ADAPTERS[0], prompt=text("busy", 100), max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        busy = next(each for each in servers if parse(each.metrics().encode()).running)
        page = busy.metrics()
        await stream.close()
    found = parse(page.encode())
    samples = [each for family in text_string_to_metric_families(page) for each in family.samples]

    def value(name: str) -> float:
        return sum(each.value for each in samples if each.name == name)

    (config,) = [each.labels for each in samples if each.name == "vllm:cache_config_info"]
    adapters = [each for each in samples if each.name == "vllm:lora_requests_info"]
    newest = max(adapters, key=lambda each: each.value).labels
    assert found.running == value("vllm:num_requests_running") == 1
    assert found.waiting == value("vllm:num_requests_waiting")
    assert found.kv_usage == pytest.approx(value("vllm:kv_cache_usage_perc")) and found.kv_usage > 0
    assert (found.block_tokens, found.blocks) == (int(config["block_size"]), int(config["num_gpu_blocks"]))
    assert found.block_tokens * found.blocks == busy.options.cache_tokens
    assert found.loras == set(newest["running_lora_adapters"].split(",")) == {ADAPTERS[0]}
    assert found.max_loras == int(newest["max_lora"]) == 1


async def test_the_prefix_index_is_as_large_as_the_servers_cache(gateway: World, servers: list[Server]) -> None:
    def known() -> bool:
        loads = gateway.gateway.signals.loads(POOL)
        return all(load.block_tokens * load.blocks == servers[0].options.cache_tokens for load in loads.values())

    await until(known, "a scrape of both")
