"""What every API tells of tokens, plain and streamed, is in the Outcome. The answers are as vLLM 0.32 writes them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from picker.facts import Outcome
from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import World, world

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
CHAT = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}
RESPONSE = {"input_tokens": 100, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 64}}
MESSAGE = {"input_tokens": 36, "output_tokens": 7, "cache_read_input_tokens": 64, "cache_creation_input_tokens": None}
BEGUN = {"input_tokens": 100, "output_tokens": 0, "cache_read_input_tokens": None}  # before it knows what is cached
PLAIN: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"usage": CHAT},
    "/v1/responses": {"object": "response", "usage": RESPONSE},
    "/v1/messages": {"type": "message", "usage": MESSAGE},
}
STREAMED: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [{"choices": [{}], "usage": None}, {"choices": [], "usage": CHAT}],
    "/v1/responses": [
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.output_text.delta", "delta": "a"},
        {"type": "response.completed", "response": {"usage": RESPONSE}},
    ],
    "/v1/messages": [
        {"type": "message_start", "message": {"usage": BEGUN}},
        {"type": "content_block_delta", "delta": {"text": "a"}},
        {"type": "message_delta", "usage": MESSAGE},
        {"type": "message_stop"},
    ],
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": []},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [], "max_tokens": 7},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Backend]:
    async with backend() as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(server: Backend, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    text = documents(GATEWAY, pool("base", [server.address]), route("all", rule("/v1", to_pool("base"))))
    async with world(Path(tmp_path_factory.mktemp("manifests")), {"all.yaml": text}) as found:
        yield found


async def asked(gateway: World, path: str, *, stream: bool) -> Outcome:
    answer = await gateway.post(path, BODIES[path] | {"model": "base", "stream": stream})
    assert answer.status == 200, answer.body
    return await gateway.outcome_of(answer)


@pytest.mark.parametrize("path", PLAIN)
async def test_a_plain_answer(path: str, gateway: World, server: Backend) -> None:
    server.reply, server.content_type = (json.dumps(PLAIN[path]).encode(),), "application/json"
    outcome = await asked(gateway, path, stream=False)
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens) == (100, 64, 7)


@pytest.mark.parametrize("path", STREAMED)
async def test_a_stream(path: str, gateway: World, server: Backend) -> None:
    server.reply = tuple(b"data: %b\n\n" % json.dumps(event).encode() for event in STREAMED[path])
    server.content_type = "text/event-stream; charset=utf-8"
    outcome = await asked(gateway, path, stream=True)
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.output_tokens) == (100, 64, 7)
