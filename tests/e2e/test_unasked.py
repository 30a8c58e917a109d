"""Usage of streams whose clients did not ask for it: recorded, and not in what they read. Through the real Envoy."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from penstock.sim.server import SimServer
from picker.splice import LARGE
from tests.e2e import http2
from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, service, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import Answer, World, serving, sim, world
from tests.xds_server.test_translate_usage import DONE, NULL, TOKEN, USAGE

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
MESSAGES: Any = [{"role": "user", "content": "Where does the water go?"}]
BODY: dict[str, Any] = {"model": "base", "prompt": "p", "stream": True, "max_tokens": 8}
ASKED = {"stream_options": {"include_usage": True}}
AS_V1 = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}]"
MIRRORED = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]"
REWRITE = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata: {name: alias}
spec:
  poolRef: {name: plain}
  rules: [{matches: [{model: {value: alias}}], targets: [{modelRewrite: org/target}]}]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers() -> AsyncIterator[list[SimServer]]:
    async with serving(sim("a")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers_and_backend(servers: list[SimServer]) -> AsyncIterator[tuple[SimServer, Backend]]:
    async with backend() as found:
        yield servers[0], found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, servers_and_backend: tuple[SimServer, Backend]
) -> AsyncIterator[World]:
    simulated, plain = servers_and_backend
    text = documents(
        GATEWAY,
        pool("base", [simulated]),
        pool("apart", [simulated], more="penstock.dev/failover: base"),
        pool("left", [simulated], more="penstock.dev/stream-usage: client"),
        pool("plain", [plain.address]),
        route(
            "all",
            rule("/v1", to_pool("base")),
            rule("/apart", to_pool("apart"), more=AS_V1),
            rule("/left", to_pool("left"), more=AS_V1),
            rule("/plain", to_pool("plain")),
            rule("/model", to_pool("plain"), model="base"),
            rule("/mirrored", to_pool("plain"), more=MIRRORED),
            rule("/over", to_pool("over")),
        ),
        service("shadow", plain.address),
        pool("over", [plain.address], more="penstock.dev/failover: base"),
        REWRITE,
    )
    async with world(Path(tmp_path_factory.mktemp("manifests")), {"all.yaml": text}) as found:
        assert not found.problems
        yield found


@pytest.fixture
def server(servers_and_backend: tuple[SimServer, Backend]) -> Backend:
    """As new."""
    found = servers_and_backend[1]
    found.reply, found.content_type, found.headers, found.turn = (b"{}",), "application/json", {}, None
    return found


async def direct(server: SimServer, path: str, body: dict[str, Any]) -> bytes:
    """What the server says to a client of its own."""
    async with aiohttp.ClientSession() as session, session.post(server.url + path, json=body) as response:
        return await response.read()


def nameless(stream: bytes) -> bytes:
    """Without what differs from one answer to the next: the id, the time, and what was cached."""
    return re.sub(rb'"id":"[^"]*"|"created":\d+|"cached_tokens":\d+', b"", stream)


# --- simulated vLLM ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["/v1", "/apart"])
@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}, ASKED])
async def test_a_client_reads_what_the_server_would_have_said_to_it(
    gateway: World, servers: list[SimServer], prefix: str, path: str, options: dict[str, Any]
) -> None:
    body = BODY | {"messages": MESSAGES} | options
    answer = await gateway.post(prefix + path, body)
    wanted = await direct(servers[0], "/v1" + path, body)
    assert nameless(answer.body) == nameless(wanted)
    assert (b'"usage"' in answer.body) == (options == ASKED)
    outcome = await gateway.outcome_of(answer)
    assert outcome.output_tokens == 8
    assert outcome.input_tokens
    assert outcome.cached_tokens is not None


async def test_a_pool_may_leave_it_to_the_client(gateway: World) -> None:
    answer = await gateway.post("/left/completions", BODY)
    assert b'"usage"' not in answer.body
    assert (await gateway.outcome_of(answer)).output_tokens is None
    answer = await gateway.post("/left/completions", BODY | ASKED)
    assert b'"usage"' in answer.body
    assert (await gateway.outcome_of(answer)).output_tokens == 8


async def counted(gateway: World) -> dict[str, float]:
    """penstock_tokens_total of the pool, by type."""
    found: dict[str, float] = {}
    for line in (await gateway.metrics()).splitlines():
        if line.startswith("penstock_tokens_total{") and 'pool="default/base"' in line:
            kind = re.search(r'type="(\w+)"', line)
            assert kind is not None
            found[kind[1]] = found.get(kind[1], 0.0) + float(line.rpartition(" ")[2])
    return found


@pytest.mark.parametrize("asked", [True, False])
async def test_the_sdk_sees_usage_if_it_asks_and_the_metrics_always_do(gateway: World, asked: bool) -> None:
    since = await gateway.settled()
    before = await counted(gateway)
    options: Any = ASKED if asked else {}
    async with gateway.client() as client:
        stream = await client.chat.completions.create(
            model="base", messages=MESSAGES, max_tokens=11, stream=True, **options
        )
        chunks = [chunk async for chunk in stream]
    assert sum(len(chunk.choices) for chunk in chunks) == 12  # the first has the role
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([11] if asked else [])
    assert [chunk for chunk in chunks if not chunk.choices] == (chunks[-1:] if asked else [])
    outcome = await gateway.outcome(since=since)
    after = await counted(gateway)
    assert after["output"] - before.get("output", 0) == outcome.output_tokens == 11
    assert after["input"] - before.get("input", 0) == outcome.input_tokens


# --- a server that says what it is told to ----------------------------------------------------------------------------


async def sent(gateway: World, server: Backend, body: bytes, **headers: str) -> bytes:
    """What the server gets; its length is as the header says, or aiohttp had refused it."""
    answer = await gateway.post("/plain/completions", body, content_type="application/json", **headers)
    assert answer.status == 200, answer
    last = server.seen[-1]
    assert int(last.headers["content-length"]) == len(last.body)
    return last.body


async def streamed(gateway: World, server: Backend, *pieces: bytes, **more: Any) -> Answer:
    server.reply, server.content_type = pieces, "text/event-stream; charset=utf-8"
    return await gateway.post("/plain/completions", BODY | more)


@pytest.mark.parametrize("size", [1, 70_000, 1_000_000])
async def test_the_body_of_a_stream_has_the_option_and_is_else_as_it_was(
    gateway: World, server: Backend, size: int
) -> None:
    body = b'{ "model":"base", "n":1e0, "stream": true, "prompt":"%b"}' % (b"x" * size)
    assert await sent(gateway, server, body) == b'{"stream_options":{"include_usage":true},' + body[1:]
    rewritten = await sent(gateway, server, body.replace(b"base", b"alias", 1))
    assert rewritten == b'{"stream_options":{"include_usage":true},' + body.replace(b"base", b"org/target", 1)[1:]


ASK = b'"stream_options":{"include_usage":true},'
LARGE_BODY = b' { "model":"base", "n":1e0, "stream": true, "prompt":"\xc3\xbc%b"}' % (b"x" * 400_000)
WANTED = LARGE_BODY.replace(b"{", b"{" + ASK, 1)


@pytest.fixture
def never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picker, which runs in this process, can write no option into a body."""

    def fail(*_: object) -> bytes:
        raise AssertionError("the body went back")

    monkeypatch.setattr("picker.splice.with_usage", fail)


