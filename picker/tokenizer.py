"""Asks the servers' own tokenizers how prompts become tokens, off the request path, so that KV events can be read.

Few are asked at a time, what does not fit into a short queue is dropped, and of the event loop's time only a small share is taken.
Source: vLLM `POST /tokenize` (serve/tokenize/protocol.py). A pool whose servers have none stays approximate, and says so.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohttp
import orjson

from picker.kv_source import KvSource
from picker.load import Load
from picker.precise import Precise, Unlinked
from picker.ranks import host_port
from picker.reading import whole
from picker.request import InferenceRequest

PATH = "/tokenize"
LARGEST = 256 << 10  # bytes of a prompt; longer ones are read up to there by nobody, and stay approximate
_ANSWER = 16 << 20  # bytes
_WAITING = 32  # prompts
_SHARE = 50  # of the event loop's time we leave so many parts to others
_CHAT = ("messages", "tools", "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template",
         "chat_template_kwargs", "mm_processor_kwargs")  # fmt: skip
_NONE = frozenset((404, 405, 501))
_REFUSED = frozenset((400, 413, 422))  # this prompt, not all


class Pools(Protocol):
    """picker.Picker, as seen from here."""

    def precise(self, pool: str) -> tuple[KvSource, Precise] | None: ...


def question(request: InferenceRequest, model: str) -> tuple[bytes, bytes | None] | None:
    """(body for the tokenizer, None), (b"", tokens) where the prompt is token ids, or None where it cannot be asked for."""
    if request.media or len(request.prompt) > LARGEST:
        return None
    content = orjson.loads(request.body)  # it was read before
    asked: dict[str, Any] = {"model": model, "return_token_strs": True}
    if request.path.endswith("/chat/completions"):
        return orjson.dumps(asked | {name: content[name] for name in _CHAT if content.get(name) is not None}), None
    name = "prompt" if request.path.endswith("/completions") else "text" if request.path.endswith("/generate") else ""
    found = content.get(name)
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str):
        found = found[0]
    if isinstance(found, str):
        if "add_special_tokens" in content:
            asked["add_special_tokens"] = content["add_special_tokens"]
        return orjson.dumps(asked | {"prompt": found}), None
    if isinstance(found, list) and found and isinstance(found[0], int):
        return b"", request.prompt
    return None


class Tokenizer:
    """Links prompts while `run` runs; `ask` may be called at any time."""

    def __init__(
        self,
        picker: Pools,
        loads: Callable[[str], Mapping[str, Load]],
        *,
        lacks: Callable[[str, str], bool] = lambda *_: False,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = 5.0,
        pause: float = 10.0,
    ) -> None:
        """`loads` are those of a pool; `lacks` says which endpoint does not have which model, and would say 404 as one does that has no
        tokenizer. A pool whose servers fail is left alone for `pause` seconds, or 60 times that.
        """
        self._picker, self._loads, self._lacks, self._clock = picker, loads, lacks, clock
        self._timeout, self._pause = timeout, pause
        self._waiting: deque[Unlinked] = deque()
        self._asked: set[int] = set()  # the last blocks of prompts that wait or are asked for
        self._rests: dict[str, float] = {}  # pool -> until when
        self._why: dict[str, str] = {}
        self._wake = asyncio.Event()
        self.linked = 0  # prompts

    def note(self, pool: str) -> str:
        """Why the prompts of this pool are not linked; "" if they are."""
        return self._why.get(pool, "")

    def ask(self, found: Unlinked) -> None:
        """Take a prompt, or drop it."""
        full = len(self._waiting) >= (_WAITING if found.wanted == "again" else 1)
        if full or found.hashes[-1] in self._asked or self._clock() < self._rests.get(found.pool, 0.0):
            return
        self._asked.add(found.hashes[-1])
        self._waiting.append(found)
        self._wake.set()

    async def run(self) -> None:
        """Ask, one at a time, until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(self._timeout)) as session:
            while True:
                self._wake.clear()
                while self._waiting:
                    found = self._waiting.popleft()
                    try:
                        spent = await self._link(session, found)
                    finally:
                        self._asked.discard(found.hashes[-1])
                    await asyncio.sleep(spent * _SHARE)
                await self._wake.wait()

    async def _link(self, session: aiohttp.ClientSession, found: Unlinked) -> float:
        """Seconds of the event loop's time that it took."""
        began = self._clock()
        asked = question(found.request, found.model)
        if asked is None:
            return 0.0
        body, tokens = asked
        spent = self._clock() - began
        page = b"" if tokens is not None else await self._page(session, found, body)
        if page is None:
            return spent
        began = self._clock()
        if (known := self._picker.precise(found.pool)) is not None:
            try:
                read = (tokens, None) if tokens is not None else answer(page)
            except ValueError as error:
                self._rest(found.pool, str(error), 60.0)
                return spent
            known[1].link(found, *read)
            self.linked += 1
            self._why.pop(found.pool, None)
        return spent + self._clock() - began

    async def _page(self, session: aiohttp.ClientSession, found: Unlinked, body: bytes) -> bytes | None:
        """Of the server that has the least to do, and the model."""
        pool = found.pool
        loads = {name: load for name, load in self._loads(pool).items() if not self._lacks(name, found.model)}
        if not loads:
            return None
        server = min(loads, key=lambda key: (loads[key].errors, loads[key].inflight))
        try:
            headers = {"content-type": "application/json"}
            async with session.post(f"http://{host_port(server)}{PATH}", data=body, headers=headers) as response:
                if response.status == 200:
                    return await whole(response, _ANSWER)
                if response.status in _REFUSED:
                    return b""
                lasting = response.status in _NONE
                self._rest(pool, f"{PATH} of {server} answers {response.status}", 60.0 if lasting else 1.0)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._rest(pool, f"{PATH} of {server}: {error or type(error).__name__}", 1.0)
        return None

    def _rest(self, pool: str, why: str, pauses: float) -> None:
        self._rests[pool] = self._clock() + self._pause * pauses
        self._why[pool] = f"prefixes are approximated: {why}"


def answer(page: bytes) -> tuple[bytes, list[str]]:
    """The tokens (4 bytes each) and their strings of an answer; none of a prompt that was refused. Raises ValueError."""
    if not page:
        return b"", []
    found = orjson.loads(page)
    tokens, strings = (
        (found.get(name) for name in ("tokens", "token_strs")) if isinstance(found, dict) else (None, None)
    )
    if not isinstance(strings, list) or not isinstance(tokens, list) or len(tokens) != len(strings):
        raise ValueError(f"{PATH} gives no strings of tokens")
    try:
        return array("I", tokens).tobytes(), list(map(str, strings))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{PATH} gives no tokens: {error}") from None
