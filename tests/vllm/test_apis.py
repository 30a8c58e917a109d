"""The other APIs that vLLM speaks, plain and streamed: who serves them is chosen by their prompt, and their usage is known."""

import json
from typing import Any

import pytest

from tests.e2e.world import World
from tests.vllm.server import BASE, BLOCK
from tests.vllm.text import text

pytestmark = pytest.mark.envoy
SYSTEM = text("apis", 300)
QUESTION = [{"role": "user", "content": "And then?"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"instructions": SYSTEM, "input": "And then?", "max_output_tokens": 6},
    "/v1/messages": {"system": SYSTEM, "messages": QUESTION, "max_tokens": 6},
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("path", BODIES)
async def test_usage_is_known_and_the_second_is_sent_where_the_first_was(
    path: str, stream: bool, gateway: World
) -> None:
    found = []
    for _ in range(2):
        answer = await gateway.post(path, BODIES[path] | {"model": BASE, "stream": stream})
        assert answer.status == 200, answer.body
        usage = usage_of(answer.body, stream=stream)
        outcome = await gateway.outcome_of(answer)
        # Anthropic's input is what was neither read from the cache nor written to it.
        cached = sum(usage.get(f"cache_{done}_input_tokens") or 0 for done in ("read", "creation"))
        assert (outcome.input_tokens, outcome.output_tokens) == (usage["input_tokens"] + cached, usage["output_tokens"])
        found.append(outcome)
    assert found[1].endpoint == found[0].endpoint
    assert found[1].input_tokens is not None
    assert found[1].cached_tokens == (found[1].input_tokens - 1) // BLOCK * BLOCK


def usage_of(body: bytes, *, stream: bool) -> dict[str, Any]:
    """The last usage that the answer names."""
    lines = [line[6:] for line in body.splitlines() if line.startswith(b"data: {")] if stream else [body]
    found: dict[str, Any] = {}
    for line in lines:
        event = json.loads(line)
        for place in (event, event.get("response") or {}, event.get("message") or {}):
            found |= place.get("usage") or {}
    return found
