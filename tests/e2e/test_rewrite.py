"""The body on its way: as it came, or with another model and nothing else changed. And back: the model that the client asked for."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import World, world

pytestmark = pytest.mark.envoy
TARGET = "a-much-longer-name/of-a-model"
REWRITE = f"""
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {{name: alias}}
spec:
  poolRef: {{name: base}}
  rules:
  - matches: [{{model: {{type: Exact, value: alias}}}}]
    targets: [{{modelRewrite: {TARGET}, weight: 1}}]
"""
BY_ROUTE = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-LLM-D-Model-Name-Rewrite, value: other-team}]}}]"


@pytest.fixture
async def server() -> AsyncIterator[Backend]:
    async with backend("server") as found:
        yield found


@pytest.fixture
async def gateway(tmp_path: Path, server: Backend) -> AsyncIterator[World]:
    apart = pool("apart", [server.address]).replace("annotations:", "annotations:\n    penstock.dev/failover: base", 1)
    text = documents(
        GATEWAY,
        pool("base", [server.address]),
        pool("plain", [server.address]),
        apart,
        route(
            "all",
            rule("/v1", to_pool("base")),
            rule("/team", to_pool("plain"), more=BY_ROUTE),
            rule("/plain", to_pool("plain")),
            rule("/apart", to_pool("apart")),
        ),
        REWRITE,
        REWRITE.replace("name: alias}", "name: apart}").replace("name: base", "name: apart"),
    )
    async with world(tmp_path, {"all.yaml": text}) as found:
        assert not found.problems
        yield found


async def sent(gateway: World, server: Backend, body: bytes) -> bytes:
    """What the server gets for a body; its length is as the header says, or aiohttp had refused it."""
    answer = await gateway.post("/v1/completions", body, content_type="application/json")
    assert answer.status == 200, answer
    last = server.seen[-1]
    assert int(last.headers["content-length"]) == len(last.body)
    return last.body


async def test_a_rewrite_changes_the_model_and_nothing_else(gateway: World, server: Backend) -> None:
    body = (
        b'{ "prompt":"\xc3\xa9\\u00e9", "seed": 9007199254740993, "model" : "alias",\n'
        b' "logit_bias": {"50256": -100}, "temperature": 1.0, "metadata": {"model": "alias"}, "n": 1e0}'
    )
    wanted = body.replace(b'"model" : "alias"', b'"model" : "%b"' % TARGET.encode())
    assert await sent(gateway, server, body) == wanted
    assert (await gateway.outcome()).target_model == TARGET


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
async def test_a_body_of_any_size_arrives_as_it_was_sent(gateway: World, server: Backend, size: int) -> None:
    body = b'{"model":"other","prompt":"%b"}' % (b"0123456789" * (size // 10 + 1))
    assert await sent(gateway, server, body) == body
    longer = body.replace(b"other", b"alias", 1)
    assert await sent(gateway, server, longer) == body.replace(b"other", TARGET.encode(), 1)


# --- answers ----------------------------------------------------------------------------------------------------------

WHOLE = b'{"id":"1", "model": "%b", "choices": [{"text": "\\"model\\": \\"%b\\"", "model": "%b"}], "usage": {"prompt_tokens": 7}}'
ANSWER = WHOLE % (TARGET.encode(), TARGET.encode(), TARGET.encode())
RESTORED = WHOLE % (b"alias", TARGET.encode(), TARGET.encode())
EVENT = b'data: {"id":"1","model":"%b","choices":[{"delta":{"content":"%b"}}]}\n\n'
BODY = {"model": "alias", "prompt": "hello"}


@pytest.mark.parametrize("path", ["/v1/completions", "/apart/completions"])
async def test_an_answer_names_the_model_that_was_asked_for(gateway: World, server: Backend, path: str) -> None:
    server.reply, server.headers = (ANSWER[:40], ANSWER[40:]), {"content-length": str(len(ANSWER))}
    answer = await gateway.post(path, BODY)
    assert json.loads(server.seen[-1].body)["model"] == TARGET
    assert answer.body == RESTORED
    assert int(answer.header("content-length")) == len(RESTORED)
    if path.startswith("/v1"):
        assert (await gateway.outcome_of(answer)).input_tokens == 7  # its usage has been read before


@pytest.mark.parametrize("path", ["/v1/completions", "/apart/completions"])
async def test_a_stream_is_restored_piece_by_piece(gateway: World, server: Backend, path: str) -> None:
    """Each piece leaves the server only when the client has what came before it: nothing but a name that is cut is held back."""
    first, second = EVENT % (TARGET.encode(), b"a"), EVENT % (TARGET.encode(), b"b")
    cut = second.index(b"name/of")
    server.content_type, server.turn = "text/event-stream; charset=utf-8", asyncio.Semaphore(0)
    server.reply = (first, second[:cut], second[cut:], b"data: [DONE]\n\n")
    body = BODY | {"stream": True, "stream_options": {"include_usage": True}}  # so that nobody looks for usage to hide
    async with gateway.session.post(gateway.url(path), json=body) as response:
        for wanted in (
            EVENT % (b"alias", b"a"),
            second[: second.index(b'"%b' % TARGET.encode())],
            (EVENT % (b"alias", b"b"))[second.index(b'"%b' % TARGET.encode()) :],
            b"data: [DONE]\n\n",
        ):
            assert await response.content.readexactly(len(wanted)) == wanted
            server.turn.release()
        assert await response.content.read() == b""


async def test_usage_that_is_cut_is_known(gateway: World, server: Backend) -> None:
    """What llm-d reads of each chunk by itself."""
    last = (
        b'data: {"id":"1","model":"%b","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
        % TARGET.encode()
    )
    pieces = (last[:30], last[30:-20], last[-20:], b"data: [DONE]\n\n")
    server.content_type, server.reply, server.turn = "text/event-stream", pieces, asyncio.Semaphore(0)
    agent = {"user-agent": "cut"}
    async with gateway.session.post(gateway.url("/v1/completions"), json=BODY, headers=agent) as response:
        for _ in pieces:
            await response.content.readany()
            server.turn.release()
        await response.read()
    outcome = await gateway.outcome(lambda found: found.user_agent == "cut")
    assert (outcome.input_tokens, outcome.output_tokens) == (7, 5)


async def test_a_message_that_starts_names_it_too(gateway: World, server: Backend) -> None:
    events = (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","role":"assistant","model":"%b"}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"%b"}}\n\n'
    )
    server.content_type, server.reply = "text/event-stream", (events % (TARGET.encode(), TARGET.encode()),)
    answer = await gateway.post("/v1/messages", {"model": "alias", "max_tokens": 1, "messages": []})
    assert answer.body == events % (b"alias", TARGET.encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", {"model": TARGET}), ("/v1/rerank", {"query": "x"}), ("/plain/completions", BODY)],
    ids=["as asked", "no model asked", "no rewrite"],
)
async def test_an_answer_without_a_rewrite_stays(gateway: World, server: Backend, path: str, body: object) -> None:
    server.reply = (ANSWER,)
    assert (await gateway.post(path, body)).body == ANSWER


async def test_what_cannot_be_read_stays(gateway: World, server: Backend) -> None:
    packed = gzip.compress(ANSWER)
    server.reply, server.headers = (packed,), {"content-encoding": "gzip"}
    url = gateway.url("/v1/completions")
    async with aiohttp.ClientSession(auto_decompress=False) as raw, raw.post(url, json=BODY) as response:
        assert await response.read() == packed
    server.reply, server.headers, server.content_type = (ANSWER,), {}, "text/plain"
    assert (await gateway.post("/v1/completions", BODY)).body == ANSWER


async def test_a_stream_that_breaks_off_within_a_name_loses_nothing(gateway: World, server: Backend) -> None:
    whole = EVENT % (TARGET.encode(), b"a")
    part = whole[: whole.index(b"name/of")]
    server.content_type, server.reply = "text/event-stream", (part,)
    assert (await gateway.post("/v1/completions", BODY)).body == part


async def test_a_route_may_rewrite_and_a_client_may_not(gateway: World, server: Backend) -> None:
    server.reply = (b'{"model":"other-team"}',)
    assert (await gateway.post("/team/completions", BODY)).body == b'{"model":"alias"}'
    assert json.loads(server.seen[-1].body)["model"] == "other-team"
    forged = await gateway.post("/plain/completions", BODY, x_llm_d_model_name_rewrite="other-team")
    assert json.loads(server.seen[-1].body)["model"] == "alias"
    assert forged.body == b'{"model":"other-team"}'
