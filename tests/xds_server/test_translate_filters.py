"""Sessions, retries, gRPC matching and tracing in a real Envoy; and that what nobody uses is not there."""

import asyncio
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc.aio
import pytest
from aiohttp import web

from tests.e2e.waiting import free_port
from tests.xds_server.fleet_envoy import HOME, answering, at, backend, graph, on_port_80, served, talkers, to
from xds_server.model.graph import CORS, Chain, Persistence, Port, Reply, Tracing, VirtualHost
from xds_server.model.meta import Meta
from xds_server.model.objects import CORSFilter, ObjectRef, Retry, Timeouts
from xds_server.model.policy import TraceAttribute, XTelemetryPolicy
from xds_server.translate import DataPlane, filters, inference

pytestmark = pytest.mark.envoy
A, B = backend("a"), backend("b")


def names(chain: Chain) -> list[str]:
    return [each.name.rpartition(".")[2] for each in filters.http_filters(chain, DataPlane(), ours=False)]


def test_what_no_route_uses_is_not_there() -> None:
    plain = to("/", A)
    assert names(Chain("", None, hosts=(VirtualHost("*", (plain,)),))) == ["router"]
    more = replace(
        plain, cors=CORS(CORSFilter(("*",))), action=replace(plain.action, session=Persistence("Header", "x-s"))
    )
    assert names(Chain("", None, hosts=(VirtualHost("*", (plain, more)),))) == ["cors", "stateful_session", "router"]


def test_no_client_is_told_of_decisions_unless_that_is_switched_on() -> None:
    on, off = (inference.filters(DataPlane(explain=explain), by_model=False)[1][0] for explain in (True, False))
    assert b"%DYNAMIC_METADATA(penstock:decision)%" in bytes(on)
    assert b"penstock-decision" not in bytes(off)
    apart = replace(A, pool=True)  # asked behind a listener of its own
    told, untold = (inference.asking(apart, DataPlane(explain=explain)) for explain in (True, False))
    assert {each.name for each in told} - {each.name for each in untold} == {"penstock.route_headers"}


@pytest.mark.parametrize("kind", ["Cookie", "Header"])
async def test_a_session_stays_where_it_began(tmp_path: Path, kind: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.Response(text=str(request.transport.get_extra_info("sockname")[1]))

    held = Persistence("Cookie" if kind == "Cookie" else "Header", "x-session", path="/kept", ttl=3600.0)
    port = on_port_80(to("/kept", A, session=held), to("/", A))
    async with answering(answer) as a, answering(answer) as b, aiohttp.ClientSession() as session:
        found = graph(port, backends=[A], endpoints={A.cluster: at(a, b)})
        async with served(found, tmp_path) as bound:

            async def get(path: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
                async with session.get(f"http://{HOME}:{bound[80]}{path}", headers=headers) as got:
                    cookie = got.headers.get("set-cookie", "")
                    shown = {"x-session": got.headers["x-session"]} if "x-session" in got.headers else {}
                    return await got.text(), {"cookie": cookie.partition(";")[0]} if cookie else shown

            session.cookie_jar.clear()
            first, token = await get("/kept", {})
            assert token
            session.cookie_jar.clear()
            assert {(await get("/kept", token))[0] for _ in range(20)} == {first}
            session.cookie_jar.clear()
            assert len({(await get("/free", {}))[0] for _ in range(40)}) == 2


async def test_lost_connections_are_retried_where_a_route_says_so(tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    dead = free_port()
    port = on_port_80(to("/some", A, retry=Retry(attempts=20)), to("/none", A))
    async with answering(answer) as alive, talkers("") as (mute,), aiohttp.ClientSession() as session:
        endpoints = {A.cluster: at(alive, dead, mute)}  # one hangs up without a word
        async with served(graph(port, backends=[A], endpoints=endpoints), tmp_path) as bound:

            async def get(path: str) -> int:
                async with session.get(f"http://{HOME}:{bound[80]}{path}") as got:
                    return got.status

            assert {await get("/some") for _ in range(30)} == {200}
            assert {await get("/none") for _ in range(30)} == {200, 503}


async def test_a_try_that_takes_too_long_is_made_again(tmp_path: Path) -> None:
    tries = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal tries
        tries += 1
        if tries == 1:
            await asyncio.Event().wait()
        return web.Response()

    limits = Timeouts(request=25.0, backend_request=0.2)
    port = on_port_80(to("/", A, retry=Retry((500,), 3), timeouts=limits))
    async with answering(answer) as where, aiohttp.ClientSession() as session:
        found = graph(port, backends=[A], endpoints={A.cluster: at(where)})
        async with served(found, tmp_path) as bound, session.get(f"http://{HOME}:{bound[80]}/") as got:
            assert (got.status, tries) == (200, 2)


async def test_a_grpc_route_matches_grpc_only_and_a_share_has_its_own_host(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=request.host)

    outside = backend("outside", hostname="localhost", port=0)
    async with answering(answer) as where, aiohttp.ClientSession() as session:
        outside = replace(outside, port=where)
        port = on_port_80(to("/outside", outside), to("/", A, grpc=True), to("/", B))
        found = graph(port, backends=(A, B, outside), endpoints={B.cluster: at(where)})
        async with served(found, tmp_path) as bound:
            url = f"http://{HOME}:{bound[80]}"
            async with session.get(url + "/x") as got:
                assert await got.text() == f"{HOME}:{bound[80]}"
            async with session.get(url + "/x", headers={"content-type": "application/grpc"}) as got:
                assert got.headers["grpc-status"] == "14"  # A has no endpoint
            async with asyncio.timeout(30):
                while True:  # until the name is resolved
                    async with session.get(url + "/outside") as got:
                        if got.status == 200:
                            assert await got.text() == "localhost"
                            break
                    await asyncio.sleep(0.01)


async def test_spans_reach_the_collector(tmp_path: Path) -> None:
    received: asyncio.Queue[bytes] = asyncio.Queue()

    async def export(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        assert ("x-key", "k") in context.invocation_metadata()
        received.put_nowait(request)
        return b""

    server = grpc.aio.server()
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    handler = grpc.method_handlers_generic_handler(service, {"Export": grpc.unary_unary_rpc_method_handler(export)})
    server.add_generic_rpc_handlers((handler,))
    where = server.add_insecure_port(f"{HOME}:0")
    await server.start()
    collector = backend("collector", protocol="h2c")
    attributes = (
        TraceAttribute("team", "Header", "X-Team"),
        TraceAttribute("where", "Literal", "here"),
        TraceAttribute("verb", "Attribute", "http.request.method"),
    )
    policy = XTelemetryPolicy(
        Meta(ObjectRef("gateway.networking.x-k8s.io", "XTelemetryPolicy", "default", "t")), (), "Enabled",
        headers=(("X-Key", "k"),), sampling=(1, 1), parent_based=False, service_name="edge", span_name="100%", attributes=attributes,
    )  # fmt: skip
    reply = replace(to("/", A), action=Reply(200))
    chain = Chain("", None, hosts=(VirtualHost("*", (reply,)),), tracing=Tracing(policy, collector))
    found = graph(Port(80, (chain,)), backends=[collector], endpoints={collector.cluster: at(where)})
    try:
        async with served(found, tmp_path) as bound, aiohttp.ClientSession() as session, asyncio.timeout(30):
            async with session.get(f"http://{HOME}:{bound[80]}/", headers={"x-team": "blue"}) as got:
                assert got.status == 200
            span = await received.get()
    finally:
        await server.stop(None)
    for word in (b"edge", b"100%", b"team", b"blue", b"where", b"here", b"verb", b"GET"):
        assert word in span
