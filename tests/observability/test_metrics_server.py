"""The telemetry server, over real HTTP on a free port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from observability import catalogue as c
from observability.decisions import Decisions
from observability.exporters.prometheus import OPENMETRICS, TEXT
from observability.registry import Registry
from observability.server import application
from tests.observability.test_decisions import a_record


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[TestClient]:
    registry = Registry()
    registry.gauge(c.XDS_CONNECTED_CLIENTS).bind().set(2)
    async with TestClient(TestServer(application(registry, **options))) as client:
        yield client


async def test_metrics_are_text_by_default() -> None:
    async with serving() as client:
        answer = await client.get("/metrics", headers={"Accept": "*/*"})
        assert answer.headers["Content-Type"] == TEXT
        assert "penstock_xds_connected_clients 2\n" in await answer.text()


async def test_metrics_are_openmetrics_where_asked_for() -> None:
    async with serving() as client:
        answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert answer.headers["Content-Type"] == OPENMETRICS
        (family,) = parse_openmetrics(await answer.text())
        assert family.name == "penstock_xds_connected_clients"


async def test_health_and_readiness_are_two_things() -> None:
    state = [False]
    async with serving(ready=lambda: state[0]) as client:
        assert (await client.get("/healthz")).status == 200
        assert (await client.get("/readyz")).status == 503
        state[0] = True
        assert (await client.get("/readyz")).status == 200


async def test_status_is_json_where_there_is_one() -> None:
    async with serving(status=lambda: {"pools": {"ns/p": {"ready": 3}}}) as client:
        answer = await client.get("/status")
        assert await answer.json() == {"pools": {"ns/p": {"ready": 3}}}
    async with serving() as client:
        assert (await client.get("/status")).status == 404


async def test_decisions_are_listed_and_explained_where_they_are_kept() -> None:
    kept = Decisions()
    async with serving(decisions=kept) as client:
        assert await (await client.get("/decisions")).json() == {"decisions": []}
        assert (await client.get("/decisions/x")).status == 404
        assert (await client.get("/decisions?limit=many")).status == 400
        for number in range(3):
            kept.take(a_record(f"id-{number}"))
        answer = await client.get("/decisions?limit=2")
        assert [one["id"] for one in (await answer.json())["decisions"]] == ["id-2", "id-1"]
        found = await (await client.get("/decisions/id-1")).json()
        assert (found["id"], found["penstock_decision"], len(found["explanation"]["stages"])) == ("id-1", 2, 1)
    async with serving() as client:
        assert (await client.get("/decisions")).status == 404
