"""/autoscale over real HTTP: the pools, one of them explained, and what one replica tells another."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from observability.autoscaling.pages import add_page
from observability.autoscaling.signals import Unavailable, UnknownPool


def here(pool: str, labels: Mapping[str, str]) -> Mapping[str, Any]:
    return {"here": pool, "labels": dict(labels)}


async def explain(pool: str, labels: Mapping[str, str]) -> Mapping[str, Any]:
    if pool == "ns/x":
        raise UnknownPool("there is no InferencePool ns/x")
    if pool == "ns/stale":
        raise Unavailable("replica a is away")
    return {"explained": pool, "labels": dict(labels)}


@pytest.mark.parametrize(
    ("query", "code", "found"),
    [
        ("", 200, {"pools": ["ns/a", "ns/b"]}),
        ("?pool=ns/a", 200, {"explained": "ns/a", "labels": {}}),
        ("?pool=ns/a&labels=k%3Dv", 200, {"explained": "ns/a", "labels": {"k": "v"}}),
        ("?pool=ns/a&here=1&labels=k%3Dv", 200, {"here": "ns/a", "labels": {"k": "v"}}),
        ("?pool=ns/x", 404, {"error": "there is no InferencePool ns/x"}),
        ("?pool=ns/stale", 503, {"error": "replica a is away"}),
    ],
)
async def test_the_page(query: str, code: int, found: Any) -> None:
    app = web.Application()
    add_page(app, lambda: ["ns/b", "ns/a"], here, explain)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get(f"/autoscale{query}")
        assert (answer.status, await answer.json()) == (code, found)


async def test_labels_that_are_not_understood() -> None:
    app = web.Application()
    add_page(app, list, here, explain)
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/autoscale?pool=ns/a&labels=!k")
        assert answer.status == 400 and "only equality" in (await answer.json())["error"]
