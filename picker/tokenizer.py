"""Asks the servers' own tokenizers how prompts become tokens, off the request path, so that KV events can be read.

Few are asked at a time, what does not fit into a short queue is dropped, and of the event loop's time only a small share is taken.
Source: vLLM `POST /tokenize` (serve/tokenize/protocol.py); SGLang 0.5.23, whose answer has no strings of tokens, so that `/detokenize` is
asked for the text of each block (openai/serving_tokenize.py). A pool whose servers have none stays approximate, and says so.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from math import gcd
from typing import Any, Protocol

import aiohttp
import orjson

from picker.kv_links import Rendered, of_pieces, of_strings
from picker.kv_source import KvSource
from picker.load import Load
from picker.precise import Precise, Unlinked
from picker.ranks import host_port
from picker.reading import whole
from picker.request import InferenceRequest

PATH, BACK = "/tokenize", "/detokenize"
LARGEST = 256 << 10  # bytes of a prompt; longer ones are read up to there by nobody, and stay approximate
_ANSWER = 16 << 20  # bytes
_WAITING = 32  # prompts
_SHORTEST = 8  # tokens of a block; a server would take seconds to write more of them
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
    try:
        return _question(request, model)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None  # what is wrong is in a long string, or nested too deeply: its server says so


def _question(request: InferenceRequest, model: str) -> tuple[bytes, bytes | None] | None:
    content = orjson.loads(request.body)
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
        self._away = 0.0  # seconds that somebody else had, of those since a prompt's turn began
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
        began, self._away = self._clock(), 0.0
        try:
            asked = question(found.request, found.model)
            read = None if asked is None else await self._tokens(session, found, *asked)
            if read is not None and (known := self._picker.precise(found.pool)) is not None:
                known[1].link(found, *read)
                self.linked += 1
                self._why.pop(found.pool, None)
        except ValueError as error:
            self._rest(found.pool, str(error), 60.0)
        return self._clock() - began - self._away

    async def _tokens(
        self, session: aiohttp.ClientSession, found: Unlinked, body: bytes, tokens: bytes | None
    ) -> tuple[bytes, Rendered | None] | None:
        """The tokens of a prompt and their text; no text where the prompt is tokens, None where nobody answers. Raises ValueError."""
        if tokens is not None:
            return tokens, None
        loads = {name: load for name, load in self._loads(found.pool).items() if not self._lacks(name, found.model)}
        if not loads:
            return None
        server = min(loads, key=lambda key: (loads[key].errors, loads[key].inflight))
        page = await self._page(session, found.pool, server, PATH, body)
        if page is None:
            return None
        tokens, rendered = answer(page)
        if rendered is None:
            step = self._step(found.pool)
            asked = question_back(found.model, tokens, step) if step else None
            page = None if asked is None else await self._page(session, found.pool, server, BACK, asked)
            if page is None:
                return None
            rendered = answer_back(page, step)
        return tokens, rendered

    def _step(self, pool: str) -> int:
        """Tokens of the blocks that the pool's servers tell of; 0 where they tell of none any more. Raises ValueError."""
        known = self._picker.precise(pool)
        step = gcd(*known[1].links) if known is not None else 0
        if 0 < step < _SHORTEST:
            raise ValueError(f"a block has {step} tokens; start the servers with --page-size {_SHORTEST} or more")
        return step

    async def _page(
        self, session: aiohttp.ClientSession, pool: str, server: str, path: str, body: bytes
    ) -> bytes | None:
        """What the server answers; nothing where it refuses this prompt, None where it does not answer."""
        began = self._clock()
        try:
            headers = {"content-type": "application/json"}
            url = f"http://{host_port(server)}{path}"
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status == 200:
                    return await whole(response, _ANSWER)
                if response.status in _REFUSED:
                    return b""
                lasting = response.status in _NONE
                self._rest(pool, f"{path} of {server} answers {response.status}", 60.0 if lasting else 1.0)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._rest(pool, f"{path} of {server}: {error or type(error).__name__}", 1.0)
        finally:
            self._away += self._clock() - began
        return None

    def _rest(self, pool: str, why: str, pauses: float) -> None:
        self._rests[pool] = self._clock() + self._pause * pauses
        self._why[pool] = f"prefixes are approximated: {why}"


def answer(page: bytes) -> tuple[bytes, Rendered | None]:
    """The tokens (4 bytes each) of an answer, and their text where it tells it; none of a prompt that was refused. Raises ValueError."""
    if not page:
        return b"", Rendered(b"", ())
    found = orjson.loads(page)
    tokens, strings = (
        (found.get(name) for name in ("tokens", "token_strs")) if isinstance(found, dict) else (None, None)
    )
    if not isinstance(tokens, list) or (isinstance(strings, list) and len(tokens) != len(strings)):
        raise ValueError(f"{PATH} gives no tokens, or not a string for each")
    try:
        rendered = of_strings(list(map(str, strings))) if isinstance(strings, list) else None
        return array("I", tokens).tobytes(), rendered
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{PATH} gives no tokens: {error}") from None


def question_back(model: str, tokens: bytes, step: int) -> bytes:
    """What to ask for the text of tokens: that of all, and then of each `step` of them."""
    ids = array("I", tokens).tolist()
    pieces = (ids[at : at + step] for at in range(0, len(ids) - step + 1, step))
    return orjson.dumps({"model": model, "tokens": [ids, *pieces], "skip_special_tokens": False})


def answer_back(page: bytes, step: int) -> Rendered:
    """Raises ValueError."""
    found = orjson.loads(page) if page else {"text": [""]}
    texts = found.get("text") if isinstance(found, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise ValueError(f"{PATH} gives no strings of tokens, and {BACK} no text of blocks")
    return of_pieces(texts[0], texts[1:], step)
