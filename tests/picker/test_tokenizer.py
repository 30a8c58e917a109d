"""Asking servers how prompts become tokens: what is asked, what is read, and when nobody is asked any more."""

import asyncio
import contextlib
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from penstock.sim import tokens
from penstock.sim.server import SimServer, SimSettings
from picker.kv_links import of_strings
from picker.kv_messages import Batch
from picker.kv_source import KvSource
from picker.load import Load
from picker.precise import Precise, Unlinked, Wanted
from picker.prefix import PrefixIndex, hash_blocks
from picker.request import InferenceRequest, parse
from picker.tokenizer import LARGEST, Tokenizer, answer, question
from tests.e2e.waiting import until
from tests.picker._kv import stored

TEXT = "word " * 200


def request(path: str = "/v1/chat/completions", **content: object) -> InferenceRequest:
    return parse({":path": path}, orjson.dumps({"model": "m", **content}))


def asked(**content: object) -> dict:
    found = question(request(**content), "target")
    assert found is not None
    assert found[1] is None
    return orjson.loads(found[0])


def test_a_chat_is_asked_for_as_it_will_be_rendered() -> None:
    messages, tools = [{"role": "user", "content": "x"}], [{"type": "function"}]
    found = asked(
        messages=messages, tools=tools, chat_template_kwargs={"enable_thinking": False}, temperature=1, stream=True
    )
    assert found == {
        "model": "target",
        "return_token_strs": True,
        "messages": messages,
        "tools": tools,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_a_completion_is_asked_for_by_its_prompt() -> None:
    expected = {"model": "target", "return_token_strs": True, "prompt": "hello"}
    assert asked(path="/v1/completions", prompt="hello") == expected
    assert asked(path="/v1/completions", prompt=["hello"]) == expected
    assert asked(path="/generate", text="hello") == expected


def test_token_ids_are_tokens_already() -> None:
    assert question(request("/v1/completions", prompt=[1, 2]), "m") == (b"", array("I", [1, 2]).tobytes())


def test_what_cannot_be_asked_for() -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]
    assert question(request(messages=image), "m") is None
    assert question(request("/v1/messages", messages=[]), "m") is None
    assert question(request("/v1/completions", prompt=["a", "b"]), "m") is None
    assert question(request("/v1/completions", prompt="x" * (LARGEST + 1)), "m") is None


def test_who_cannot_be_read_is_not_asked_for_and_harms_nobody() -> None:
    """Long strings are not checked before, and some fields are never written."""
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 5000 + "?"}]})
    broken = parse({":path": "/v1/chat/completions"}, body.replace(b"?", b"\\q"))
    deep = b'{"model": "m", "messages": [], "chat_template_kwargs": ' + b"[" * 300 + b"]" * 300 + b"}"
    assert question(broken, "m") is None
    assert question(parse({":path": "/v1/chat/completions"}, deep), "m") is None


@pytest.mark.parametrize("page", [b"{", b"[]", b'{"token_strs":["a"]}', b'{"tokens":[1],"token_strs":[]}', b'{"tokens":["x"],"token_strs":["x"]}'])  # fmt: skip
def test_what_is_no_answer(page: bytes) -> None:
    with pytest.raises(ValueError, match=r"tokens|JSON|EOF|expected"):
        answer(page)


class Known:
    def __init__(self) -> None:
        self.found = Precise(PrefixIndex())
        self.found.apply("a", Batch(0, (stored([1], None, range(16), 16),)), 0.0)

    def precise(self, _: str) -> tuple[KvSource, Precise] | None:
        return KvSource(), self.found


def unlinked(text: str = TEXT, wanted: Wanted = "again") -> Unlinked:
    found = request("/v1/completions", prompt=text)
    return Unlinked("ns/pool", "base", found, hash_blocks(found.prompt, "base"), wanted)


@asynccontextmanager
async def tokenizer(known: Known, *servers: str, **options: Any) -> AsyncIterator[Tokenizer]:
    found = Tokenizer(known, lambda _: dict.fromkeys(servers, Load()), **options)
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def answering(handler) -> AsyncIterator[str]:
    async with serving(lambda app: app.router.add_post("/tokenize", handler)) as address:
        yield address


