"""The demo's traffic: conversations that share system prompts and grow turn by turn, streamed and not, at a steady rate."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from penstock.demo.targets import Target

_SYSTEM_PROMPTS = 6  # of different popularity: a prefix cache has something to find
_SYSTEM_WORDS = 250
_TURNS = 4  # of a conversation, then another begins
_OUTPUT_TOKENS = (8, 40)
_TIMEOUT = aiohttp.ClientTimeout(total=30)


@dataclass(slots=True)
class _Talk:
    target: Target
    text: str
    turns: int = 0


@dataclass(slots=True)
class Traffic:
    """Sends `rate` requests a second; `sent` and `failed` count them. `seed` makes the texts and choices the same again."""

    url: str
    targets: Sequence[Target]
    rate: float
    seed: int = 0
    sent: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    _dice: random.Random = field(init=False)
    _talks: list[_Talk] = field(default_factory=list)
    _systems: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)  # noqa: S311  not for secrets
        self._systems = [self._words(_SYSTEM_WORDS) for _ in range(_SYSTEM_PROMPTS)]

    async def warm_up(self, patience: float) -> None:
        """Until Envoy listens and has its routes; raises TimeoutError. Its requests are not counted: they have no body."""
        async with asyncio.timeout(patience), aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.url}/penstock-demo-warm-up"):
                        return
                await asyncio.sleep(0.05)

    async def run(self, stop: asyncio.Event, seconds: float | None) -> None:
        """Until `stop` is set or `seconds` have passed; what was sent by then is waited for."""
        end = None if seconds is None else time.monotonic() + seconds
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session,
            asyncio.TaskGroup() as tasks,
        ):
            while not stop.is_set() and (end is None or time.monotonic() < end):
                tasks.create_task(self._one(session))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._dice.expovariate(self.rate)):
                        await stop.wait()

    async def _one(self, session: aiohttp.ClientSession) -> None:
        talk = self._next_talk()
        self.sent += 1
        text = f"{talk.text}\n{self._words(20)}"
        streaming = self._dice.random() < 0.7
        body = {
            "model": talk.target.model,
            talk.target.field: talk.target.prompt(text),
            "max_tokens": self._dice.randint(*_OUTPUT_TOKENS),
        }
        if streaming:
            body |= {"stream": True}
        try:
            url, host = self.url + talk.target.path, {"host": talk.target.host}
            async with session.post(url, json=body, headers=host) as response:
                answer = await response.read()
                if response.status != 200:
                    self._fail(f"{response.status} {answer[:200].decode(errors='replace')}")
                elif streaming and not answer.rstrip().endswith(b"[DONE]"):
                    self._fail("a stream without an end")
        except (aiohttp.ClientError, TimeoutError) as error:
            self._fail(repr(error))
        talk.text = f"{text}\n{self._words(30)}"

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.errors[why] = self.errors.get(why, 0) + 1

    def _next_talk(self) -> _Talk:
        """Mostly a further turn of a conversation, else a new one whose system prompt is popular or not so popular."""
        self._talks = [talk for talk in self._talks if talk.turns < _TURNS]
        if len(self._talks) < 8 or self._dice.random() < 0.3:
            rank = min(int(self._dice.paretovariate(1.0)) - 1, _SYSTEM_PROMPTS - 1)
            self._talks.append(_Talk(self._dice.choice(self.targets), self._systems[rank]))
        talk = self._dice.choice(self._talks)
        talk.turns += 1
        return talk

    def _words(self, count: int) -> str:
        letters = "aeioubdfgklmnprstvz"
        return " ".join("".join(self._dice.choices(letters, k=self._dice.randint(2, 7))) for _ in range(count))
