"""Foreign pickers in a real Envoy: asked as the endpoint-picker protocol wants, and what becomes of requests when they fail."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web
from envoy.service.ext_proc.v3 import external_processor_pb2

from tests.e2e.waiting import free_port
from tests.xds_server.fleet_envoy import HOME, answering, at, backend, graph, on_port_80, served, to
from xds_server.model.graph import Backend
from xds_server.model.names import DESTINATION
from xds_server.model.objects import ObjectRef

pytestmark = pytest.mark.envoy
_Response: Any = external_processor_pb2.ProcessingResponse
PATIENCE = 1.0  # seconds


def pool(name: str, **more: Any) -> Backend:
    ref = ObjectRef("inference.networking.k8s.io", "InferencePool", "default", name)
    return Backend(f"pool/default/{name}", ref, pool=True, picker=backend(f"picker-{name}", protocol="h2c"), **more)


class Picker:
    """Holds the headers back until the body has come, as the reference does; misbehaves as the request's header `do` says."""

    def __init__(self, choice: str) -> None:
        self.choice = choice
        self.asked = 0
        self.reported: list[str] = []

    async def process(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        body, behaviour = b"", ""
        async for message in messages:
            match message.WhichOneof("request"):
                case "request_headers":
                    self.asked += 1
                    found = message.request_headers
                    told = {each.key: each.raw_value.decode() for each in found.headers.headers}
                    behaviour = told.get("do", "")
                    if behaviour == "abort":
                        await context.abort(grpc.StatusCode.INTERNAL, "as asked")
                    if found.end_of_stream and behaviour not in ("hang", "refuse"):
                        yield self.choose()
                case "request_body":
                    body += message.request_body.body
                    if not message.request_body.end_of_stream:
                        continue
                    if behaviour == "abort-late":
                        await context.abort(grpc.StatusCode.INTERNAL, "as asked")
                    if behaviour == "hang":
                        await asyncio.Event().wait()
                    if behaviour == "refuse":
                        yield _Response(immediate_response={"status": {"code": 503}})
                        continue
                    yield self.choose()
                    yield chunk("request_body", body, ended=True)
                case "response_headers":
                    metadata = message.metadata_context.filter_metadata["envoy.lb"].fields
                    self.reported.append(metadata[f"{DESTINATION}-served"].string_value)
                    yield _Response(response_headers={})
                case "response_body":
                    found = message.response_body
                    yield chunk("response_body", found.body, ended=found.end_of_stream)

    def choose(self) -> Any:
        reply = _Response(request_headers={})
        mutation = reply.request_headers.response.header_mutation
        mutation.set_headers.add(header={"key": DESTINATION, "raw_value": self.choice.encode()})
        reply.dynamic_metadata.update({"envoy.lb": {DESTINATION: self.choice}})
        return reply


def chunk(part: str, body: bytes, *, ended: bool) -> Any:
    streamed = {"body": body, "end_of_stream": ended}
    return _Response(**{part: {"response": {"body_mutation": {"streamed_response": streamed}}}})


@asynccontextmanager
async def picking(picker: Picker) -> AsyncIterator[int]:
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(
        picker.process, external_processor_pb2.ProcessingRequest.FromString, _Response.SerializeToString
    )
    name = "envoy.service.ext_proc.v3.ExternalProcessor"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Process": method}),))
    port = server.add_insecure_port(f"{HOME}:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


class Models:
    """A model server: says on which port it was asked, and what for; `wait` in the path takes longer than a picker may."""

    def __init__(self, status: int = 200) -> None:
        self.status = status

    async def answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        if "wait" in request.path:
            await asyncio.sleep(3 * PATIENCE)  # the point is that nobody cuts it
        port = request.transport.get_extra_info("sockname")[1]
        return web.Response(status=self.status, text=f"{port} {await request.text()}")


class Client:
    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self.session, self.port = session, port

    async def post(self, path: str, do: str = "", body: str = "hello") -> tuple[int, str]:
        url, headers = f"http://{HOME}:{self.port}{path}", {"do": do} if do else {}
        async with self.session.post(url, data=io.BytesIO(body.encode()), headers=headers) as got:
            assert "x-penstock-picker" not in got.headers
            return got.status, await got.text()


@asynccontextmanager
async def client(found: Any, folder: Path) -> AsyncIterator[Client]:
    async with served(found, folder, foreign_picker_timeout=PATIENCE) as bound, aiohttp.ClientSession() as session:
        yield Client(session, bound[80])


async def test_a_foreign_picker_chooses_and_learns_what_served(tmp_path: Path) -> None:
    closed = pool("a")
    port = on_port_80(to("/", closed))
    async with answering(Models().answer) as one, answering(Models().answer) as two:
        picker = Picker(f"{HOME}:{two}")
        async with picking(picker) as asked:
            endpoints = {closed.cluster: at(one, two), closed.picker.cluster: at(asked)}
            async with client(graph(port, backends=[closed], endpoints=endpoints), tmp_path) as c:
                for _ in range(10):
                    assert await c.post("/v1") == (200, f"{two} hello")
                assert await c.post("/wait") == (200, f"{two} hello")  # a slow model server is no hung picker
                async with c.session.get(f"http://{HOME}:{c.port}/models") as got:
                    assert (got.status, await got.text()) == (200, f"{two} ")
                large = "x" * 3_000_000
                assert await c.post("/v1", body=large) == (200, f"{two} {large}")
        assert picker.reported == [f"{HOME}:{two}"] * 13
        assert picker.asked == 13


@pytest.mark.parametrize("weighted", [False, True])
async def test_a_picker_that_fails_lets_pass_or_refuses_as_its_pool_says(tmp_path: Path, weighted: bool) -> None:
    opened, closed, gone = pool("open", fail_open=True), pool("closed"), pool("gone", fail_open=True)
    other = backend("unused")
    ways = {"/open": opened, "/closed": closed, "/gone": gone}
    routes = [to(path, each, *([each] if weighted else [])) for path, each in ways.items()]
    async with answering(Models().answer) as where, picking(Picker(f"{HOME}:{where}")) as asked:
        endpoints = {each.cluster: at(where) for each in ways.values()}
        endpoints |= {each.picker.cluster: at(asked) for each in (opened, closed) if each.picker}
        endpoints[gone.picker.cluster] = at(free_port())
        found = graph(on_port_80(*routes), backends=[opened, closed, gone, other], endpoints=endpoints)
        async with client(found, tmp_path) as c:
            served_by = (200, f"{where} hello")
            for do in ("abort", "abort-late", "hang"):
                assert await c.post("/open", do) == served_by, do
                status, text = await c.post("/closed", do)
                assert (status, "picker_unavailable" in text) == (503, True), do
                assert await c.post("/closed") == served_by
            assert await c.post("/gone") == served_by
            assert [(await c.post(path, "refuse"))[0] for path in ("/open", "/closed")] == [503, 503]


async def test_a_pool_without_a_live_picker_is_served_at_once_or_not_at_all(tmp_path: Path) -> None:
    opened, closed = pool("open", fail_open=True), pool("closed")
    port = on_port_80(to("/open", opened), to("/closed", closed))
    async with answering(Models().answer) as where:
        endpoints = {each.cluster: at(where) for each in (opened, closed)}  # the pickers have no endpoint
        async with client(graph(port, backends=[opened, closed], endpoints=endpoints), tmp_path) as c:
            assert await c.post("/open") == (200, f"{where} hello")
            assert (await c.post("/closed"))[0] == 503


async def test_another_pool_stands_in_and_its_own_picker_chooses(tmp_path: Path) -> None:
    second = pool("b")
    first = pool("a", failover=(second,))
    port = on_port_80(to("/", first))
    async with answering(Models(503).answer) as full, answering(Models().answer) as free:
        pickers = Picker(f"{HOME}:{full}"), Picker(f"{HOME}:{free}")
        async with picking(pickers[0]) as a, picking(pickers[1]) as b:
            endpoints = {first.cluster: at(full), second.cluster: at(free)}
            endpoints |= {first.picker.cluster: at(a), second.picker.cluster: at(b)}
            async with client(graph(port, backends=[first], endpoints=endpoints), tmp_path) as c:
                assert await c.post("/v1") == (200, f"{free} hello")
                assert (pickers[0].asked, pickers[1].asked) == (1, 1)
                assert pickers[1].reported == [f"{HOME}:{free}"]
