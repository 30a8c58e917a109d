"""A gateway with its own Envoy on manifests in a folder of the test, and what clients and facts say of it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from openai import AsyncOpenAI

from penstock.gateway import Gateway
from penstock.run import running
from penstock.settings import Listen, Proxy, Settings
from penstock.sim.engine import EngineSettings
from penstock.sim.latency import Latency
from penstock.sim.server import SimServer, SimSettings
from picker.facts import Decision, Outcome
from tests.e2e.waiting import free_port, in_own_task, listens, until

QUICK = Latency(overhead_ms=1, prefill_ms_per_token=0, decode_ms=1, decode_slowdown=0, prefill_slowdown=0, lora_ms=1)
ENDLESS = 20_000  # tokens: a stream that a test ends before it ends by itself


@dataclass(slots=True)
class World:
    """One running gateway, as a test sees it."""

    gateway: Gateway
    manifests: Path
    ports: dict[int, int]  # listener port -> the one it has here
    session: aiohttp.ClientSession
    outcomes: list[Outcome] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, path: str = "", port: int = 8080, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.ports[port]}{path}"

    def client(self, base: str = "/v1", **options: Any) -> AsyncOpenAI:
        """The OpenAI SDK, without retries of its own; close it, or use it in `async with`."""
        return AsyncOpenAI(base_url=self.url(base), api_key="none", max_retries=0, timeout=60, **options)

    async def post(self, path: str, body: Any, *, host: str = "", **headers: str) -> "Answer":
        """A JSON value, or bytes as they are; header names with `_` for `-`."""
        return await self.send("POST", path, body, host=host, **headers)

    async def send(self, method: str, path: str, body: Any = None, *, host: str = "", **headers: str) -> "Answer":
        agent = f"test/{next(self.numbers)}"
        named = {"user-agent": agent} | {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"host": host} if host else {}
        given: dict[str, Any] = {"data": body} if isinstance(body, bytes) else {"json": body}
        url = self.url(path)
        async with self.session.request(method, url, headers=named, allow_redirects=False, **given) as response:
            return Answer(response.status, await response.read(), dict(response.headers), agent)

    async def outcome(self, fits: Callable[[Outcome], bool] = lambda _: True, since: int = 0) -> Outcome:
        """The first outcome, after the first `since`, that fits; waits for it."""
        found = await until(lambda: [each for each in self.outcomes[since:] if fits(each)], "an outcome that fits")
        return found[0]

    async def settled(self) -> int:
        """How many outcomes there are, once every decision has its own."""

        def ended() -> bool:
            return {found.id for found in self.decisions} <= {found.id for found in self.outcomes}

        await until(ended, "the outcome of every decision")
        return len(self.outcomes)

    async def outcome_of(self, answer: "Answer") -> Outcome:
        return await self.outcome(lambda found: found.user_agent == answer.agent)

    def write(self, name: str, text: str) -> None:
        """A manifest, replaced as editors do it: whole."""
        file = self.manifests / f".{name}"
        file.write_text(text)
        file.replace(self.manifests / name)

    @property
    def problems(self) -> list[str]:
        return list(self.gateway.report.status()["problems"])

    async def metrics(self) -> str:
        """/metrics, as Prometheus reads it."""
        async with self.session.get(f"http://{self.gateway.settings.telemetry}/metrics") as response:
            assert response.status == 200
            return await response.text()

    async def openmetrics(self) -> str:
        """/metrics with exemplars."""
        headers = {"accept": "application/openmetrics-text; version=1.0.0"}
        async with self.session.get(f"http://{self.gateway.settings.telemetry}/metrics", headers=headers) as response:
            return await response.text()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]
    agent: str  # that the request had, so that its outcome can be told from others

    def header(self, name: str) -> str:
        return {key.lower(): value for key, value in self.headers.items()}.get(name, "")

    @property
    def server(self) -> str:
        return self.header("x-sim-server")


@asynccontextmanager
async def world(
    manifests: Path, documents: Mapping[str, str] | None = None, *, ports: tuple[int, ...] = (8080,), **settings: Any
) -> AsyncIterator[World]:
    """A gateway that serves its listeners; `documents` (file name -> YAML) are written to `manifests` first."""
    manifests.mkdir(parents=True, exist_ok=True)
    for name, text in (documents or {}).items():
        (manifests / name).write_text(text)
    bound = {port: free_port() for port in ports}
    listen = Listen(binds=tuple((port, "127.0.0.1", number) for port, number in bound.items()))
    chosen = Settings(
        **{
            "manifests": manifests,
            "listen": listen,
            "proxy": Proxy(admin="", workers=2),
            "telemetry": f"127.0.0.1:{free_port()}",
            "poll": 0.02,
            **settings,
        }
    )
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(in_own_task(running(chosen)))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)))
        found = World(gateway, manifests, bound, session)
        gateway.facts.on(Outcome, found.outcomes.append)
        gateway.facts.on(Decision, found.decisions.append)
        for port in bound.values():
            await accepting(port)
        yield found


async def accepting(port: int) -> None:
    """Until somebody listens there."""
    async with asyncio.timeout(30):
        while not await listens(port):
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(*settings: SimSettings) -> AsyncIterator[list[SimServer]]:
    """Simulated model servers, while the block lasts."""
    servers = [SimServer(each) for each in settings]
    async with AsyncExitStack() as stack:
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
        yield servers


def sim(name: str, *models: str, latency: Latency = QUICK, host: str = "127.0.0.1", **options: Any) -> SimSettings:
    """A server that answers at once; options of EngineSettings go there."""
    inner = {key: options.pop(key) for key in list(options) if key in EngineSettings.__dataclass_fields__}
    engine = replace(EngineSettings(max_num_seqs=64), latency=latency, **inner)
    return SimSettings(name=name, host=host, models=models or ("base",), engine=engine, **options)


async def streaming(client: AsyncOpenAI, model: str = "base", tokens: int = ENDLESS, **options: Any) -> Any:
    """A completion that streams."""
    return await client.completions.create(model=model, prompt="go on", max_tokens=tokens, stream=True, **options)