def lengths(server: Backend) -> tuple[str | None, str | None]:
    headers = server.seen[-1].headers
    return headers.get("content-length"), headers.get("transfer-encoding")


@pytest.mark.usefixtures("never_back")
@pytest.mark.parametrize("prefix", ["/plain", "/model", "/over"])
async def test_a_large_body_does_not_go_back(gateway: World, server: Backend, prefix: str) -> None:
    """`/model`: it was read before it was routed; `/over`: behind a listener of its own."""
    answer = await gateway.post(f"{prefix}/completions", LARGE_BODY, content_type="application/json")
    assert answer.status == 200
    assert server.seen[-1].body == WANTED
    assert lengths(server) == (str(len(WANTED)), None)
    assert "accept-encoding" not in server.seen[-1].headers


@pytest.mark.usefixtures("never_back")
async def test_a_body_of_unknown_length_has_one_afterwards(gateway: World, server: Backend) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(LARGE_BODY), 50_000):
            yield LARGE_BODY[at : at + 50_000]

    url, headers = gateway.url("/plain/completions"), {"content-type": "application/json"}
    async with gateway.session.post(url, data=pieces(), headers=headers) as response:
        assert response.status == 200
    assert server.seen[-1].body == WANTED
    assert lengths(server) == (str(len(WANTED)), None)


