"""Requests that wait, through the gRPC shell: woken by what happens, ended by one timer, gone with their client. The clock is ours."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from picker.facts import Decision
from picker.picker import Picker
from picker.server import Address, ExtProcServer, ids
from tests.picker.test_picker import A, pool
from tests.picker.test_server import BUFFERED, DUPLEX, GOOD, Client, body, headers
from tests.picker.test_waiting import Counting
from xds_server.latest import Latest


@dataclass
class Site:
    """One server of one slot behind a picker; `now` stands still unless a test moves it."""

    now: float = 100.0
    facts: list[object] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.signals = Counting(A)
        self.picker = Picker(self.signals)
        self.update(pool(A))
        self.server = ExtProcServer(self.picker, self.observe, Latest(True), next_id=ids(), clock=lambda: self.now)

    def update(self, found: object) -> None:
        self.picker.update({found.name: found})

    def observe(self, fact: object) -> None:
        self.facts.append(fact)
        self.told.set()

    def end(self) -> None:
        self.signals.inflight[str(A)] -= 1
        self.server.wake()

    async def fact(self, count: int) -> object:
        while len(self.facts) < count:
            self.told.clear()
            await self.told.wait()
        return self.facts[count - 1]


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[Client]:
    async with (
        site.server.listen([Address("127.0.0.1:0")], grace=0.5) as ports,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel,
    ):
        yield Client(channel)


async def asked(client: Client, mode: int = BUFFERED, **more: str) -> grpc.aio.StreamStreamCall:
    call = client.process("ns/pool")
    await call.write(headers(mode, **more))
    if mode == BUFFERED:
        await call.read()
    await call.write(body(GOOD))
    return call


async def waits(client: Client, **more: str) -> grpc.aio.StreamStreamCall:
    call = await asked(client, **more)
    assert (await call.read()).override_message_timeout.seconds == 65
    return call


async def test_a_request_that_waits_is_served_when_another_ends() -> None:
    site = Site()
    async with serving(site) as client:
        first = await asked(client)
        assert (await first.read()).WhichOneof("response") == "request_body"
        second = await waits(client)
        site.now += 2.0
        site.end()
        assert (await second.read()).WhichOneof("response") == "request_body"
        assert await second.read() is grpc.aio.EOF
    assert [type(fact) for fact in site.facts] == [Decision, Decision]
    assert (site.facts[1].seconds, site.facts[1].queue) == (2.0, 2.0)


async def test_duplex_waits_in_silence_and_goes_on_with_the_response() -> None:
    site = Site()
    async with serving(site) as client:
        await (await asked(client)).read()
        call = await asked(client, DUPLEX)
        third = await waits(client)
        site.end()
        assert (await call.read()).WhichOneof("response") == "request_headers"
        assert (await call.read()).request_body.response.body_mutation.streamed_response.body == GOOD
        await call.write(pb.ProcessingRequest(response_headers=pb.HttpHeaders(end_of_stream=True)))
        assert (await call.read()).WhichOneof("response") == "response_headers"
        assert await call.read() is grpc.aio.EOF
        third.cancel()


async def test_a_client_that_leaves_is_taken_out_at_once_and_lets_others_go() -> None:
    site = Site()
    async with serving(site) as client:
        await (await asked(client)).read()
        leaves, half_closes, stays = await waits(client), await waits(client), await waits(client)
        leaves.cancel()
        assert (await site.fact(2)).reason == "client_cancelled"
        await half_closes.done_writing()
        assert (await site.fact(3)).reason == "client_cancelled"
        assert site.picker.queued("ns/pool")[0][0] == 1
        site.end()
        assert (await stays.read()).WhichOneof("response") == "request_body"


async def test_a_client_that_leaves_as_it_is_decided_is_still_one_fact() -> None:
    site = Site()
    async with serving(site) as client:
        await (await asked(client)).read()
        leaves = await waits(client)
        site.signals.inflight[str(A)] -= 1
        site.server._poll()
        leaves.cancel()
        assert isinstance(await site.fact(2), Decision)


async def test_the_timer_ends_what_may_wait_no_longer() -> None:
    site = Site()
    async with serving(site) as client:
        await (await asked(client)).read()
        call = await waits(client)
        assert site.server._timer is not None
        site.now += 60.0
        site.server._poll()  # as the timer does
        reply = await call.read()
        assert reply.immediate_response.status.code == 429
        assert site.facts[1].queue == 60.0
        assert site.server._timer is None


async def test_a_short_time_to_live_needs_no_event() -> None:
    loop = asyncio.get_running_loop()
    site = Site()
    site.server._clock = loop.time
    async with serving(site) as client:
        await (await asked(client)).read()
        call = await asked(client, **{"x-llm-d-inference-ttl": "10ms"})
        await call.read()
        assert (await call.read()).immediate_response.status.code == 429


async def test_the_first_endpoint_of_a_pool_lets_them_go() -> None:
    site = Site()
    site.update(pool())
    async with serving(site) as client:
        call = await waits(client)
        site.update(pool(A))
        site.server.wake()
        assert (await call.read()).WhichOneof("response") == "request_body"


async def test_a_server_that_ends_answers_everybody() -> None:
    site = Site()
    async with site.server.listen([Address("127.0.0.1:0")], grace=2.0) as ports:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}")
        client = Client(channel)
        await (await asked(client)).read()
        call = await waits(client)
        reading = asyncio.ensure_future(call.read())
    reply = await reading
    assert reply.immediate_response.status.code == 503
    assert b"shutting_down" in reply.immediate_response.body
    await channel.close()


async def test_waking_costs_nothing_while_nobody_waits() -> None:
    site = Site()
    site.server.wake()
    assert not site.server._woken


async def test_a_body_that_comes_as_the_gateway_ends_does_not_wait() -> None:
    """Its headers came before, so its stream is still served; nobody would tell it that its time is over."""
    site = Site()
    listening = site.server.listen([Address("127.0.0.1:0")], grace=5.0)
    port, *_ = await listening.__aenter__()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Client(channel)
        await (await asked(client)).read()
        late = client.process("ns/pool")
        await late.write(headers(BUFFERED))
        await late.read()
        ending = asyncio.create_task(listening.__aexit__(None, None, None))
        await asyncio.sleep(0)
        await late.write(body(GOOD))
        replies = [await late.read(), await late.read()]
        await ending
    assert [reply.immediate_response.status.code for reply in replies if reply is not grpc.aio.EOF][-1] == 503
    assert site.facts[-1].reason == "shutting_down"
