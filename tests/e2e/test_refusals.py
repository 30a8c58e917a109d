"""Every reason for which the picker refuses a request, as a client meets it: status, headers, and an error in the words of its API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from openai import APIStatusError, InternalServerError, RateLimitError

from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import ENDLESS, QUICK, Answer, World, serving, sim, world

pytestmark = pytest.mark.envoy
OBJECTIVE = """
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: base}}
"""
ONE_WAITS = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
metadata: {name: default}
plugins: [{type: predicted-latency-scorer}]
flowControl: {maxRequests: 1}
"""
BODY = {"model": "base", "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
OPENAI, ANTHROPIC = "/v1/chat/completions", "/v1/messages"
# reason -> (what makes the request one, llm-d's word for it)
SATURATED = "rejected-saturated"
REASONS = {
    "queue_ttl": ({"x-llm-d-inference-ttl": "20ms"}, "rejected-ttl-expired"),
    "slo_unreachable": ({"x-llm-d-slo-ttft-ms": "1"}, SATURATED),
    "shed_priority": ({"x-llm-d-inference-objective": "batch"}, SATURATED),
}


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[World]:
    """A pool with one server, whose one slot is taken for good and known to be the only one; and a pool without any."""
    endless = replace(QUICK, decode_ms=100)
    async with serving(sim("a", latency=endless, max_num_seqs=1)) as (server,):
        routes = route("all", rule("/v1", to_pool("base")), rule("/none", to_pool("none")))
        parts = (GATEWAY, pool("base", [server]), pool("none", []), OBJECTIVE, ONE_WAITS, routes)
        async with world(tmp_path, {"all.yaml": documents(*parts)}) as gateway:
            assert not gateway.problems
            body = BODY | {"max_tokens": ENDLESS, "stream": True}
            streams = [asyncio.ensure_future(gateway.post(OPENAI, body)) for _ in range(3)]
            latency = gateway.gateway.signals.latency
            await until(lambda: latency.speed(server.address).slots == 1.0, "its slots to be known")
            yield gateway
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)


def refused(answer: Answer, path: str, status: int, reason: str, word: str) -> None:
    """The whole of what a client may rely on."""
    assert answer.status == status
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-penstock-reason") == reason
    assert answer.header("x-llm-d-request-dropped-reason") == word
    assert answer.header("retry-after").isdigit() == (status == 429)
    found = orjson.loads(answer.body)
    kind = {
        429: "rate_limit_error",
        503: "overloaded_error" if path.endswith("messages") else "service_unavailable_error",
    }
    if path.endswith("messages"):
        assert found == {"type": "error", "error": {"type": kind[status], "message": found["error"]["message"]}}
    else:
        assert found["error"]["code"] == reason and found["error"]["type"] == kind[status]
        assert set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["message"]


@pytest.mark.parametrize("path", [OPENAI, ANTHROPIC])
async def test_every_reason_has_a_status_headers_and_a_body_of_the_api(full: World, path: str) -> None:
    for reason, (headers, word) in REASONS.items():
        answer = await full.send("POST", path, BODY, **headers)
        refused(answer, path, 429, reason, word)
        assert (await full.outcome_of(answer)).reason == reason
    none = await full.send("POST", path.replace("/v1", "/none"), BODY, **{"x-llm-d-inference-ttl": "20ms"})
    refused(none, path, 503, "no_endpoints", "rejected-no-endpoints")
    parked = asyncio.ensure_future(full.post(path, BODY))
    held = full.gateway.picker.queued
    await until(lambda: sum(count for count, _ in held("default/base").values()), "one to wait")
    refused(await full.post(path, BODY), path, 429, "queue_full", SATURATED)
    parked.cancel()


async def test_the_sdk_knows_them(full: World) -> None:
    async with full.client() as client, full.client("/none") as nobody:
        for asked, reason, kind in (
            (client, "queue_ttl", RateLimitError),
            (nobody, "no_endpoints", InternalServerError),
        ):
            with pytest.raises(APIStatusError) as found:
                await asked.chat.completions.create(**BODY, extra_headers={"x-llm-d-inference-ttl": "20ms"})
            assert isinstance(found.value, kind)
            assert found.value.code == reason
            assert found.value.response.headers["x-penstock-reason"] == reason


async def test_a_body_that_cannot_be_read_has_a_reason_too(full: World) -> None:
    for path, kind in ((OPENAI, "openai"), (ANTHROPIC, "anthropic")):
        answer = await full.post(path, BODY | {"messages": 1})
        assert (answer.status, answer.header("x-penstock-reason")) == (400, "bad_request")
        assert ("type" in orjson.loads(answer.body)) == (kind == "anthropic")
