"""The page over HTTP: /console, its style and script, and /console/data, which the script asks every few seconds.

The page may load nothing but these (Content-Security-Policy), and shows names of users as text, never as markup.
"""

import asyncio
from collections.abc import Callable
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import orjson
from aiohttp import web

from observability.console.signals import BUCKETS, requests
from observability.registry import Reading, Registry

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add(app: web.Application, registry: Registry, view: Callable[[], dict[str, Any]]) -> None:
    """`view` is what the composition root knows beside the metrics: topology, pools, proxies, problems; plain data."""
    for file in (files("observability.console") / "page").iterdir():
        path = "/console" if file.name == "index.html" else f"/console/{file.name}"
        app.router.add_get(path, _file(file.read_bytes(), _KINDS[PurePath(file.name).suffix]))
    app.router.add_get("/", _to_console)

    async def data(_request: web.Request) -> web.Response:
        # Both are read on the loop, which owns them; what may be large is made beside it.
        found, readings = view(), registry.snapshot()
        body = await asyncio.to_thread(_written, found, readings)
        response = web.Response(body=body, content_type="application/json", headers={"Cache-Control": "no-store"})
        response.enable_compression()
        return response

    app.router.add_get("/console/data", data)


def _written(found: dict[str, Any], readings: tuple[Reading, ...]) -> bytes:
    return orjson.dumps({**found, "buckets": BUCKETS, "requests": requests(readings)})


def _file(body: bytes, kind: str) -> Any:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    return handle


async def _to_console(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/console")
