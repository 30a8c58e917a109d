"""The ADS server: one gRPC stream is one session and one TaskGroup.

Source: Envoy `service.discovery.v3.AggregatedDiscoveryService`. Cases: tests/xds_server/test_server.py, with gRPC's own xDS
client, and tests/xds_server/test_flips.py, with a real Envoy.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import grpc

from xds_server import wire
from xds_server.admission import Identify, admitted
from xds_server.ads import AdsSession, Timing
from xds_server.facts import Connected, Disconnected, NodeStatus, Observe, Response
from xds_server.latest import Latest
from xds_server.snapshot import Snapshot

Fleets = Mapping[str, Snapshot]  # by verified identity, or where nobody is asked by node.cluster; "" is for every other

DEFAULT = Timing()
MAX_AGE_S = (10 * 3600, 12 * 3600)  # a connection ends some time in between, so that replicas share the fleet again
# Where identities are checked, sooner: a reconnect costs nothing, and asks again whose the token is.
VERIFIED_AGE_S = (3600, 5400)
OPTIONS = (
    ("grpc.max_connection_age_grace_ms", 120_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 15_000),
    ("grpc.max_send_message_length", -1),  # a first CDS response may be large
    ("grpc.max_receive_message_length", 64 << 20),  # a reconnect names everything it has
    ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, not a share of the load
)


class Fleet:
    """The live sessions, for status and for people."""

    def __init__(self) -> None:
        self._sessions: list[tuple[AdsSession, str | None]] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[NodeStatus]:
        """One status per stream, in the order in which they came; an Envoy that reconnects may be there twice for a moment."""
        return iter(
            [
                replace(session.status(), fleet=session.node.cluster if fleet is None else fleet)
                for session, fleet in self._sessions
            ]
        )

    @contextmanager
    def member(self, session: AdsSession, fleet: str | None = None) -> Iterator[None]:
        """`fleet` is the verified one, if anybody asked."""
        member = (session, fleet)
        self._sessions.append(member)
        try:
            yield
        finally:
            self._sessions.remove(member)


class _Ended(Exception):
    """The client has closed its half of the stream: that ends the TaskGroup."""


class AdsServer(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Both variants of AggregatedDiscoveryService, as generic handlers that take and give bytes."""

    def __init__(
        self,
        snapshots: Latest[Fleets],
        observe: Observe,
        *,
        timing: Timing = DEFAULT,
        clock: Callable[[], float] = time.monotonic,
        stream: "type[Stream] | None" = None,
        identify: Identify | None = None,
    ) -> None:
        self._identify = identify
        self._stream = stream or Stream
        self.fleet = Fleet()
        self.ports: tuple[int, ...] = ()
        self._snapshots = snapshots
        self._observe = observe
        self._timing = timing
        self._clock = clock

    def service(self, handler_call_details: Any) -> Any:
        """Called by gRPC for each new stream; None is UNIMPLEMENTED."""
        serve = {
            f"/{wire.ADS}/StreamAggregatedResources": self._sotw,
            f"/{wire.ADS}/DeltaAggregatedResources": self._delta,
        }
        behaviour = serve.get(handler_call_details.method)
        return None if behaviour is None else grpc.stream_stream_rpc_method_handler(behaviour)

    async def _sotw(self, _: Any, context: Any) -> None:
        await self._serve(context, delta=False)

    async def _delta(self, _: Any, context: Any) -> None:
        await self._serve(context, delta=True)

    async def _serve(self, context: Any, *, delta: bool) -> None:
        """Every stream of every kind comes through here, and is known before anything else is told to it."""
        fleet = None if self._identify is None else await admitted(context, self._identify)
        if self._snapshots.value is None:  # a half-empty answer would take configuration away from a running Envoy
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not synced yet")
        stream = self._stream(context, delta=delta, timing=self._timing, clock=self._clock, observe=self._observe)
        with self.fleet.member(stream.session, fleet):
            await stream.serve(self._snapshots, fleet)