@pytest.mark.usefixtures("never_back")
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("trailers", [[], [("x-trailer", "t")]])
async def test_a_body_of_http2_with_and_without_trailers(
    gateway: World, server: Backend, length: bool, trailers: list[tuple[str, str]]
) -> None:
    headers = [("content-length", str(len(LARGE_BODY)))] if length else []
    port = gateway.ports[8080]
    assert await http2.post(port, "/plain/completions", LARGE_BODY, headers, trailers) == (200, b"{}")
    assert server.seen[-1].body == WANTED
    assert lengths(server) == (str(len(WANTED)), None)


@pytest.mark.usefixtures("never_back")
async def test_every_attempt_has_the_option(gateway: World, server: Backend) -> None:
    server.failures, before = 1, len(server.seen)
    assert (await gateway.post("/plain/completions", LARGE_BODY, content_type="application/json")).status == 200
    assert [each.body for each in server.seen[before:]] == [WANTED, WANTED]


@pytest.mark.usefixtures("never_back")
async def test_a_mirror_gets_the_same_body(gateway: World, server: Backend) -> None:
    before = len(server.seen)
    assert (await gateway.post("/mirrored/completions", LARGE_BODY, content_type="application/json")).status == 200
    await until(lambda: len(server.seen) == before + 2, "the copy")
    assert [each.body for each in server.seen[before:]] == [WANTED, WANTED]


@pytest.mark.usefixtures("never_back")
async def test_what_a_large_stream_tells_is_read_and_hidden(gateway: World, server: Backend) -> None:
    answer = await streamed(gateway, server, TOKEN, USAGE, DONE, prompt="x" * LARGE)
    assert answer.body == TOKEN + DONE
    assert (await gateway.outcome_of(answer)).input_tokens == 7


@pytest.mark.parametrize("said", [b"null", b'{"include_usage":false}'])
async def test_an_option_that_is_there_is_changed_in_its_place(gateway: World, server: Backend, said: bytes) -> None:
    body = LARGE_BODY[:-1] + b',"stream_options":%b}'
    assert await sent(gateway, server, body % said) == body % b'{"include_usage":true}'


async def test_a_pool_that_leaves_it_to_clients_leaves_large_bodies(gateway: World, servers: list[SimServer]) -> None:
    body = BODY | {"prompt": "x" * LARGE}
    assert nameless((await gateway.post("/left/completions", body)).body) == nameless(
        await direct(servers[0], "/v1/completions", body)
    )


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"base","prompt":"p"}',
        b'{"model":"base","stream":true,"stream_options":{"include_usage":true},"prompt":"p"}',
        b'{"model":"base","stream":true,"stream_options":{},"prompt":"p"}',
    ],
)
async def test_other_bodies_stay_as_they_are(gateway: World, server: Backend, body: bytes) -> None:
    assert await sent(gateway, server, body, accept_encoding="gzip") == body
    assert server.seen[-1].headers["accept-encoding"] == "gzip"


async def test_other_apis_stay_as_they_are(gateway: World, server: Backend) -> None:
    body = {"model": "base", "messages": [], "input": "x", "stream": True}
    for path in ("/plain/messages", "/plain/responses", "/plain/embeddings"):
        assert (await gateway.post(path, body)).status == 200
        assert json.loads(server.seen[-1].body) == body


