"""The gRPC shell with a real client: sessions over TCP and a unix socket, facts, pools by metadata, health."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from picker.facts import Decision, Outcome
from picker.load import Load
from picker.picker import Picker
from picker.server import SERVICE, Address, ExtProcServer, ids
from picker.splice import LARGE
from xds_server.latest import Latest
from xds_server.model.graph import Backend, Endpoint, Pool
from xds_server.model.names import INSERT_METADATA, POOL_METADATA, USAGE_METADATA
from xds_server.model.objects import ObjectRef

REF = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", "p")
POOL = Pool(REF, Backend("pool/ns/p", REF, pool=True), (Endpoint("10.0.0.1", 80),))
DESTINATION = "x-gateway-destination-endpoint"


class NoSignals:
    def loads(self, pool: str) -> Mapping[str, Load]:
        return {}

    def started(self, decision: Decision, now: float) -> None:
        pass


class Client:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    def process(self, pool: str = "ns/p", *more: tuple[str, str]) -> grpc.aio.StreamStreamCall:
        call = self.channel.stream_stream(
            f"/{SERVICE}/Process",
            request_serializer=pb.ProcessingRequest.SerializeToString,
            response_deserializer=pb.ProcessingResponse.FromString,
        )
        return call(metadata=(*(((POOL_METADATA, pool),) if pool else ()), *more))


@asynccontextmanager
async def running(
    facts: list[object], target: str = "127.0.0.1:0", serving: Latest[bool] | None = None
) -> AsyncIterator[Client]:
    picker = Picker(NoSignals())
    picker.update({POOL.name: POOL})
    server = ExtProcServer(picker, facts.append, serving or Latest(True), next_id=lambda: "id-1")
    async with server.listen([Address(target)], grace=0) as ports:
        where = target if target.startswith("unix:") else f"127.0.0.1:{ports[0]}"
        async with grpc.aio.insecure_channel(where) as channel:
            yield Client(channel)


def headers(mode: int, **found: str) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.protocol_config.request_body_mode = mode
    for name, value in ({":method": "POST", ":path": "/v1/completions"} | found).items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message


def body(data: bytes, end: bool = True) -> pb.ProcessingRequest:
    return pb.ProcessingRequest(request_body=pb.HttpBody(body=data, end_of_stream=end))


BUFFERED, DUPLEX = processing_mode_pb2.ProcessingMode.BUFFERED, processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED
GOOD = b'{"model":"m","prompt":"hi"}'


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_buffered_ends_with_the_decision(transport: str, tmp_path: Path) -> None:
    facts: list[object] = []
    async with running(facts, "127.0.0.1:0" if transport == "tcp" else f"unix:{tmp_path}/s") as client:
        call = client.process()
        await call.write(headers(BUFFERED))
        assert (await call.read()).WhichOneof("response") == "request_headers"
        await call.write(body(GOOD))
        reply = await call.read()
        assert reply.dynamic_metadata["envoy.lb"][DESTINATION] == "10.0.0.1:80"
        assert reply.dynamic_metadata["penstock"]["id"] == "id-1"
        assert await call.read() is grpc.aio.EOF  # the server ends the stream
        assert await call.code() == grpc.StatusCode.OK
    (fact,) = facts
    assert isinstance(fact, Decision)
    assert fact.endpoints == ("10.0.0.1:80",)
    assert fact.seconds >= 0


@pytest.mark.parametrize("told", [(), ((USAGE_METADATA, "ask"),)])
async def test_streams_are_asked_for_usage_where_the_gateway_says_so(told: tuple[tuple[str, str], ...]) -> None:
    async with running([]) as client:
        call = client.process("ns/p", *told)
        await call.write(headers(BUFFERED))
        await call.read()
        await call.write(body(b'{"model":"m","prompt":"hi","stream":true}'))
        reply = await call.read()
    assert (b"include_usage" in reply.request_body.response.body_mutation.body) == bool(told)
    assert ("unasked_usage" in reply.dynamic_metadata["penstock"]) == bool(told)


@pytest.mark.parametrize("inserts", [True, False])
async def test_large_streams_stay_where_the_gateway_says_that_it_writes_into_them(inserts: bool) -> None:
    told = ((USAGE_METADATA, "ask"), *(((INSERT_METADATA, "write"),) if inserts else ()))
    async with running([]) as client:
        call = client.process("ns/p", *told)
        await call.write(headers(BUFFERED))
        await call.read()
        await call.write(body(b'{"model":"m","stream":true,"prompt":"%b"}' % (b"x" * LARGE)))
        reply = await call.read()
    assert reply.request_body.response.HasField("body_mutation") is not inserts
    assert ("insert" in reply.dynamic_metadata["penstock"]) is inserts


async def test_duplex_with_a_body_above_the_usual_message_size() -> None:
    facts: list[object] = []
    big = b'{"model":"m","prompt":"' + b"x" * 5_000_000 + b'"}'
    async with running(facts) as client:
        call = client.process("")  # the only pool
        await call.write(headers(DUPLEX))
        await call.write(body(big[:100], end=False))
        await call.write(body(big[100:]))
        assert (await call.read()).request_headers.response.header_mutation.set_headers[0].header.key == DESTINATION
        found = b""
        while True:
            chunk = (await call.read()).request_body.response.body_mutation.streamed_response
            found += chunk.body
            if chunk.end_of_stream:
                break
        assert found == big
        await call.write(pb.ProcessingRequest(response_headers=pb.HttpHeaders(end_of_stream=True)))
        assert (await call.read()).WhichOneof("response") == "response_headers"
        assert await call.read() is grpc.aio.EOF
    assert len(facts) == 1


async def test_refusals_are_replies_and_outcomes() -> None:
    facts: list[object] = []
    async with running(facts) as client:
        for pool, data in (("ns/none", GOOD), ("ns/p", b"{")):
            call = client.process(pool)
            await call.write(headers(BUFFERED))
            await call.read()
            await call.write(body(data))
            assert (await call.read()).WhichOneof("response") == "immediate_response"
            assert await call.read() is grpc.aio.EOF
    assert [(fact.status, fact.reason) for fact in facts] == [(503, "no_endpoints"), (400, "bad_request")]


async def test_a_stream_that_ends_early_is_an_outcome() -> None:
    facts: list[object] = []
    async with running(facts) as client:
        call = client.process()
        await call.write(headers(BUFFERED))
        await call.read()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        idle = client.process()  # no request, no fact
        await idle.done_writing()
        assert await idle.read() is grpc.aio.EOF
    (fact,) = facts
    assert isinstance(fact, Outcome)
    assert fact.reason == "client_cancelled"


async def test_health() -> None:
    serving: Latest[bool] = Latest()
    async with running([], serving=serving) as client:
        check = client.channel.unary_unary("/grpc.health.v1.Health/Check")
        name = SERVICE.encode()
        request = b"\n" + bytes([len(name)]) + name
        assert await check(b"") == b"\x08\x02"
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")(request)
        assert await watch.read() == b"\x08\x02"
        serving.set(True)
        assert await watch.read() == b"\x08\x01"
        assert await check(request) == b"\x08\x01"
        serving.set(False)
        assert await watch.read() == b"\x08\x02"
        unknown = client.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\n\x01x")
        assert await unknown.read() == b"\x08\x03"
        for call in (watch, unknown):
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(b"\n\x01x")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_an_unknown_method_is_unimplemented() -> None:
    async with running([]) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary("/x.Y/Z")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_ids_are_unique() -> None:
    one, two = ids(), ids()
    assert len({one(), one(), two(), two()}) == 4
