"""External authorization in a real Envoy: who is asked, what it is told, and what becomes of its answer."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.rpc import status_pb2

from tests.xds_server.fleet_envoy import HOME, answering, at, backend, graph, on_port_80, served, to
from xds_server.model.graph import ExternalAuth, Route
from xds_server.model.names import MODEL_HEADER
from xds_server.model.objects import BackendRef, ExternalAuthFilter, HTTPMatch, ObjectRef, PathMatch, ValueMatch
from xds_server.translate import auth

pytestmark = pytest.mark.envoy
A, HTTP, GRPC, GONE = backend("a"), backend("http"), backend("grpc", protocol="h2c"), backend("gone")
REF = BackendRef(ObjectRef("", "Service", "default", "auth"))


def by(found: Any, protocol: Any = "HTTP", **more: Any) -> ExternalAuth:
    return ExternalAuth(ExternalAuthFilter(REF, protocol, **more), found)


async def echo(request: web.Request) -> web.Response:
    return web.json_response({name.lower(): value for name, value in request.headers.items()})


class Checker:
    """An HTTP server that lets in who is called "friend"."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str], str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.path, headers, await request.text()))
        if headers.get("authorization") != "friend":
            return web.Response(status=401, text="who are you?", headers={"x-why": "unknown"})
        return web.Response(text="welcome", headers={"x-user": "a", "x-other": "b"})


async def test_a_server_is_asked_by_http(tmp_path: Path) -> None:
    checker = Checker()
    some = by(HTTP, path="/check/", request_headers=("X-Team",), response_headers=("x-user",), max_body=8)
    port = on_port_80(
        to("/some", A, auth=some), to("/all", A, auth=by(HTTP)), to("/gone", A, auth=by(GONE)), to("/free", A)
    )
    async with answering(checker.answer) as asked, answering(echo) as where, aiohttp.ClientSession() as session:
        endpoints = {A.cluster: at(where), HTTP.cluster: at(asked)}
        async with served(graph(port, backends=(A, HTTP, GONE), endpoints=endpoints), tmp_path) as bound:

            async def send(path: str, who: str, body: str = "body") -> tuple[int, str]:
                headers = {"authorization": who, "x-team": "t", "x-secret": "s", "x-user": "forged"}
                async with session.post(f"http://{HOME}:{bound[80]}{path}", data=body, headers=headers) as got:
                    return got.status, await got.text()

            assert (await send("/free/x", "foe"))[0] == 200
            assert not checker.asked
            assert await send("/some/x", "foe") == (401, "who are you?")
            path, headers, body = checker.asked[-1]
            assert (path, headers["x-team"], "x-secret" in headers, body) == ("/check/some/x", "t", False, "body")
            status, text = await send("/some/x", "friend")
            assert (status, '"x-user": "a"' in text, "x-other" in text) == (200, True, False)
            assert (await send("/some/x", "friend", "longer than it"))[0] == 413
            status, text = await send("/all/x", "friend")
            assert (status, '"x-user": "a"' in text, '"x-other": "b"' in text) == (200, True, True)
            assert '"content-length": "4"' in text
            assert checker.asked[-1][2] == ""
            assert (await send("/gone/x", "friend"))[0] == 503


@asynccontextmanager
async def grpc_checker() -> AsyncIterator[int]:
    async def check(request: Any, _: Any) -> Any:
        headers = request.attributes.request.http.headers
        if headers.get("authorization") != "friend":
            return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=7))
        option = base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key="x-user", value=",".join(sorted(headers))))
        ok = external_auth_pb2.OkHttpResponse(headers=[option])
        return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=0), ok_response=ok)

    kinds = external_auth_pb2.CheckRequest, external_auth_pb2.CheckResponse
    handler = grpc.unary_unary_rpc_method_handler(check, kinds[0].FromString, kinds[1].SerializeToString)
    server = grpc.aio.server()
    name = "envoy.service.auth.v3.Authorization"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Check": handler}),))
    port = server.add_insecure_port(f"{HOME}:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_a_server_is_asked_by_grpc_for_a_route_or_for_a_whole_gateway(tmp_path: Path) -> None:
    some = by(GRPC, "GRPC", request_headers=("authorization", "x-team"))
    port = on_port_80(to("/route", A, auth=some), to("/free", A), auth=(by(HTTP),))
    checker = Checker()
    async with grpc_checker() as asked, answering(checker.answer) as gate, answering(echo) as where:
        endpoints = {A.cluster: at(where), GRPC.cluster: at(asked), HTTP.cluster: at(gate)}
        found = graph(port, backends=(A, GRPC, HTTP), endpoints=endpoints)
        async with served(found, tmp_path) as bound, aiohttp.ClientSession() as session:

            async def get(path: str, who: str) -> tuple[int, str]:
                headers = {"authorization": who, "x-team": "t"}
                async with session.get(f"http://{HOME}:{bound[80]}{path}", headers=headers) as got:
                    return got.status, await got.text()

            status, text = await get("/route", "friend")
            assert status == 200
            assert '"x-user": "authorization,x-team"' in text
            assert [each[0] for each in checker.asked] == ["/route"]
            assert (await get("/free", "foe"))[0] == 401


async def test_no_body_is_a_way_around_the_check_where_the_body_decides_the_route(tmp_path: Path) -> None:
    model = HTTPMatch(PathMatch("PathPrefix", "/v1"), headers=(ValueMatch(MODEL_HEADER, "guarded"),))
    free = to("/v1", A)
    guarded = Route("guarded", model, free.action, auth=by(HTTP))
    open_model = HTTPMatch(PathMatch("PathPrefix", "/v1"), headers=(ValueMatch(MODEL_HEADER, "open"),))
    port = on_port_80(guarded, Route("open", open_model, free.action))
    checker = Checker()
    async with answering(checker.answer) as gate, answering(echo) as where, aiohttp.ClientSession() as session:
        endpoints = {A.cluster: at(where), HTTP.cluster: at(gate)}
        async with served(graph(port, backends=(A, HTTP), endpoints=endpoints), tmp_path) as bound:

            async def post(model: str) -> int:
                async with session.post(f"http://{HOME}:{bound[80]}/v1", json={"model": model}) as got:
                    return got.status

            assert (await post("guarded"), await post("open")) == (401, 200)
            assert len(checker.asked) == 1


def test_what_is_not_taken_from_an_answer_is_what_would_tell_lies_about_the_request() -> None:
    found = [each.safe_regex.regex for each in auth._all_but(auth._NOT_TAKEN).patterns if each.safe_regex]
    taken = re.compile(f"(?:{'|'.join(found)})\\Z")
    for name in ("host", "te", "content-length", "content-type", ":status", "transfer-encoding", "trailer", "date"):
        assert not taken.match(name)
    for name in ("hos", "hosts", "t", "tea", "x-user", "count", "cookie", "traceparent", "authorization", "dates"):
        assert taken.match(name)


def test_equal_configurations_share_a_filter() -> None:
    other = ExternalAuth(ExternalAuthFilter(BackendRef(ObjectRef("", "Service", "other", "x")), "HTTP"), HTTP)
    assert auth.name(by(HTTP)) == auth.name(other) != auth.name(by(GONE))
    assert len(auth.name(other)) == len("penstock.auth/") + 32  # a short hash could be made to meet another's
