"""The listener against real ZMQ publishers: what comes, what is lost, and where it looks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest
import zmq
from aiohttp import web

from picker.kv_blocks import ROOT
from picker.kv_events import KvEvents, KvSettings, ports_of
from picker.kv_messages import Cleared
from picker.kv_source import KvSource
from picker.precise import Precise
from picker.prefix import PrefixIndex
from tests.e2e.waiting import until
from tests.picker._kv import frames, stored
from tests.picker._views import pool_of
from xds_server.model.graph import Endpoint

QUICK = KvSettings(interval=0.005, again=0.02)


class Known:
    """The picker, as far as it is asked."""

    def __init__(self, source: KvSource) -> None:
        self.source, self.found = source, Precise(PrefixIndex())

    def precise(self, pool: str) -> tuple[KvSource, Precise] | None:
        return (self.source, self.found) if pool == "ns/pool" else None


class Server:
    """A publisher."""

    def __init__(self, port: int = 0) -> None:
        self.context = zmq.Context()
        self.router: zmq.Socket | None = None  # of its replays
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_VERBOSER, 1)  # every one that comes, also where there is one already
        self.socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        self.port = int(self.socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    async def heard(self) -> None:
        """Until somebody new has subscribed."""
        await until(lambda: self.socket.poll(0) and self.socket.recv()[:1] == b"\x01", "a subscriber")

    def send(self, sequence: int, *events, topic: bytes = b"") -> None:
        self.socket.send_multipart(frames(sequence, *events, topic=topic))

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@asynccontextmanager
async def listening(known: Known, *endpoints: Endpoint, **settings: float) -> AsyncIterator[KvEvents]:
    found = KvEvents(known, replace(QUICK, **settings))
    found.update([pool_of(*endpoints)])
    task = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_events_come_in_order_and_a_gap_is_seen(server: Server) -> None:
    known = Known(KvSource(server.port, "kv@"))
    endpoint = Endpoint("127.0.0.1", 8000)
    async with listening(known, endpoint):
        await server.heard()
        server.send(0, stored([1, 2], None, [1, 2, 3, 4], 2), topic=b"other")
        server.send(0, stored([1, 2], None, [1, 2, 3, 4], 2), topic=b"kv@pod@model")
        feed = await until(lambda: known.found.feeds.get(str(endpoint)), "a feed")
        assert (feed.events, feed.mode, known.found.held.count(str(endpoint))) == (1, "precise", 2)
        server.send(2, Cleared(), topic=b"kv@pod@model")
        await until(lambda: feed.gaps, "a gap")
        assert known.found.held.count(str(endpoint)) == 0


async def test_the_rank_says_the_port(server: Server) -> None:
    known = Known(KvSource(server.port - 3))
    async with listening(known, Endpoint("127.0.0.1", 8000, rank=3)):
        await server.heard()


async def test_endpoints_come_and_go(server: Server) -> None:
    known = Known(KvSource(server.port))
    a, b = Endpoint("127.0.0.1", 8000), Endpoint("127.0.0.1", 8001)
    async with listening(known, a) as found:
        await server.heard()
        found.update([pool_of(b)])
        assert [one.key for one in found._subscriptions.values()] == [str(b)]
        await server.heard()
        found.update([])
        assert not found._of
        found.update([pool_of(a)])
        await server.heard()
        server.send(0)
        await until(lambda: str(a) in known.found.feeds, "the first again")


async def test_a_server_that_comes_back_is_heard_again() -> None:
    first = Server()
    known, endpoint = Known(KvSource(first.port)), Endpoint("127.0.0.1", 8000)
    async with listening(known, endpoint):
        await first.heard()
        first.send(0, stored([1], None, [1, 2], 2))
        feed = await until(lambda: known.found.feeds.get(str(endpoint)), "a feed")
        first.close()
        await until(lambda: feed.mode == "approximate", "the end of the connection")
        second = Server(first.port)
        try:
            await second.heard()
            second.send(0, stored([5], None, [7, 8], 2))
            await until(lambda: feed.mode == "precise", "the new process")
            assert (known.found.held.count(str(endpoint)), len(known.found.held.masks)) == (1, 2)
        finally:
            second.close()


@asynccontextmanager
async def sources(*answers: object) -> AsyncIterator[tuple[Endpoint, list[int]]]:
    """An endpoint that says where it publishes: a status, a text, pieces of one, or what becomes JSON, the last again and again."""
    asked: list[int] = []

    async def say(request: web.Request) -> web.StreamResponse:
        asked.append(1)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, tuple):
            stream = web.StreamResponse()
            await stream.prepare(request)
            for piece in answer:
                await stream.write(piece.encode())
                await asyncio.sleep(0.01)
            return stream
        return web.Response(text=answer) if isinstance(answer, str) else web.json_response(answer)

    app = web.Application()
    app.router.add_get("/kv_event_sources", say)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Endpoint("127.0.0.1", runner.addresses[0][1]), asked
    finally:
        await runner.cleanup()


async def test_a_server_is_asked_where_it_publishes(server: Server) -> None:
    found = [{"data_parallel_rank": 0, "endpoint": f"tcp://192.0.2.1:{server.port}"}]  # of it only the port is believed
    async with sources(404, "?", found) as (endpoint, _), listening(Known(KvSource()), endpoint):
        await server.heard()


async def test_an_answer_that_comes_in_pieces_is_read_to_its_end(server: Server) -> None:
    pieces = ('[{"data_parallel_rank": 0, ', f'"endpoint": "tcp://127.0.0.1:{server.port}"}}]')
    async with sources(pieces) as (endpoint, _), listening(Known(KvSource()), endpoint, again=3600.0):
        await server.heard()


async def test_who_may_have_started_anew_is_asked_at_once(server: Server) -> None:
    found = [{"data_parallel_rank": 0, "endpoint": f"tcp://127.0.0.1:{server.port}"}]
    async with (
        sources(404, found) as (endpoint, asked),
        listening(Known(KvSource()), endpoint, again=3600.0) as events,
    ):
        (one,) = events._subscriptions.values()
        await until(lambda: asked and one.tries, "the first answer")
        events.hurry(str(endpoint))
        await server.heard()


def test_a_flood_does_not_hold_up_the_loop(server: Server) -> None:
    """One look ends when its time is over, whatever is left."""
    known, ticks = Known(KvSource(server.port)), iter(range(10**6))
    found = KvEvents(known, KvSettings(most=1.0), clock=lambda: float(next(ticks)))
    one = Endpoint("127.0.0.1", 8000)
    found._context = zmq.Context()
    try:
        found.update([pool_of(one)])
        found._connect()
        assert server.socket.poll(5000)
        server.socket.recv()
        for sequence in range(50):
            server.send(sequence, stored([sequence], None, [sequence], 1))
        assert next(iter(found._of)).poll(5000)
        found.look()
        assert 0 < known.found.feeds[str(one)].events < 5
        for _ in range(200):
            found.look()
            if known.found.feeds[str(one)].events == 50:
                break
            next(iter(found._of)).poll(100)
        assert known.found.feeds[str(one)].events == 50
        assert ROOT in known.found.held.masks
    finally:
        found._context.destroy(linger=0)


async def test_what_was_missed_is_asked_for(server: Server) -> None:
    """A gateway that comes late hears everything; so does one that loses messages, and nothing twice."""
    router = server.router = server.context.socket(zmq.ROUTER)
    router.bind("tcp://127.0.0.1:*")
    replay = int(router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    said = [frames(number, stored([number], None, [number], 1)) for number in range(8)]

    async def asked(start: int, *numbers: int) -> None:
        await until(lambda: router.poll(0), "to be asked")
        who, _, wanted = router.recv_multipart()
        assert int.from_bytes(wanted, "big") == start
        for number in numbers:
            router.send_multipart((who, b"", *said[number][number % 2 :]))  # with the topic, as vLLM 0.32, and without
        router.send_multipart((who, b"", b"", b"\xff" * 8, b""))

    known, endpoint = Known(KvSource(server.port, replay=replay)), Endpoint("127.0.0.1", 8000)
    async with listening(known, endpoint, cooldown=0.0):
        await server.heard()
        server.socket.send_multipart(said[2])  # while the replay runs
        await asked(0, 0, 1, 2)
        server.socket.send_multipart(said[3])
        feed = await until(lambda: known.found.feeds.get(str(endpoint)), "a feed")
        await until(lambda: feed.sequence == 3, "all of them")
        assert (feed.gaps, feed.mode, known.found.held.count(str(endpoint))) == (0, "precise", 4)
        server.socket.send_multipart(said[6])
        await asked(4, 4, 5, 6)
        server.socket.send_multipart(said[7])
        await until(lambda: feed.sequence == 7, "all of them")
        assert (feed.gaps, feed.mode, known.found.held.count(str(endpoint))) == (0, "precise", 8)


async def test_a_replay_that_never_comes_is_a_gap(server: Server) -> None:
    known, endpoint = Known(KvSource(server.port, replay=9)), Endpoint("127.0.0.1", 8000)
    async with listening(known, endpoint, patience=0.02):
        await server.heard()
        server.send(0)
        feed = await until(lambda: known.found.feeds.get(str(endpoint)), "a feed")
        server.send(2)
        await until(lambda: feed.gaps, "a gap")


@pytest.mark.parametrize(
    ("page", "ports"),
    [
        ([{"data_parallel_rank": 0, "endpoint": "tcp://10.0.0.1:5557", "replay_endpoint": None}], (5557, None)),
        ([{"data_parallel_rank": r, "endpoint": f"tcp://[::1]:{5557 + r}"} for r in range(3)], (5558, None)),
        ({"0": {"endpoint": "tcp://*:5000", "replay_endpoint": "tcp://*:6000"}}, (5000, 6000)),
        ({"0": {"endpoint": "tcp://*:5000"}, "1": {"endpoint": "tcp://*:5001"}}, (5001, None)),
        ([], None),
        ({}, None),
        ([{"endpoint": "ipc://x"}], None),
        ([{"endpoint": "tcp://*:99999"}], None),
        ([7], None),
        (7, None),
    ],
)
def test_the_ports_of_a_rank(page: object, ports: tuple[int, int | None] | None) -> None:
    assert ports_of(orjson.dumps(page), 1) == ports


def test_behind_one_port_a_rank_that_is_not_named_has_no_port() -> None:
    page = orjson.dumps({"0": {"endpoint": "tcp://*:5000"}})
    assert ports_of(page, 1, alone=False) is None
    assert ports_of(page, 0, alone=False) == (5000, None)