class Stream:
    """One session between a gRPC stream, the snapshots and the clock. A slow client delays itself alone: only `_write` waits."""

    def __init__(
        self, context: Any, *, delta: bool, timing: Timing, clock: Callable[[], float], observe: Observe
    ) -> None:
        self.session = AdsSession(delta=delta, timing=timing)
        self._parse = wire.parse_delta if delta else wire.parse_sotw
        self._encode = wire.encode_delta if delta else wire.encode_sotw
        self._context = context
        self._clock = clock
        self._observe = observe
        self._outbox: list[Response] = []  # bounded: at most one response of a type is unanswered
        self._changed = asyncio.Event()

    async def serve(self, snapshots: Latest[Fleets], fleet: str | None = None) -> None:
        """Until the client closes; a failing child fails the stream. `fleet` None: what the client says of itself decides."""
        first = await self._context.read()
        if first is grpc.aio.EOF:
            return
        self._took(self.session.receive(self._parse(first), self._clock()))
        self._observe(Connected(self.session.node, self.session.delta))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(snapshots, fleet))
                tasks.create_task(self._write())
                tasks.create_task(self._read())
        except* _Ended:
            pass
        finally:
            self._observe(Disconnected(self.session.node, self.session.delta))

    async def _read(self) -> None:
        while (body := await self._context.read()) is not grpc.aio.EOF:
            self._took(self.session.receive(self._parse(body), self._clock()))
        raise _Ended

    async def _follow(self, snapshots: Latest[Fleets], fleet: str | None) -> None:
        async for fleets in snapshots.values():
            snapshot = choose(fleets, self.session.node.cluster, fleet)
            if snapshot is not None:  # a fleet that nobody describes keeps what it has
                self._took(self.session.update(snapshot, self._clock()))

    async def _write(self) -> None:
        while True:
            while self._outbox:
                await self._context.write(self._encode(self._outbox.pop(0)))
            due = self.session.deadline()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock())):
                    await self._changed.wait()
                self._changed.clear()
            except TimeoutError:
                self._took(self.session.tick(self._clock()))

    def _took(self, responses: Sequence[Response]) -> None:
        self._outbox += responses
        self._changed.set()
        for fact in self.session.facts():
            self._observe(fact)


def choose(fleets: Fleets, cluster: str, fleet: str | None) -> Snapshot | None:
    """A verified fleet gets its own and nothing else, for a snapshot has the private keys of its fleet."""
    if fleet is not None:
        return fleets.get(fleet)
    return fleets.get(cluster, fleets.get(""))


@asynccontextmanager
async def serve(
    addresses: Sequence[str],
    snapshots: Latest[Fleets],
    observe: Observe,
    *,
    credentials: Any = None,
    timing: Timing = DEFAULT,
    clock: Callable[[], float] = time.monotonic,
    stream: type[Stream] = Stream,
    identify: Identify | None = None,
) -> AsyncIterator[AdsServer]:
    """Serve ADS on every address ("127.0.0.1:18000", port 0 for any, "unix:/path") until the block ends; streams end with it.

    `credentials`: grpc.ServerCredentials, or None for plaintext. Raises RuntimeError for an address that cannot be bound. `stream` is
    what a benchmark wraps to delay responses. `identify` gives a stream's fleet from its metadata, None refuses it; without it
    whoever reaches the port is served what its node.cluster asks for.
    """
    handler = AdsServer(snapshots, observe, timing=timing, clock=clock, stream=stream, identify=identify)
    age = random.randint(*(VERIFIED_AGE_S if identify else MAX_AGE_S)) * 1000  # noqa: S311 - spreads reconnects, guards nothing
    server = grpc.aio.server(handlers=(handler,), options=(*OPTIONS, ("grpc.max_connection_age_ms", age)))
    handler.ports = tuple(
        server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        for address in addresses
    )
    await server.start()
    try:
        yield handler
    finally:
        await server.stop(grace=None)
