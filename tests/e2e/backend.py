"""A plain HTTP server that keeps what it was sent, and does as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from picker.model_lists import USER_AGENT


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    path: str  # with the query
    host: str
    headers: dict[str, str]  # lower-case names; repeated ones joined by a comma
    body: bytes


@dataclass(slots=True)
class Backend:
    """`failures`: answer so many requests with 503 first; `hang`: answer none; `reply`: stream these pieces, with a `turn` each
    after the first only when it is released; `headers`: more of the answer's.
    """

    name: str
    address: str = ""
    seen: list[Seen] = field(default_factory=list)
    failures: int = 0
    hang: bool = False
    reply: tuple[bytes, ...] = (b"{}",)
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    turn: asyncio.Semaphore | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/metrics" or request.headers.get("user-agent") == USER_AGENT:  # not through the gateway
            return web.Response(text="")
        headers = {name.lower(): ",".join(request.headers.getall(name)) for name in request.headers}
        self.seen.append(Seen(request.method, request.path_qs, request.host, headers, await request.read()))
        if self.hang:
            await asyncio.Event().wait()  # until the connection ends, which cancels this handler
        if self.failures:
            self.failures -= 1
            return web.Response(status=503, text="not now")
        fixed = {"content-type": self.content_type, "x-backend": self.name}
        response = web.StreamResponse(headers=fixed | self.headers)
        await response.prepare(request)
        for number, piece in enumerate(self.reply):
            if number and self.turn:
                await self.turn.acquire()
            await response.write(piece)
        await response.write_eof()
        return response


@asynccontextmanager
async def backend(name: str = "backend") -> AsyncIterator[Backend]:
    """A Backend on a free port, while the block lasts."""
    found = Backend(name)
    app = web.Application(client_max_size=64 << 20)
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        found.address = f"{host}:{port}"
        yield found
    finally:
        await runner.cleanup()
