"""The simulated server's HTTP side, on aiohttp: requests in, the engine's progress out.

One timer a server drives the engine; what a tick gives to all streams is written there, without waking a task per token.
Start many in one event loop on port 0 (tests), or one per process (`penstock sim`).
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import orjson
from aiohttp import web

from penstock.sim import api, tokens
from penstock.sim.engine import Engine, EngineSettings, Full, Job, Progress
from penstock.sim.faults import Fault, Faults
from penstock.sim.kv_events import Publisher
from penstock.sim.metrics import CONTENT_TYPE, Page, accelerator
from penstock.sim.models import Models
from penstock.sim.ranks import WANTED_HEADER, Ranks

SERVER_HEADER = "x-sim-server"
RANK_HEADER = "x-sim-rank"  # which engine has answered
_RANK = web.RequestKey("rank", int)
FAIL_HEADER = "x-sim-fail"
_DEFAULT_TOKENS = (8, 64)  # an answer without max_tokens ends by itself within this range


@dataclass(frozen=True, slots=True)
class SimSettings:
    """One simulated server. Port 0: any free one."""

    name: str = "sim"
    host: str = "127.0.0.1"
    port: int = 0
    models: tuple[str, ...] = ("base",)  # aliases of one model
    loras: tuple[str, ...] = ()  # adapters of it, at the start
    max_model_len: int = 32768
    engine: EngineSettings = field(default_factory=EngineSettings)
    fail_kind: str = "500"
    fail_rate: float = 0.0
    kill_after_tokens: int = 0  # the server dies when it has generated so many; 0: never
    kv_events: int | None = None  # port of its KV events, 0: any free one; None: it publishes none
    data_parallel_size: int = 1  # engines; a request without the header goes to the next


@dataclass(slots=True, eq=False)
class _Open:
    """A request that an engine has."""

    answer: api.Answer
    deliver: Callable[[bytes], None] | None  # streams: write this
    done: asyncio.Future[Progress | None]  # None: the connection ends without an end of the message
    abort_after: int = 0
    tokens: int = 0
    cached_tokens: int = 0


class SimServer:
    """`start` opens the port, `stop` closes it; `url` and `address` say where it is."""

    def __init__(self, settings: SimSettings = SimSettings()) -> None:
        self.settings = settings
        self.ranks = Ranks(settings.data_parallel_size, settings.engine, kv_events=settings.kv_events is not None)
        self.models = Models(settings.models, settings.loras, settings.max_model_len)
        self.faults = Faults(settings.fail_kind, settings.fail_rate)
        self.served = 0  # requests that came to the completion paths
        self.dead = asyncio.Event()
        self._page = Page(self.ranks.engines, settings.models[0])
        self._dice = random.Random(settings.engine.seed)  # noqa: S311  # not for secrets
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # of the timer
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None
        self._port = settings.port

    @property
    def engine(self) -> Engine:
        """The only one, or the first."""
        return self.ranks.engines[0]

    @property
    def kv_events(self) -> Publisher | None:
        """Of the only engine, or the first."""
        return self.ranks.publishers[0] if self.ranks.publishers else None

    @property
    def address(self) -> str:
        return f"{self.settings.host}:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/dcgm", self._accelerator)
        self.models.add_routes(app)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_post("/sim", self._sim)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/reset_prefix_cache", self._reset)
        if self.ranks.publishers:
            app.router.add_get("/kv_event_sources", self._sources)
            self.ranks.publish(self.settings.host, self.settings.kv_events or 0)
        app.on_response_prepare.append(self._sign)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        serve = self._runner.server
        if serve is None:
            raise RuntimeError("the runner is set up and has no server")
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(serve, self.settings.host, self.settings.port, backlog=1024)
        self._port = self._listening.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the port; open requests are cut off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listening is not None:
            self._listening.close()
        self._fail_all()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.ranks.stop()

    def die(self) -> None:
        """As if the process were killed: the port is closed and so is every connection, with a reset."""
        self.dead.set()
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None and self._runner.server is not None:
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
        self._fail_all()

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        self.served += 1
        try:
            prompt = api.prompt_of(await request.read(), chat=request.path.endswith("/chat/completions"))
            try:
                fault = self.faults.of(request.headers.get(FAIL_HEADER, ""), self._dice)
            except ValueError as error:
                raise api.ApiError(400, "BadRequestError", str(error)) from None
            if fault is not None:
                await self._fail(fault, request)
            job, answer = self._job(prompt)
            request[_RANK] = rank = self.ranks.wanted(request.headers.get(WANTED_HEADER, ""))
            return await self._answer(request, self.ranks.engines[rank], job, answer, fault)
        except api.ApiError as error:
            return web.Response(status=error.status, body=error.body(), content_type="application/json")
        except ConnectionError:  # the client has left, before the first byte
            raise asyncio.CancelledError from None

    async def _fail(self, fault: Fault, request: web.Request) -> None:
        """Do what goes wrong before the engine sees the request. Raises ApiError."""
        if fault.kind in {"500", "503"}:
            kind = "InternalServerError" if fault.kind == "500" else "ServiceUnavailableError"
            raise api.ApiError(int(fault.kind), kind, "simulated failure")
        if fault.kind == "reset":
            _abort(request)
        if fault.kind in {"reset", "hang"}:
            await asyncio.get_running_loop().create_future()  # until the client goes away, which cancels this handler
        if fault.kind == "slow":
            await asyncio.sleep(self.faults.slow_seconds)

    def _job(self, prompt: api.Prompt) -> tuple[Job, api.Answer]:
        """Raises ApiError: unknown model, too long."""
        settings, size = self.settings, self.settings.engine.block_tokens
        adapter = self.models.adapter(prompt.model)
        prompt_tokens = tokens.count(prompt.text)
        limit = prompt.max_tokens or random.Random(prompt.text).randint(*_DEFAULT_TOKENS)  # noqa: S311
        limit = min(limit, max(settings.max_model_len - prompt_tokens, 0))
        if limit < 1 or not self.engine.fits(prompt_tokens + limit):
            raise api.too_long(prompt_tokens, settings.max_model_len)
        words = tokens.generate(settings.engine.seed, prompt.text, limit)
        id_ = next(self._ids)
        text = prompt.text + "".join(words).encode()
        job = Job(
            id=id_,
            prompt_tokens=prompt_tokens,
            max_tokens=limit,
            hashes=tokens.chain(adapter, text, size),
            adapter=adapter,
            natural_end=prompt.max_tokens is None,
        )
        self.ranks.know(adapter, text, job.hashes)
        name = f"{'chatcmpl' if prompt.chat else 'cmpl'}-{settings.name}-{id_}"
        return job, api.Answer(name, prompt, prompt_tokens, words, int(time.time()))

    async def _answer(
        self, request: web.Request, engine: Engine, job: Job, answer: api.Answer, fault: Fault | None
    ) -> web.StreamResponse:
        response: web.StreamResponse | None = None
        deliver = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        opened = _Open(answer, None, loop.create_future())
        if fault is not None and fault.kind == "abort":
            opened.abort_after = fault.tokens
        try:
            engine.submit(job, now)
        except Full:
            raise api.busy() from None
        self._open[job.id] = opened
        self._schedule()
        try:
            if answer.prompt.stream:
                response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
                response.enable_chunked_encoding()
                await response.prepare(request)
                deliver = opened.deliver = _writer(request)
                finished = (
                    opened.done.done() and opened.done.result() is not None
                )  # then the last events go with the end
                if opened.tokens > answer.sent and not finished:  # it was faster than the headers
                    deliver(answer.events(opened.tokens - answer.sent, "", opened.cached_tokens))
            progress = await opened.done
        finally:
            self._open.pop(job.id, None)
            engine.cancel(job.id, loop.time())
            self._schedule()
        if progress is None:
            if request.transport is not None:
                request.transport.close()  # not abort: what was written goes out first
            raise asyncio.CancelledError
        if response is not None:
            left = opened.tokens - answer.sent
            with suppress(ConnectionError):  # the client has left
                await response.write(answer.events(left, progress.finished, opened.cached_tokens))
                await response.write_eof()
            return response
        body = answer.whole(progress.finished, opened.cached_tokens)
        return web.Response(body=body, content_type="application/json")

    # --- the engine's timer -------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        self.ranks.flush()
        due = self.ranks.next_time()
        if self._timer is not None:
            if due == self._due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and not self.dead.is_set():
            self._due = due
            self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        for id_, progress in self.ranks.advance(asyncio.get_running_loop().time()):
            opened = self._open.get(id_)
            if opened is not None:
                self._progress(opened, progress)
        limit = self.settings.kill_after_tokens
        if limit and self.ranks.generated >= limit and not self.dead.is_set():
            self.die()
        self._schedule()

    def _progress(self, opened: _Open, progress: Progress) -> None:
        opened.tokens += progress.tokens
        if opened.abort_after:  # a late tick brings more tokens than the client may see
            opened.tokens = min(opened.tokens, opened.abort_after)
        opened.cached_tokens = progress.cached_tokens
        aborted = 0 < opened.abort_after <= opened.tokens
        if opened.deliver is not None and (not progress.finished or aborted):  # the last events go with the end
            opened.deliver(opened.answer.events(opened.tokens - opened.answer.sent, "", progress.cached_tokens))
        if opened.done.done():
            return
        if aborted:
            opened.done.set_result(None)
        elif progress.finished:
            opened.done.set_result(progress)

    def _fail_all(self) -> None:
        for opened in self._open.values():
            if not opened.done.done():
                opened.done.set_result(None)

    # --- the other paths ----------------------------------------------------------------------------------------------

    async def _sign(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[SERVER_HEADER] = self.settings.name
        wanted = request.headers.get("endpoint-load-metrics-format", "").upper()
        rank = request.get(_RANK)
        if rank is not None:
            response.headers[RANK_HEADER] = str(rank)
        engine = self.ranks.engines[rank or 0]
        waiting, usage = float(engine.waiting), engine.usage
        if wanted == "TEXT":
            report = f"TEXT named_metrics.num_requests_waiting={waiting}, named_metrics.kv_cache_usage_perc={usage}"
            response.headers["endpoint-load-metrics"] = report
        elif wanted == "JSON":
            figures = {"named_metrics": {"num_requests_waiting": waiting, "kv_cache_usage_perc": usage}}
            response.headers["endpoint-load-metrics"] = f"JSON {orjson.dumps(figures).decode()}"

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.faults.healthy else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._page.text(), headers={"content-type": CONTENT_TYPE})

    async def _accelerator(self, _: web.Request) -> web.Response:
        return web.Response(text=accelerator(self.engine), headers={"content-type": CONTENT_TYPE})

    async def _tokenize(self, request: web.Request) -> web.Response:
        """vLLM: {"model", "messages" or "prompt", "return_token_strs"}."""
        try:
            body = await request.read()
            text = api.prompt_of(body, chat=b'"messages"' in body).text
        except api.ApiError as error:
            return web.Response(status=error.status, body=error.body(), content_type="application/json")
        found = {"count": tokens.count(text), "max_model_len": self.settings.max_model_len, "tokens": tokens.ids(text)}
        return web.json_response({**found, "token_strs": tokens.strings(text)})

    async def _sources(self, _: web.Request) -> web.Response:
        return web.json_response(self.ranks.sources())

    async def _reset(self, _: web.Request) -> web.Response:
        """Empty the prefix cache, unless blocks are in use (as vLLM does)."""
        return web.Response(status=200 if self.ranks.clear() else 409)

    async def _sim(self, request: web.Request) -> web.Response:
        """Change what fails, or `{"die": true}`; answers with what holds now."""
        try:
            fields = orjson.loads(await request.read())
            if "drop_kv_events" in fields and self.kv_events is not None:
                self.kv_events.dropping = bool(fields.pop("drop_kv_events"))
            if fields.pop("die", False):
                asyncio.get_running_loop().call_soon(self.die)
            self.faults.change(fields)
        except (ValueError, AttributeError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        faults = self.faults
        return web.json_response({"kind": faults.kind, "rate": faults.rate, "healthy": faults.healthy})


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _writer(request: web.Request) -> Callable[[bytes], None]:
    """Write a chunk without a task switch. A slow reader's bytes pile up: good enough for a simulator, and cheap."""

    def write(data: bytes) -> None:
        transport = request.transport
        if data and transport is not None and not transport.is_closing():
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    return write


def several(count: int, settings: SimSettings = SimSettings()) -> list[SimServer]:
    """Servers `NAME-0`, `NAME-1`, ... on free ports, not started."""
    return [SimServer(replace(settings, name=f"{settings.name}-{index}", port=0)) for index in range(count)]
