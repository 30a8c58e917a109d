"""The telemetry server as an aiohttp application: /metrics, /healthz, /readyz; /status, /decisions, /console where there are any.

For the kubelet and for Prometheus; it belongs on a port of its own that no client of the gateway reaches.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from observability.aliases import Aliases
from observability.console import server as console
from observability.decisions import Decisions, explained, listed
from observability.exporters.prometheus import negotiate, render
from observability.registry import Registry

_NONE = Aliases()
_LISTED = 50  # decisions, where a client does not say
_Handler = Callable[[web.Request], Awaitable[web.Response]]


def application(
    registry: Registry,
    *,
    ready: Callable[[], bool] = lambda: True,
    status: Callable[[], object] | None = None,
    decisions: Decisions | None = None,
    view: Callable[[], dict[str, Any]] | None = None,
    aliases: Aliases = _NONE,
) -> web.Application:
    """`ready` says whether picks can be served (503 until then); `status` returns plain data, served as JSON; `decisions` are
    the latest records; `view` is what the console shows beside the metrics; /metrics has `aliases`.

    /healthz answers as long as the event loop turns: a probe that times out is the sign of a blocked loop.
    """
    app = web.Application()
    app.router.add_get("/metrics", _metrics(registry, aliases))
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz(ready))
    if status is not None:
        app.router.add_get("/status", _status(status))
    if decisions is not None:
        app.router.add_get("/decisions", _decisions(decisions))
        app.router.add_get("/decisions/{id}", _decision(decisions))
    if view is not None:
        console.add(app, registry, view)
    return app


def _metrics(registry: Registry, aliases: Aliases) -> _Handler:
    async def handle(request: web.Request) -> web.Response:
        content_type = negotiate(request.headers.get("Accept", ""))
        # The snapshot is taken on the loop, which owns the registry; a page of megabytes is rendered beside it.
        snapshot = registry.snapshot()
        page = await asyncio.to_thread(lambda: render(aliases(snapshot), content_type))
        response = web.Response(body=page, headers={"Content-Type": content_type})
        response.enable_compression()
        return response

    return handle


async def _healthz(_request: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _readyz(ready: Callable[[], bool]) -> _Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(status=503, text="not ready\n")

    return handle


def _status(status: Callable[[], object]) -> _Handler:
    async def handle(_request: web.Request) -> web.Response:
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        return web.Response(body=orjson.dumps(status(), option=option), content_type="application/json")

    return handle


def _decisions(kept: Decisions) -> _Handler:
    async def handle(request: web.Request) -> web.Response:
        limit = request.query.get("limit", str(_LISTED))
        if not limit.isdecimal() or len(limit) > 6:
            return web.Response(status=400, text=f"limit must be a number, not {limit[:80]!r}\n")
        page = await asyncio.to_thread(listed, kept.latest(int(limit)))
        return web.Response(body=page, content_type="application/json")

    return handle


def _decision(kept: Decisions) -> _Handler:
    async def handle(request: web.Request) -> web.Response:
        found = kept.get(request.match_info["id"])
        if found is None:
            return web.Response(status=404, text="no such decision is recorded, or newer ones have taken its place\n")
        return web.Response(body=await asyncio.to_thread(explained, found), content_type="application/json")

    return handle
