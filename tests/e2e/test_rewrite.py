"""The body on its way: as it came, or with another model and nothing else changed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import World, world

pytestmark = pytest.mark.envoy
REWRITE = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: alias}
spec:
  poolRef: {name: base}
  rules:
  - matches: [{model: {type: Exact, value: alias}}]
    targets: [{modelRewrite: a-much-longer-name-of-a-model, weight: 1}]
"""


@pytest.fixture
async def server() -> AsyncIterator[Backend]:
    async with backend("server") as found:
        yield found


@pytest.fixture
async def gateway(tmp_path: Path, server: Backend) -> AsyncIterator[World]:
    text = documents(GATEWAY, pool("base", [server.address]), route("all", rule("/v1", to_pool("base"))), REWRITE)
    async with world(tmp_path, {"all.yaml": text}) as found:
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
    wanted = body.replace(b'"model" : "alias"', b'"model" : "a-much-longer-name-of-a-model"')
    assert await sent(gateway, server, body) == wanted
    assert (await gateway.outcome()).target_model == "a-much-longer-name-of-a-model"


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
async def test_a_body_of_any_size_arrives_as_it_was_sent(gateway: World, server: Backend, size: int) -> None:
    body = b'{"model":"other","prompt":"%b"}' % (b"0123456789" * (size // 10 + 1))
    assert await sent(gateway, server, body) == body
    longer = body.replace(b"other", b"alias", 1)
    assert await sent(gateway, server, longer) == body.replace(b"other", b"a-much-longer-name-of-a-model", 1)
