"""Many requests at once, through the SDK, and what the servers' own counters say of them."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from tests.vllm.server import BASE, Server
from tests.vllm.text import text


@dataclass(frozen=True, slots=True)
class Shared:
    """Prompts that share beginnings: `prefixes` of `prefix` words, each with a tail of its own."""

    prefixes: int = 16
    prefix: int = 1000
    tail: int = 40
    requests: int = 160
    seed: int = 1

    def prompts(self) -> Iterator[str]:
        """Each beginning as often as any other, in random order."""
        order = [number % self.prefixes for number in range(self.requests)]
        random.Random(self.seed).shuffle(order)
        for number, prefix in enumerate(order):
            yield f"{text((self.seed, prefix), self.prefix)} {text((self.seed, 'tail', number), self.tail)}"


async def sent(
    client: AsyncOpenAI,
    prompts: Iterable[str],
    *,
    at_once: int = 4,
    tokens: int = 8,
    model: str = BASE,
    host: Callable[[int], str] | None = None,
) -> list[Any]:
    """The answers, or errors, of all prompts in their order; `at_once` of them are on their way. `host` of the nth, if any."""
    numbered = iter(list(enumerate(prompts)))
    found: dict[int, Any] = {}

    async def work() -> None:
        for number, prompt in numbered:
            headers = {"host": host(number)} if host else {}
            try:
                stream = await client.completions.create(
                    model=model,
                    prompt=prompt,
                    max_tokens=tokens,
                    stream=True,
                    stream_options={"include_usage": True},
                    extra_headers=headers,
                    extra_body={"ignore_eos": True},
                )
                found[number] = [chunk async for chunk in stream][-1].usage
            except Exception as error:  # noqa: BLE001 -- whatever it is, the test counts it
                found[number] = error

    await asyncio.gather(*(work() for _ in range(at_once)))
    return [found[number] for number in sorted(found)]


class Counters:
    """Of all servers together, from when it was made."""

    def __init__(self, servers: Sequence[Server], *names: str) -> None:
        self._servers, self._names = servers, names
        self._before = self._now()

    def deltas(self) -> tuple[float, ...]:
        return tuple(now - before for now, before in zip(self._now(), self._before, strict=True))

    def _now(self) -> tuple[float, ...]:
        return tuple(sum(each) for each in zip(*(one.counts(*self._names) for one in self._servers), strict=True))


def hits(servers: Sequence[Server]) -> Counters:
    """Prompt tokens that were found in the cache, and all of them."""
    return Counters(servers, "vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
