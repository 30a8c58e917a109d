"""Requests that are wrong: an answer that an SDK understands, and no server that sees them."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import openai
import pytest
import pytest_asyncio

from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.world import Answer, World, serving, sim, world

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
LIMIT = 64 << 10
JSON = {"content-type": "application/json"}
GOOD = b'{"model":"base","prompt":"hello","max_tokens":1}'
BY_MODEL, BY_PATH = "/v1/completions", "/any/v1/completions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[SimServer]]:
    async with serving(sim("a"), sim("decoy")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, servers: list[SimServer]) -> AsyncIterator[World]:
    """/v1 routes by the model of the body, /any sends everything to the pool: there the picker reads the body first."""
    strip = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]"
    routes = route("all", rule("/v1", to_pool("base"), model="base"), rule("/any", to_pool("base"), more=strip))
    text = documents(GATEWAY, pool("base", servers[:1]), routes)
    folder = Path(tmp_path_factory.mktemp("manifests"))
    async with world(folder, {"all.yaml": text}, max_body=LIMIT) as found:
        yield found


async def send(gateway: World, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    return await gateway.post(path, body, **dict(headers))


def error_of(answer: Answer) -> dict[str, object]:
    """The error object of OpenAI's API: these four, and a message."""
    assert answer.header("content-type").startswith("application/json"), answer
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return dict(error)


@pytest.mark.parametrize("path", [BY_MODEL, BY_PATH])
@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{not json", JSON, 400, "bad_request"),
        (b"", JSON, 400, "bad_request"),
        (b"[1, 2]", JSON, 400, "bad_request"),
        (b'{"prompt":"hello"}', JSON, 400, "bad_request"),
        (b'{"model":"","prompt":"hello"}', JSON, 400, "bad_request"),
        (GOOD + b" " * LIMIT, JSON, 413, "too_large"),
    ],
    ids=["not-json", "empty", "a-list", "no-model", "model-is-empty", "too-large"],
)
async def test_a_wrong_body_is_refused(
    gateway: World, servers: list[SimServer], path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    before = servers[0].served
    answer = await send(gateway, path, body, headers)
    assert answer.status == status, answer
    error = error_of(answer)
    assert error["type"] == "invalid_request_error" and code in str(error["code"])
    assert servers[0].served == before


async def test_a_model_that_is_a_number_is_no_model(gateway: World) -> None:
    """Where the model decides the route, Envoy reads it as text: there is none of that name."""
    for path, status in ((BY_MODEL, 404), (BY_PATH, 400)):
        answer = await send(gateway, path, b'{"model":17,"prompt":"hello"}', JSON)
        assert answer.status == status and error_of(answer)["type"] == "invalid_request_error"


async def test_a_content_type_that_is_not_json_is_refused_where_the_model_decides(gateway: World) -> None:
    answer = await send(gateway, BY_MODEL, GOOD, {"content-type": "text/plain"})
    assert answer.status == 400 and "content type" in str(error_of(answer)["message"])


async def test_a_charset_is_no_other_content_type(gateway: World) -> None:
    answer = await send(gateway, BY_MODEL, GOOD, {"content-type": "application/json; charset=utf-8"})
    assert answer.status == 200


@pytest.mark.parametrize("path", [BY_MODEL, BY_PATH])
async def test_the_sdk_raises_what_fits(gateway: World, path: str) -> None:
    async with gateway.client(path.removesuffix("/completions")) as client:
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="base", prompt="x", extra_body={"model": None})
        with pytest.raises(openai.APIStatusError) as refused:
            await client.completions.create(model="base", prompt="x" * LIMIT)
        assert refused.value.status_code == 413


async def test_outcomes_say_why(gateway: World) -> None:
    for body, reason in ((b"{not json", "bad_request"), (GOOD + b" " * LIMIT, "body_too_large")):
        for path in (BY_MODEL, BY_PATH):
            answer = await send(gateway, path, body, JSON)
            assert (await gateway.outcome_of(answer)).reason == reason


@pytest.mark.parametrize("path", [BY_MODEL, BY_PATH])
async def test_a_forged_destination_is_ignored(gateway: World, servers: list[SimServer], path: str) -> None:
    forged = {
        "x-gateway-destination-endpoint": servers[1].address,
        "x-gateway-destination-endpoint-subset": servers[1].address,
        "x-gateway-destination-endpoint-served": servers[1].address,
        "x-penstock-pool": "default/other",
        "x-penstock-body": "invalid",
    }
    answer = await send(gateway, path, GOOD, JSON | forged)
    assert (answer.status, answer.server) == (200, "a")
    assert servers[1].served == 0


async def test_a_forged_model_header_does_not_choose_the_route(gateway: World) -> None:
    answer = await send(gateway, BY_MODEL, GOOD.replace(b"base", b"else"), JSON | {"x-gateway-model-name": "base"})
    assert (answer.status, error_of(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_404(gateway: World, method: str) -> None:
    answer = await gateway.send(method, "/nowhere")
    assert (answer.status, error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/messages", b"{not json", 400, "invalid_request_error"),
        ("/any/v1/messages", b"{not json", 400, "invalid_request_error"),
        ("/v1/messages?beta=true", b'{"messages":[]}', 400, "invalid_request_error"),
        ("/v1/messages/count_tokens", b'{"model":"nobody","messages":[]}', 404, "not_found_error"),
        ("/nowhere/messages", b"{}", 404, "not_found_error"),
        ("/v1/messages", GOOD + b" " * LIMIT, 413, "request_too_large"),
        ("/any/v1/messages", GOOD + b" " * LIMIT, 413, "request_too_large"),
    ],
)
async def test_who_speaks_the_messages_api_is_answered_in_it(
    gateway: World, path: str, body: bytes, status: int, kind: str
) -> None:
    answer = await send(gateway, path, body, JSON)
    assert answer.status == status, answer
    assert answer.header("content-type").startswith("application/json")
    found = json.loads(answer.body)
    assert (found["type"], found["error"]["type"]) == ("error", kind)
    assert found["error"]["message"] and set(found["error"]) == {"type", "message"}