@asynccontextmanager
async def serving(routes: Callable[[web.Application], object]) -> AsyncIterator[str]:
    app = web.Application(client_max_size=1 << 24)
    routes(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_prompt_is_linked_by_what_the_server_says() -> None:
    known, server = Known(), SimServer(SimSettings())
    await server.start()
    try:
        async with tokenizer(known, server.address) as found:
            found.ask(unlinked())
            await until(lambda: found.linked, "the answer")
            assert known.found.links[16].count(unlinked().hashes) == len(unlinked().hashes) == 3
            assert found.note("ns/pool") == ""
    finally:
        await server.stop()


def sglang(app: web.Application) -> None:
    """Tokens of four bytes, without their strings; and the text of tokens, of which half a character is U+FFFD."""

    async def tokenize(request: web.Request) -> web.Response:
        return web.json_response({"tokens": tokens.ids((await request.json())["prompt"].encode()), "count": 0})

    async def detokenize(request: web.Request) -> web.Response:
        body = await request.json()
        assert body["skip_special_tokens"] is False
        texts = [b"".join(one.to_bytes(4, "little") for one in each).rstrip(b"\0") for each in body["tokens"]]
        return web.json_response({"text": [one.decode(errors="replace") for one in texts]})

    app.router.add_post("/tokenize", tokenize)
    app.router.add_post("/detokenize", detokenize)


@pytest.mark.parametrize("text", [TEXT, 'wörd\n"🙂 ' * 80])
async def test_a_prompt_is_linked_by_the_texts_of_its_blocks(text: str) -> None:
    """SGLang gives no strings of tokens, and has a second question."""
    known, same = Known(), Known()
    wanted = unlinked(text)
    async with serving(sglang) as address, tokenizer(known, address) as found:
        found.ask(wanted)
        await until(lambda: found.linked, "the answer")
        assert found.note("ns/pool") == ""
    raw = text.encode()
    same.found.link(wanted, array("I", tokens.ids(raw)).tobytes(), of_strings(tokens.strings(raw)))
    assert known.found.links[16].count(wanted.hashes) == len(wanted.hashes) > 2
    assert [known.found.links[16].get(one) for one in wanted.hashes] == [
        same.found.links[16].get(one) for one in wanted.hashes
    ]


async def test_blocks_of_one_token_are_not_asked_for() -> None:
    known = Known()
    known.found.apply("b", Batch(0, (stored([2], None, range(1), 1),)), 0.0)
    async with serving(sglang) as address, tokenizer(known, address) as found:
        found.ask(unlinked())
        await until(lambda: found.note("ns/pool"), "a note")
        assert "--page-size 8" in found.note("ns/pool")


async def test_servers_that_tell_of_no_blocks_any_more_are_not_asked_for_their_text() -> None:
    known, asked = Known(), []

    def gone(app: web.Application) -> None:
        async def tokenize(_: web.Request) -> web.Response:
            known.found.links.clear()
            asked.append(1)
            return web.json_response({"tokens": list(range(200))})

        app.router.add_post("/tokenize", tokenize)

    async with serving(gone) as address, tokenizer(known, address) as found:
        found.ask(unlinked())
        await until(lambda: asked and not found._asked, "that nobody is asked any more")
        assert (found.linked, found.note("ns/pool")) == (0, "")


@pytest.mark.parametrize("answered", [{}, {"text": "all"}, {"text": []}, {"text": [1]}, []])
async def test_a_server_that_gives_neither_strings_nor_texts_says_so(answered: Any) -> None:
    def neither(app: web.Application) -> None:
        async def tokenize(_: web.Request) -> web.Response:
            return web.json_response({"tokens": list(range(200))})

        async def detokenize(_: web.Request) -> web.Response:
            return web.json_response(answered)

        app.router.add_post("/tokenize", tokenize)
        app.router.add_post("/detokenize", detokenize)

    async with serving(neither) as address, tokenizer(Known(), address) as found:
        found.ask(unlinked())
        await until(lambda: found.note("ns/pool"), "a note")
        assert "/detokenize no text of blocks" in found.note("ns/pool")


async def test_a_pool_without_a_tokenizer_is_left_alone_and_says_so() -> None:
    known, server = Known(), []

    async def missing(_: web.Request) -> web.Response:
        server.append(1)
        return web.Response(status=404)

    async with answering(missing) as address, tokenizer(known, address) as found:
        found.ask(unlinked())
        await until(lambda: found.note("ns/pool"), "a note")
        assert "/tokenize" in found.note("ns/pool")
        assert "404" in found.note("ns/pool")
        found.ask(unlinked("other " * 100))
        assert not found._waiting
        assert server == [1]


async def test_only_a_server_that_has_the_model_is_asked() -> None:
    """Another one says 404, as one does that has no tokenizer: then the whole pool would be left alone."""
    known, base = Known(), SimServer(SimSettings(models=("base",)))
    await base.start()

    async def missing(_: web.Request) -> web.Response:
        return web.Response(status=404)

    try:
        async with answering(missing) as other:
            lacking = {("base", other), ("base", base.address)}
            async with tokenizer(
                known, other, base.address, lacks=lambda name, model: (model, name) in lacking
            ) as found:
                found.ask(unlinked())
                await until(lambda: not found._asked, "that nobody is asked")
                assert (found.linked, found.note("ns/pool")) == (0, "")
                lacking.remove(("base", base.address))
                found.ask(unlinked())
                await until(lambda: found.linked, "the answer")
                assert found.note("ns/pool") == ""
    finally:
        await base.stop()


async def test_a_prompt_that_is_refused_is_not_asked_for_again() -> None:
    known = Known()
    known.found._prefixes.record("a", unlinked().hashes)

    def wanted() -> bool:
        return known.found.wants(unlinked().hashes, {"a": 3})

    async def refusing(_: web.Request) -> web.Response:
        return web.Response(status=400)

    assert wanted()
    async with answering(refusing) as address, tokenizer(known, address) as found:
        found.ask(unlinked())
        await until(lambda: not wanted(), "that it is known")
        assert found.note("ns/pool") == ""


async def test_what_cannot_be_reached_is_tried_again_later() -> None:
    known, now = Known(), [0.0]
    found = Tokenizer(known, lambda _: {"127.0.0.1:9": Load()}, clock=lambda: now[0], pause=10.0)
    task = asyncio.create_task(found.run())
    try:
        found.ask(unlinked())
        await until(lambda: found.note("ns/pool"), "a note")
        found.ask(unlinked())
        assert not found._waiting
        now[0] = 10.0
        found.ask(unlinked())
        assert len(found._waiting) == 1
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_what_comes_for_the_first_time_waits_for_nobody() -> None:
    found = Tokenizer(Known(), lambda _: {})
    found.ask(unlinked("1 " * 300, "new"))
    found.ask(unlinked("2 " * 300, "new"))
    found.ask(unlinked("3 " * 300))
    assert [one.wanted for one in found._waiting] == ["new", "again"]


def test_what_does_not_fit_is_dropped() -> None:
    found = Tokenizer(Known(), lambda _: {})
    for number in range(100):
        found.ask(unlinked(f"{number} " * 300))
        found.ask(unlinked(f"{number} " * 300))  # the same again
    assert len(found._waiting) == 32
