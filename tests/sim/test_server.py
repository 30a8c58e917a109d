"""The HTTP side over real sockets: vLLM's shapes, failures on demand, and what the picker reads."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.sim.cli import main, settings_of
from penstock.sim.engine import EngineSettings
from penstock.sim.faults import Fault, Faults
from penstock.sim.latency import Latency
from penstock.sim.server import SimServer, SimSettings, several
from picker.load import Load, parse, parse_ranks

INSTANT = Latency(overhead_ms=0, prefill_ms_per_token=0, decode_ms=0, lora_ms=0)
NEVER = replace(INSTANT, overhead_ms=1e9)
SETTINGS = SimSettings(
    models=("base", "alias"), loras=("sql",), max_model_len=400, engine=EngineSettings(max_loras=1, latency=INSTANT)
)
CHAT = {"model": "base", "messages": [{"role": "user", "content": "hello " * 50}], "max_tokens": 5}


class Client:
    def __init__(self, session: aiohttp.ClientSession, server: SimServer) -> None:
        self.session, self.server = session, server

    async def post(self, path: str, fields: Any, **headers: str) -> tuple[int, str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = fields if isinstance(fields, bytes) else json.dumps(fields)
        async with self.session.post(self.server.url + path, data=body, headers=named) as response:
            return response.status, await response.text(), response.headers

    async def chat(self, **fields: Any) -> tuple[int, Any, Any]:
        status, text, headers = await self.post("/v1/chat/completions", {**CHAT, **fields})
        return status, json.loads(text), headers

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.server.url + path) as response:
            return response.status, await response.text()


@pytest.fixture
async def client(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    server = SimServer(getattr(request, "param", SETTINGS))
    await server.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
        yield Client(session, server)
    await server.stop()


def waiting_for(latency: Latency, **sizes: int) -> SimSettings:
    return replace(SETTINGS, engine=replace(SETTINGS.engine, latency=latency, **sizes))


async def test_a_chat_answer(client: Client) -> None:
    status, answer, headers = await client.chat()
    assert (status, headers["x-sim-server"], answer["object"], answer["model"]) == (
        200,
        "sim",
        "chat.completion",
        "base",
    )
    (choice,) = answer["choices"]
    assert (choice["finish_reason"], len(choice["message"]["content"])) == ("length", 20)
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    again = (await client.chat())[1]
    assert again["choices"] == answer["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 80


async def test_the_next_turn_finds_the_answer_in_the_cache(client: Client) -> None:
    _, answer, _ = await client.chat(max_tokens=60)
    used = answer["usage"]["total_tokens"]
    turns = [*CHAT["messages"], answer["choices"][0]["message"], {"role": "user", "content": "and then?"}]
    _, answer, _ = await client.chat(messages=turns)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == (used - 1) // 16 * 16


@pytest.mark.parametrize("client", [SETTINGS, waiting_for(Latency(1, 0, 1))], indirect=True)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream_says_the_same_as_a_whole_answer(client: Client, path: str, usage: bool) -> None:
    fields = {**CHAT, "prompt": "hello " * 50}
    _, text, _ = await client.post(path, fields)
    whole = json.loads(text)
    options = {"stream_options": {"include_usage": True}} if usage else {}
    _, text, headers = await client.post(path, {**fields, "stream": True, **options})
    assert headers["content-type"].startswith("text/event-stream")
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    if usage:
        assert chunks.pop()["usage"]["completion_tokens"] == 5
    chosen = [chunk["choices"][0] for chunk in chunks]
    said = "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in chosen)
    (expected,) = whole["choices"]
    assert said == (expected["message"]["content"] if "message" in expected else expected["text"])
    assert [choice["finish_reason"] for choice in chosen][-2:] == [None, "length"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (None, []),
        ({"include_usage": False}, []),
        ({"include_usage": None, "continuous_usage_stats": True}, []),
        ({"include_usage": True}, [5]),
        ({}, [5]),
        ({"continuous_usage_stats": True}, [0, 1, 2, 3, 4, 5, 5]),
    ],
)
async def test_a_stream_tells_usage_as_it_is_asked_to(client: Client, options: Any, told: list[int]) -> None:
    _, text, _ = await client.post("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": options})
    chunks = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]
    found = [chunk["usage"] for chunk in chunks if "usage" in chunk]
    assert [usage["completion_tokens"] for usage in found] == told
    assert all(usage["total_tokens"] - usage["completion_tokens"] == usage["prompt_tokens"] for usage in found)
    assert len([chunk for chunk in chunks if not chunk["choices"]]) == bool(told)


async def test_an_answer_without_max_tokens_stops_by_itself(client: Client) -> None:
    _, answer, _ = await client.chat(max_tokens=None)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert 8 <= answer["usage"]["completion_tokens"] <= 64


@pytest.mark.parametrize(
    ("fields", "status", "kind", "param"),
    [
        ({"model": "nope"}, 404, "NotFoundError", "model"),
        ({"model": 3}, 400, "BadRequestError", "model"),
        ({"messages": []}, 400, "BadRequestError", "messages"),
        ({"messages": [{"content": "x"}]}, 400, "BadRequestError", "messages"),
        ({"max_tokens": -1}, 400, "BadRequestError", "max_tokens"),
        ({"messages": [{"role": "user", "content": "long" * 400}]}, 400, "BadRequestError", "input_tokens"),
        ({"stream_options": {"include_usage": True}}, 400, "BadRequestError", "stream_options"),
        ({"stream": True, "stream_options": "x"}, 400, "BadRequestError", "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, 400, "BadRequestError", "stream_options"),
    ],
)
async def test_errors_have_the_shape_of_vllm(
    client: Client, fields: dict[str, Any], status: int, kind: str, param: str
) -> None:
    found, body, _ = await client.chat(**fields)
    assert found == status
    assert {**body["error"], "message": ""} == {"message": "", "type": kind, "param": param, "code": status}


async def test_unknown_model_names_the_known_ones(client: Client) -> None:
    _, body, _ = await client.chat(model="nope")
    assert body["error"]["message"] == "The model `nope` does not exist. Valid aliases: base, alias, sql."


@pytest.mark.parametrize("body", [b"{", b"[]", {"model": "base"}, {"model": "base", "prompt": [-1]}])
async def test_bad_bodies(client: Client, body: Any) -> None:
    assert (await client.post("/v1/completions", body))[0] == 400


async def test_prompts_as_token_ids_and_content_as_parts(client: Client) -> None:
    status, text, _ = await client.post("/v1/completions", {"model": "sql", "prompt": [1, 2, 3], "max_tokens": 1})
    assert (status, json.loads(text)["usage"]["prompt_tokens"]) == (200, 3)
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello " * 50}, {"type": "image_url"}]}]
    assert (await client.chat(messages=parts))[1]["usage"] == (await client.chat())[1]["usage"] | {
        "prompt_tokens_details": {"cached_tokens": 0}
    }


async def test_models_and_health(client: Client) -> None:
    models = json.loads((await client.get("/v1/models"))[1])["data"]
    assert [(model["id"], model["parent"]) for model in models] == [("base", None), ("alias", None), ("sql", "base")]
    assert (await client.get("/health"))[0] == 200
    assert (await client.post("/sim", {"healthy": False}))[0] == 200
    assert (await client.get("/health"))[0] == 503


async def test_load_report_when_asked(client: Client) -> None:
    for kind in ("TEXT", "JSON"):
        _, _, headers = await client.post("/v1/chat/completions", CHAT, endpoint_load_metrics_format=kind)
        assert headers["endpoint-load-metrics"].startswith(kind)
        assert "num_requests_waiting" in headers["endpoint-load-metrics"]
    assert "endpoint-load-metrics" not in (await client.chat())[2]


# --- data-parallel ranks ----------------------------------------------------------------------------------------------

RANKED = replace(SETTINGS, data_parallel_size=2)


@pytest.mark.parametrize("client", [RANKED], indirect=True)
async def test_a_header_names_the_rank_and_without_it_they_take_turns(client: Client) -> None:
    wanted = [await client.post("/v1/chat/completions", CHAT, x_data_parallel_rank=rank) for rank in ("1", "1", "0")]
    assert [headers["x-sim-rank"] for _, _, headers in wanted] == ["1", "1", "0"]
    cached = [json.loads(text)["usage"]["prompt_tokens_details"]["cached_tokens"] for _, text, _ in wanted]
    assert cached[0] == cached[2] == 0 < cached[1]
    turns = [await client.chat() for _ in range(4)]
    assert [headers["x-sim-rank"] for _, _, headers in turns] == ["0", "1", "0", "1"]
    _, _, ignored = await client.post("/v1/chat/completions", CHAT, x_data_parallel_rank="first")
    assert ignored["x-sim-rank"] == "0"
    for rank in ("2", "-1"):
        status, text, _ = await client.post("/v1/chat/completions", CHAT, x_data_parallel_rank=rank)
        assert (status, json.loads(text)["error"]["type"]) == (400, "BadRequestError")
        assert f"data_parallel_rank {rank} is out of range [0, 2)" in text


@pytest.mark.parametrize("client", [replace(waiting_for(NEVER), data_parallel_size=2)], indirect=True)
async def test_each_rank_has_figures_of_its_own(client: Client) -> None:
    task = asyncio.create_task(client.post("/v1/chat/completions", CHAT, x_data_parallel_rank="1"))
    await until(lambda: client.server.ranks.engines[1].running)
    _, page = await client.get("/metrics")
    families = {each.name: each for each in text_string_to_metric_families(page)}  # as strict as Prometheus
    assert [each.labels["engine"] for each in families["vllm:time_to_first_token_seconds"].samples[:1]] == ["0"]
    found = parse_ranks(page.encode())
    assert [(found[rank].running, found[rank].blocks) for rank in (0, 1)] == [(0, 4096), (1, 4096)]
    assert found[0].kv_usage == 0.0 < found[1].kv_usage
    assert parse(page.encode()).blocks == 8192
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- under load -------------------------------------------------------------------------------------------------------


async def until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0)


@pytest.mark.parametrize("client", [waiting_for(NEVER, max_num_seqs=2, max_queued=1, kv_blocks=100)], indirect=True)
async def test_metrics_are_what_the_picker_reads(client: Client) -> None:
    engine = client.server.engine
    tasks = []
    for number, model in enumerate(("sql", "base", "base")):
        tasks.append(asyncio.create_task(client.chat(model=model)))
        await until(lambda number=number: engine.running + engine.waiting == number + 1)
    load = parse((await client.get("/metrics"))[1].encode())
    blocks = 2 * 6
    assert load == Load(
        waiting=1, running=2, kv_usage=blocks / 100, loras=frozenset({"sql"}), max_loras=1, block_tokens=16, blocks=100
    )
    status, body, _ = await client.chat()
    assert (status, body["error"]["type"]) == (503, "ServiceUnavailableError")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: engine.running + engine.waiting == 0)  # the clients went away
    _, page = await client.get("/metrics")
    samples = {
        (s.name, s.labels.get("finished_reason", "")): s.value
        for f in text_string_to_metric_families(page)
        for s in f.samples
    }
    assert samples["vllm:admission_rejections_total", ""] == 1
    assert samples["vllm:request_success_total", "abort"] == 2 or samples["vllm:request_success_total", "abort"] == 3
    assert parse(page.encode()).loras == frozenset()


async def test_counters(client: Client) -> None:
    await client.chat()
    await client.chat()
    _, page = await client.get("/metrics")
    samples = {s.name: s.value for f in text_string_to_metric_families(page) for s in f.samples}
    assert samples["vllm:generation_tokens_total"] == 10
    assert samples["vllm:prefix_cache_hits_total"] == samples["vllm:prompt_tokens_cached_total"] == 80
    assert samples["vllm:prompt_tokens_total"] == samples["vllm:prefix_cache_queries_total"]
    assert samples["vllm:time_to_first_token_seconds_count"] == 2


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["500", "503"])
async def test_failing_statuses(client: Client, kind: str) -> None:
    status, body, headers = await client.post("/v1/chat/completions", CHAT, x_sim_fail=kind)
    assert (status, json.loads(body)["error"]["code"], headers["x-sim-server"]) == (int(kind), int(kind), "sim")
    assert (await client.post("/v1/chat/completions", CHAT, x_sim_fail="what"))[0] == 400


async def test_reset_before_the_answer(client: Client) -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post("/v1/chat/completions", CHAT, x_sim_fail="reset")


async def test_hang_until_the_client_leaves(client: Client) -> None:
    task = asyncio.create_task(client.post("/v1/chat/completions", CHAT, x_sim_fail="hang"))
    await until(lambda: client.server.served == 1)
    task.cancel()
    assert (await client.chat())[0] == 200


@pytest.mark.parametrize("client", [waiting_for(Latency(1, 0, 1))], indirect=True)
async def test_abort_after_some_tokens(client: Client) -> None:
    seen = b""
    with pytest.raises(aiohttp.ClientPayloadError):  # what came before the end counts
        async with client.session.post(
            client.server.url + "/v1/chat/completions", json={**CHAT, "stream": True}, headers={"x-sim-fail": "abort:2"}
        ) as response:
            assert response.status == 200
            async for part in response.content.iter_any():
                seen += part
    assert seen.count(b'"delta":{"content"') == 2
    await until(lambda: client.server.engine.running == 0)


async def test_what_fails_can_be_changed_while_it_runs(client: Client) -> None:
    assert (await client.post("/sim", {"kind": "503", "rate": 1}))[0] == 200
    assert (await client.chat())[0] == 503
    assert (await client.post("/sim", {"kind": "slow", "slow_seconds": 0}))[0] == 200
    assert (await client.chat())[0] == 200
    for bad in ({"rate": 2}, {"kind": "x"}, {"rate": "1"}, {"colour": 1}, [], b"{"):
        assert (await client.post("/sim", bad))[0] == 400
    assert client.server.faults.kind == "slow"


def test_faults() -> None:
    assert Fault.parse("abort:7") == Fault("abort", 7)
    faults = Faults()
    faults.change({"kind": "abort:3"})
    assert faults.kind == "abort:3"


@pytest.mark.parametrize("client", [replace(waiting_for(Latency(1, 0, 1)), kill_after_tokens=3)], indirect=True)
async def test_a_killed_server_cuts_streams_and_refuses_connections(client: Client) -> None:
    with pytest.raises(aiohttp.ClientError):
        await client.post("/v1/chat/completions", {**CHAT, "stream": True})
    assert client.server.dead.is_set()
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get("/health")


async def test_several_servers_tell_who_served() -> None:
    servers = several(3, SETTINGS)
    for server in servers:
        await server.start()
    async with aiohttp.ClientSession() as session:
        names = [(await Client(session, server).chat())[2]["x-sim-server"] for server in servers]
    assert names == ["sim-0", "sim-1", "sim-2"]
    for server in servers:
        await server.stop()


# --- command line -----------------------------------------------------------------------------------------------------


def test_options() -> None:
    settings = settings_of(
        [
            "--port",
            "8101",
            "--models",
            "a,b",
            "--loras",
            "sql,chat",
            "--max-num-seqs",
            "4",
            "--decode-ms",
            "1",
            "--fail-kind",
            "hang",
        ]
    )
    assert (settings.name, settings.models, settings.loras, settings.port) == (
        "sim-8101",
        ("a", "b"),
        ("sql", "chat"),
        8101,
    )
    assert (settings.engine.max_loras, settings.engine.max_num_seqs, settings.engine.latency.decode_ms) == (2, 4, 1.0)
    assert settings_of([]).engine == EngineSettings()
    assert settings_of(["--data-parallel-size", "4"]).data_parallel_size == 4


def test_main_refuses_what_it_does_not_know() -> None:
    with pytest.raises(SystemExit):
        main(["--colour"])


async def test_adapters_come_and_go_as_in_vllm(client: Client) -> None:
    async def listed() -> dict[str, Any]:
        return {one["id"]: one["parent"] for one in json.loads((await client.get("/v1/models"))[1])["data"]}

    assert await listed() == {"base": None, "alias": None, "sql": "base"}
    assert (await client.chat(model="chat"))[0] == 404
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    status, text, _ = await client.post(load, {"lora_name": "chat", "lora_path": "/x"})
    assert (status, text) == (200, "Success: LoRA adapter 'chat' added successfully.")
    assert (await client.post(load, {"lora_name": "chat", "lora_path": "/x"}))[0] == 400
    assert (await client.chat(model="chat"))[0] == 200
    assert "chat" in await listed()
    assert (await client.post(unload, {"lora_name": "chat"}))[0] == 200
    assert (await client.post(unload, {"lora_name": "chat"}))[0] == 404
    assert (await client.chat(model="chat"))[0] == 404
    for bad in (b"{", b"[]", b"{}", b'{"lora_name": 1}'):
        assert (await client.post(load, bad))[0] == 400
