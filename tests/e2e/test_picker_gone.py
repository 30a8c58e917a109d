"""The gateway's process is killed: streams go on, FailOpen pools are served, FailClose pools refuse, and a new one takes over.

`penstock run --no-envoy` as a process, with an Envoy that was started from `penstock bootstrap`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from penstock import envoy
from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import eventually, free_port
from tests.e2e.world import QUICK, accepting, serving, sim

pytestmark = pytest.mark.envoy
TOKENS = 400


class Site:
    """Addresses and manifests that outlive the gateway's process."""

    def __init__(self, folder: Path, server: SimServer) -> None:
        self.folder = folder
        self.http, self.xds, self.picker, self.telemetry = (f"127.0.0.1:{free_port()}" for _ in range(4))
        self.manifests = folder / "manifests"
        self.manifests.mkdir()
        text = documents(
            GATEWAY,
            *(pool(name, [server], mode=mode) for name, mode in (("open", "FailOpen"), ("closed", "FailClose"))),
            *(route(name, rule("/v1", to_pool(name)), hostname=f"{name}.test") for name in ("open", "closed")),
        )
        (self.manifests / "all.yaml").write_text(text)

    async def start(self) -> asyncio.subprocess.Process:
        """`penstock run`, once it serves."""
        process = await penstock(
            *("run", "--manifests", str(self.manifests), "--no-envoy", "--xds", self.xds, "--picker", self.picker),
            *("--telemetry", self.telemetry, "--listen", f"8080={self.http}", "--request-log", ""),
        )
        await accepting(int(self.picker.rpartition(":")[2]))
        return process

    def client(self, name: str) -> AsyncOpenAI:
        headers = {"host": f"{name}.test"}
        return AsyncOpenAI(base_url=f"http://{self.http}/v1", api_key="none", max_retries=0, default_headers=headers)

    async def post(self, name: str) -> tuple[int, str]:
        """The status and the code of the error, if it is one."""
        body = {"model": "base", "prompt": "hello", "max_tokens": 1}
        async with aiohttp.ClientSession() as session:
            url = f"http://{self.http}/v1/completions"
            async with session.post(url, json=body, headers={"host": f"{name}.test"}) as response:
                answer = await response.json()
                return response.status, str(answer.get("error", {}).get("code", ""))


async def penstock(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "penstock.cli", *arguments, **options)


@asynccontextmanager
async def fleet_envoy(site: Site) -> AsyncIterator[None]:
    """An Envoy as an existing fleet would start it."""
    asked = await penstock("bootstrap", "--xds", site.xds, "--admin", f"unix:{site.folder}/admin.sock", stdout=asyncio.subprocess.PIPE)  # fmt: skip
    text, _ = await asked.communicate()
    async with envoy.running(json.loads(text), site.folder, workers=2):
        await accepting(int(site.http.rpartition(":")[2]))
        yield


async def test_a_killed_gateway_ends_no_stream_and_a_new_one_takes_over(tmp_path: Path) -> None:
    async with serving(sim("a", latency=replace(QUICK, decode_ms=16))) as (server,):
        site = Site(tmp_path, server)
        first = await site.start()
        async with fleet_envoy(site), site.client("closed") as client:
            stream = await client.completions.create(model="base", prompt="go on", max_tokens=TOKENS, stream=True)
            chunks = aiter(stream)
            await anext(chunks)
            first.kill()
            await first.wait()
            assert server.engine.running == 1  # the stream is in its middle
            assert 1 + len([chunk async for chunk in chunks if chunk.choices]) == TOKENS
            for _ in range(5):
                assert await site.post("open") == (200, "")
                assert await site.post("closed") == (503, "picker_unavailable")
            second = await site.start()

            async def decided() -> bool:
                return await site.post("closed") == (200, "")

            await eventually(decided, "the new picker")
            for name in ("open", "closed"):
                assert await site.post(name) == (200, "")
            second.terminate()
            assert await second.wait() == 0
