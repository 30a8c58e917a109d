"""KV events of real vLLM: what the picker believes to be cached is what vLLM then finds, block for block, evictions included."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from picker.facts import Outcome
from picker.kv_blocks import ROOT, chain
from picker.precise import Precise
from tests.e2e.waiting import eventually, until
from tests.e2e.world import World
from tests.vllm.rig import POOL, before
from tests.vllm.server import ADAPTERS, BASE, BLOCK, Server
from tests.vllm.text import text

pytestmark = pytest.mark.envoy
EVENTS = 'penstock.dev/kv-events: "auto"'


@pytest.fixture
async def listening(servers: list[Server], tmp_path: Path) -> AsyncIterator[World]:
    """Penstock, which hears of all that these servers store and forget from here on."""
    async with before(servers, tmp_path, EVENTS) as found:
        subscriptions = found.gateway.kv_events._subscriptions
        await until(lambda: len(subscriptions) == 2 and all(one.port for one in subscriptions.values()), "both ports")
        for each in servers:
            await until_precise(found, each)
        yield found


async def until_precise(gateway: World, server: Server) -> None:
    """Until we have heard that its cache is empty. vLLM says so with the next request; ZMQ may not have connected yet."""
    feeds = precise(gateway).feeds

    async def heard() -> bool:
        await asyncio.to_thread(server.reset)
        await asyncio.to_thread(server.post, "/v1/completions", {"model": BASE, "prompt": text(0, 40), "max_tokens": 1})
        gateway.gateway.kv_events.look()
        return server.address in feeds and feeds[server.address].mode == "precise"

    await eventually(heard, "the events of an empty cache")


def precise(gateway: World) -> Precise:
    known = gateway.gateway.picker.precise(POOL)
    assert known is not None
    return known[1]


def held(gateway: World, server: str, tokens: Sequence[int]) -> int:
    """How many blocks of this prompt the server has, say its events."""
    found = precise(gateway).held
    bit = found.bit(server)
    count = 0
    for key in chain(ROOT, b"".join(each.to_bytes(4, "little") for each in tokens), BLOCK):
        if not found.masks.get(key, 0) & bit:
            break
        count += 1
    return count


async def told(gateway: World) -> None:
    """Until the servers have nothing more to say: twenty looks find nothing new."""
    last: list[int] = []
    quiet = 0

    def still() -> bool:
        nonlocal last, quiet
        gateway.gateway.kv_events.look()
        now = [feed.sequence or 0 for feed in precise(gateway).feeds.values()]
        quiet, last = (quiet + 1 if now == last else 0), now
        return quiet > 20

    await until(still, "the last events")


class Tree:
    """Prompts of token ids: stems that are shared, branches of them, and tails of any length; more than both caches hold."""

    def __init__(self, seed: int, stems: int = 50, stem: int = 480, branch: int = 320) -> None:
        self._dice = random.Random(seed)
        self._stems = [self._ids(stem) for _ in range(stems)]
        self._branches = [[self._ids(branch) for _ in range(3)] for _ in range(stems)]

    def prompt(self) -> list[int]:
        number = self._dice.randrange(len(self._stems))
        branch = self._dice.choice(self._branches[number])
        cut = self._dice.randint(1, len(branch))
        return self._stems[number] + branch[:cut] + self._ids(self._dice.randint(0, 70))

    def _ids(self, count: int) -> list[int]:
        return [self._dice.randrange(5, 4096) for _ in range(count)]


async def complete(gateway: World, prompt: Any, tokens: int = 4) -> Outcome:
    body = {"model": BASE, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    answer = await gateway.post("/v1/completions", body)
    assert answer.status == 200, answer.body
    return await gateway.outcome_of(answer)


async def test_what_is_believed_to_be_cached_is_what_vllm_finds_block_for_block(
    listening: World, figures: dict[str, Any]
) -> None:
    tree = Tree(1)
    await together(tree.prompt, listening, 160)  # four at once, with evictions
    exact = 0
    errors: list[tuple[int, int]] = []
    count = 80
    for _ in range(count):
        prompt = tree.prompt()
        await told(listening)
        blocks = {name: held(listening, name, prompt) for name in precise(listening).feeds}
        outcome = await complete(listening, prompt)
        believed = (
            min(blocks[outcome.endpoint], (len(prompt) - 1) // BLOCK) * BLOCK
        )  # the last token is always computed
        exact += believed == outcome.cached_tokens
        if believed != outcome.cached_tokens:
            errors.append((believed, outcome.cached_tokens or 0))
    ended = listening.outcomes
    stored = sum((each.input_tokens or 0) // BLOCK - (each.cached_tokens or 0) // BLOCK for each in ended)
    room = sum(load.blocks for load in listening.gateway.signals.loads(POOL).values())
    figures |= {
        "prompts whose cached blocks were known exactly": f"{exact} of {count}",
        "blocks stored, and room for": f"{stored}, {room}",
        "hit ratio": sum(each.cached_tokens or 0 for each in ended) / sum(each.input_tokens or 0 for each in ended),
        "gaps": sum(feed.gaps for feed in precise(listening).feeds.values()),
        "modes": [feed.mode for feed in precise(listening).feeds.values()],
        "wrong": errors[:5],
    }
    assert not errors
    assert stored > 1.5 * room  # the rest was evicted


async def together(prompt: Callable[[], Any], gateway: World, count: int, at_once: int = 4) -> list[Outcome]:
    prompts = iter([prompt() for _ in range(count)])
    found: list[Outcome] = []

    async def work() -> None:
        found.extend([await complete(gateway, each) for each in prompts])

    await asyncio.gather(*(work() for _ in range(at_once)))
    return found


@pytest.mark.parametrize("kind", ["token ids", "text", "chat", "adapter", "salt"])
async def test_the_match_of_a_decision_is_what_vllm_finds_to_a_block(
    kind: str, listening: World, figures: dict[str, Any]
) -> None:
    """Beginnings come again, so they are linked; a block of the picker is 256 bytes, or 64 tokens that are ids."""
    dice = random.Random(kind)
    families = 10
    for turn in range(5):
        since = await listening.settled()
        for family in dice.sample(range(families), families):
            stem = text((kind, family), 500)
            prompt: Any = f"{stem} {text((kind, family, turn), 20)}"
            if kind == "token ids":
                rolled = random.Random(f"{kind}{family}")
                prompt = [rolled.randrange(5, 4096) for _ in range(700)] + [turn + 5] * 20
            body: dict[str, Any] = {"model": ADAPTERS[0] if kind == "adapter" else BASE, "max_tokens": 2}
            if kind == "salt":
                body["cache_salt"] = "tenant"
            path = "/v1/completions"
            if kind == "chat":
                body["messages"] = [{"role": "system", "content": stem}, {"role": "user", "content": prompt[-200:]}]
                path = "/v1/chat/completions"
            else:
                body["prompt"] = prompt
            await told(listening)
            answer = await listening.post(path, body)
            assert answer.status == 200, answer.body
            await listening.outcome_of(answer)
    prompts = {each.id: each.prompt_tokens for each in listening.decisions}
    matched = {each.id: each.matched_tokens for each in listening.decisions}
    late = listening.outcomes[since:]
    block = [64 / prompts[each.id] * each.input_tokens for each in late]
    wrong = [
        (matched[each.id] / prompts[each.id] * each.input_tokens - each.cached_tokens) / one
        for each, one in zip(late, block, strict=True)
    ]
    figures |= {
        "blocks that were predicted too many: least, most": f"{min(wrong):.2f}, {max(wrong):.2f}",
        "hit ratio": sum(each.cached_tokens for each in late) / sum(each.input_tokens for each in late),
        "modes": [feed.mode for feed in precise(listening).feeds.values()],
        "linked prompts": listening.gateway.tokenizer.linked,
    }
    assert max(wrong) <= 1.5  # never too many
    assert sum(each < -1.5 for each in wrong) <= 1  # one of an adapter was seen to be missed


async def test_a_server_that_dies_is_forgotten_and_its_successor_is_believed(
    listening: World, servers: list[Server]
) -> None:
    prompt = [number % 4000 + 5 for number in range(600)]
    outcome = await complete(listening, prompt)
    victim = next(each for each in servers if each.address == outcome.endpoint)
    await told(listening)
    assert held(listening, victim.address, prompt) == len(prompt) // BLOCK
    victim.kill()
    await until(lambda: precise(listening).feeds[victim.address].mode == "approximate", "its silence to be noticed")
    victim.start()
    await asyncio.to_thread(victim.ready)
    await until_precise(listening, victim)
    assert held(listening, victim.address, prompt) == 0
