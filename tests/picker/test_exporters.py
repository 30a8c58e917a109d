"""Exporters, scraped over real HTTP: beside the servers and on a node, and what is known when one is gone."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock.sim.engine import EngineSettings
from penstock.sim.server import SimServer, SimSettings
from picker.exporters import Exporters, measured
from picker.signals import Signals
from tests.e2e.waiting import until
from tests.picker._views import profile
from tests.picker.test_picker import pool
from xds_server.model.exporter import Exporter
from xds_server.model.graph import Endpoint

FAST = 0.01  # seconds between two scrapes


class Page:
    """What an exporter says; None: it is broken."""

    def __init__(self, text: str | None) -> None:
        self.text, self.asked = text, 0

    async def serve(self, _: web.Request) -> web.StreamResponse:
        self.asked += 1
        return web.Response(status=500) if self.text is None else web.Response(text=self.text)


@asynccontextmanager
async def exporter(page: Page) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/metrics", page.serve)
    async with TestServer(app) as server:
        assert server.port
        yield server.port


@asynccontextmanager
async def running(*pools: tuple[str, Exporter, Iterable[Endpoint]]) -> AsyncIterator[tuple[Signals, Exporters]]:
    signals = Signals()
    signals.update({f"{namespace}/p": list(endpoints) for namespace, _, endpoints in pools})
    exporters = Exporters(signals)
    exporters.update(pools)
    work = asyncio.ensure_future(exporters.run())
    try:
        yield signals, exporters
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


def of(signals: Signals, endpoint: Endpoint) -> float | None:
    return signals.loads("ns/p")[str(endpoint)].utilization


async def test_one_exporter_of_a_node_is_asked_once_for_all_its_pods() -> None:
    page = Page('DCGM_FI_DEV_GPU_UTIL{namespace="ns",pod="a"} 30\nDCGM_FI_DEV_GPU_UTIL{namespace="ns",pod="b"} 80\n')
    async with exporter(page) as port:
        pods = [Endpoint(f"10.0.0.{i}", 8000, pod=name, host="127.0.0.1") for i, name in enumerate("abc")]
        async with running(("ns", Exporter(port, on_node=True), pods)) as (signals, _):
            await until(lambda: of(signals, pods[1]), "figures")
            assert [of(signals, each) for each in pods] == [0.3, 0.8, None]
            assert page.asked == 1


class Slowly(Page):
    """A line at a time: a page of a node with many pods comes in several packets."""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for line in (self.text or "").splitlines(keepends=True):
            await answer.write(line.encode())
            await asyncio.sleep(FAST)
        return answer


async def test_a_page_that_comes_in_pieces_is_read_to_its_end() -> None:
    page = Slowly("".join(f'DCGM_FI_DEV_GPU_UTIL{{namespace="ns",pod="{name}"}} 30\n' for name in "ab"))
    async with exporter(page) as port:
        pods = [Endpoint(f"10.0.0.{i}", 8000, pod=name, host="127.0.0.1") for i, name in enumerate("ab")]
        async with running(("ns", Exporter(port, on_node=True), pods)) as (signals, _):
            await until(lambda: of(signals, pods[0]), "figures")
            assert [of(signals, each) for each in pods] == [0.3, 0.3]


async def test_a_server_sends_nobody_elsewhere() -> None:
    page, moved = Page("DCGM_FI_DEV_GPU_UTIL 80\n"), Page(None)

    async def elsewhere(_: web.Request) -> web.StreamResponse:
        moved.asked += 1
        raise web.HTTPFound(f"http://127.0.0.1:{port}/metrics")

    moved.serve = elsewhere  # type: ignore[method-assign]
    async with exporter(page) as port, exporter(moved) as other:
        pod = Endpoint("127.0.0.1", 8000)
        async with running(("ns", Exporter(other, interval=FAST), [pod])):
            await until(lambda: moved.asked > 1, "it to be asked again")
    assert page.asked == 0


async def test_what_an_exporter_does_not_say_any_more_is_not_known() -> None:
    page = Page("DCGM_FI_DEV_GPU_UTIL 40\n")
    async with exporter(page) as port:
        pod = Endpoint("127.0.0.1", 8000)
        async with running(("ns", Exporter(port, interval=FAST), [pod])) as (signals, _):
            await until(lambda: of(signals, pod) == 0.4, "figures")
            page.text = None
            await until(lambda: of(signals, pod) is None, "their end")
            page.text = "DCGM_FI_DEV_GPU_UTIL 50\n"
            await until(lambda: of(signals, pod) == 0.5, "figures again")


async def test_a_pool_that_is_measured_no_more_and_one_that_is_measured_now() -> None:
    page = Page("DCGM_FI_DEV_GPU_UTIL 40\n")
    async with exporter(page) as port:
        one, two = Endpoint("127.0.0.1", 8000), Endpoint("127.0.0.1", 8001)
        async with running(("ns", Exporter(port, interval=FAST), [one])) as (signals, exporters):
            await until(lambda: of(signals, one) == 0.4, "figures")
            signals.update({"ns/p": [one, two]})
            exporters.update([("ns", Exporter(port, interval=FAST), [two])])
            assert of(signals, one) is None
            await until(lambda: of(signals, two) == 0.4, "figures of the other")
            exporters.update([])
            assert of(signals, two) is None


async def test_a_node_without_an_address_is_not_asked() -> None:
    pod = Endpoint("10.0.0.1", 8000)
    async with running(("ns", Exporter(9400, on_node=True), [pod])) as (signals, exporters):
        assert exporters._targets == {}
        assert of(signals, pod) is None


async def test_a_simulated_server_has_an_exporter_beside_it() -> None:
    server = SimServer(SimSettings(engine=EngineSettings(max_num_seqs=4)))
    await server.start()
    try:
        host, _, port = server.address.rpartition(":")
        pod = Endpoint(host, int(port))
        async with running(("ns", Exporter(0, "/dcgm", interval=FAST), [pod])) as (signals, _):
            await until(lambda: of(signals, pod) == 0.0, "an idle accelerator")
    finally:
        await server.stop()


def test_where_exporters_are() -> None:
    assert Exporter(9400).url("10.0.0.1", 8000, "") == "http://10.0.0.1:9400/metrics"
    assert Exporter(0, "/dcgm").url("fd00::1", 8000, "") == "http://[fd00::1]:8000/dcgm"
    assert Exporter(9400, on_node=True).url("10.0.0.1", 8000, "192.0.2.1") == "http://192.0.2.1:9400/metrics"


def test_a_pool_goes_before_its_profile() -> None:
    configured = profile({"type": "dcgm-data-source", "parameters": {"port": 9401, "interval": "5s"}})
    pools = [pool(name="a"), pool(name="b", exporter=Exporter(9400)), pool(name="c")]
    found = measured(pools, lambda name: None if name == "ns/c" else configured)
    assert found == [("ns", Exporter(9401, interval=5.0), ()), ("ns", Exporter(9400), ())]
