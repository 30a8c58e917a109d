"""The console over HTTP, and its script in a real browser."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from observability.console import server
from observability.registry import Registry
from tests.observability.console.browser import browser, rendered

VIEW: dict[str, Any] = {
    "ready": True,
    "version": "1.2.3",
    "started": 1.0,
    "problems": [],
    "proxies": [],
    "pools": {},
    "topology": {"routes": [], "more": 0},
}


@asynccontextmanager
async def serving(*more: web.RouteDef) -> AsyncIterator[TestClient]:
    app = web.Application()
    server.add(app, Registry(), lambda: VIEW)
    app.add_routes(more)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_page_loads_nothing_from_elsewhere_and_may_not() -> None:
    async with serving() as client:
        page = await client.get("/")
        assert page.url.path == "/console"
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "http" not in (await page.text()).replace("http-equiv", "")
        for name, kind in (
            ("console.css", "text/css"),
            ("console.js", "text/javascript"),
            ("figures.js", "text/javascript"),
        ):
            answer = await client.get(f"/console/{name}")
            assert (answer.status, answer.content_type) == (200, kind)
            text = await answer.text()
            assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "").replace(
                "/console/", ""
            )


async def test_data_is_the_view_and_the_requests() -> None:
    async with serving() as client:
        found = await (await client.get("/console/data")).json()
    assert found["requests"] == []
    assert {name: found[name] for name in VIEW} == VIEW


FIGURES = """
<script type="module">
import { figures, quantile, rate, since } from "/console/figures.js";
const entry = (total, ttft) => ({ pool: "p", total, errors: { server: total / 10 }, tokens: { input: total }, duration: [], ttft, tpot: [] });
const answer = (at, ...requests) => ({ at, requests, buckets: { ttft: [1, 2, 4] } });
const history = [answer(0, entry(10, [1, 0, 0, 0])), answer(10, entry(30, [1, 5, 5, 0])), answer(20)];
const minute = figures(history.slice(0, 2), 60, () => true);
const found = {
  total: minute.total, rate: rate(minute), server: minute.errors.server, shed: minute.errors.shed, ttft: minute.ttft,
  median: quantile([1, 2, 4], minute.ttft, 0.5), most: quantile([1, 2, 4], minute.ttft, 1), none: quantile([1, 2, 4], [0, 0, 0, 0], 0.5),
  above: quantile([1, 2, 4], [0, 0, 0, 3], 0.5), gone: figures(history, 60, () => true).total,
  other: figures(history, 60, (each) => each.pool === "q").total, since: since(history, 5).at,
};
const place = document.createElement("pre");
place.id = "found";
place.textContent = JSON.stringify(found);
document.body.append(place);
</script><body></body>
"""


async def test_figures_are_differences_and_quantiles_those_of_prometheus() -> None:
    browser()

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=FIGURES, content_type="text/html")

    async with serving(web.get("/test", page)) as client:
        text = await asyncio.to_thread(rendered, str(client.make_url("/test")))
    found = json.loads(unescape(text.partition('id="found">')[2].partition("</pre>")[0]))
    assert found == {
        "total": 20,
        "rate": 2,
        "server": 2,
        "shed": 0,
        "ttft": [0, 5, 5, 0],
        "median": 2,  # as histogram_quantile: linear within a bucket
        "most": 4,
        "none": None,
        "above": 4,
        "gone": 0,  # series that have left are no negative rate
        "other": 0,
        "since": 10,
    }