async def test_nothing_is_held_but_an_event_that_is_cut(gateway: World, server: Backend) -> None:
    """Each piece leaves the server only when the client has what came before it."""
    cut = TOKEN.index(b'"index"') + 3
    pieces = (TOKEN, NULL, TOKEN[:cut], TOKEN[cut:], TOKEN + USAGE[:40], USAGE[40:], DONE)
    wanted = (TOKEN, NULL, TOKEN[:cut], TOKEN[cut:], TOKEN, b"", DONE)
    server.reply, server.content_type, server.turn = pieces, "text/event-stream", asyncio.Semaphore(0)
    agent = {"user-agent": "cut"}
    async with gateway.session.post(gateway.url("/plain/completions"), json=BODY, headers=agent) as response:
        for each in wanted:
            assert await response.content.readexactly(len(each)) == each
            server.turn.release()
        assert await response.content.read() == b""
    outcome = await gateway.outcome(lambda found: found.user_agent == "cut")
    assert (outcome.input_tokens, outcome.cached_tokens, outcome.reason) == (7, 0, "")


async def test_any_cut_gives_the_same_stream(gateway: World, server: Backend) -> None:
    stream = TOKEN + USAGE + DONE
    for cut in range(len(TOKEN), len(TOKEN + USAGE) + 1, 7):
        assert (await streamed(gateway, server, stream[:cut], stream[cut:])).body == TOKEN + DONE


async def test_both_changes_meet_in_one_stream(gateway: World, server: Backend) -> None:
    token, usage = (each.replace(b'"id":"c"', b'"model":"org/target"') for each in (TOKEN, USAGE))
    answer = await streamed(gateway, server, token[:30], token[30:] + usage[:60], usage[60:], DONE, model="alias")
    assert answer.body == token.replace(b"org/target", b"alias") + DONE
    assert (await gateway.outcome_of(answer)).input_tokens == 7


@pytest.mark.parametrize("end", [b"", b"data: [DONE]", USAGE[:40], USAGE[:-1]])
async def test_a_stream_that_breaks_off_loses_nothing(gateway: World, server: Backend, end: bytes) -> None:
    assert (await streamed(gateway, server, TOKEN + end)).body == TOKEN + end


async def test_an_event_of_megabytes_passes(gateway: World, server: Backend) -> None:
    huge = b'data: {"x":"' + b"x" * 3_000_000 + b'"}\n\n'
    assert (await streamed(gateway, server, huge, USAGE, DONE)).body == huge + DONE


async def test_what_cannot_be_read_stays(gateway: World, server: Backend) -> None:
    """No server that does as it is told compresses: it was not told that it may."""
    packed = gzip.compress(TOKEN + USAGE + DONE)
    server.reply, server.content_type, server.headers = (packed,), "text/event-stream", {"content-encoding": "gzip"}
    url = gateway.url("/plain/completions")
    headers = {"accept-encoding": "gzip"}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as raw,
        raw.post(url, json=BODY, headers=headers) as response,
    ):
        assert await response.read() == packed
    assert "accept-encoding" not in server.seen[-1].headers


async def test_a_client_that_leaves_leaves(gateway: World, server: Backend) -> None:
    server.reply, server.content_type, server.turn = (TOKEN, DONE), "text/event-stream", asyncio.Semaphore(0)
    agent = {"user-agent": "leaves"}
    async with gateway.session.post(gateway.url("/plain/completions"), json=BODY, headers=agent) as response:
        assert await response.content.readexactly(len(TOKEN)) == TOKEN
        response.close()
    outcome = await gateway.outcome(lambda found: found.user_agent == "leaves")
    assert outcome.reason == "client_cancelled"


async def test_an_error_is_the_servers(gateway: World, server: Backend) -> None:
    server.reply = (b'{"error":{"message":"stream_options: Extra inputs are not permitted"}}',)
    assert (await gateway.post("/plain/completions", BODY)).body == server.reply[0]


async def test_a_request_behind_a_listener_of_its_own_ends_once(gateway: World) -> None:
    """Both listeners log it, as the outer one serves other pools too."""
    before = await gateway.settled()
    answers = [await gateway.post("/apart/completions", BODY | {"prompt": "hello"}) for _ in range(3)]
    answers.append(await gateway.post("/v1/completions", BODY | {"prompt": "hello"}))  # logged after the others
    last = await gateway.outcome_of(answers[-1])
    assert last.pool == "default/base"
    ended = gateway.outcomes[before:]
    assert sorted(each.pool for each in ended) == ["default/apart"] * 3 + ["default/base"]
