"""Listens to the KV events of every endpoint: one ZMQ socket each, one timer for all.

Many messages come at once, and none is urgent: what was just sent is known anyway. So sockets are looked at a few times a second,
for as long as a few milliseconds: idle endpoints cost microseconds, and a flood of events cannot hold up decisions. ZMQ connects
again by itself; what was missed meanwhile shows in the sequence numbers, and is asked for where the server has a replay socket.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson
import zmq
from zmq.utils.monitor import recv_monitor_message

from picker.facts import Outcome
from picker.kv_messages import LARGEST
from picker.kv_source import KvSource
from picker.precise import Precise
from picker.reading import whole
from xds_server.model.graph import Endpoint, Pool

SOURCES = "/kv_event_sources"
_LONGEST = 60.0  # seconds
_END = b"\xff" * 8  # the sequence number that ends a replay


@dataclass(frozen=True, slots=True)
class KvSettings:
    """Seconds."""

    interval: float = 0.05  # between two looks at the sockets
    most: float = 0.005  # that one look may take
    again: float = 1.0  # until a server is asked again where it publishes; twice as long each time, up to a minute
    timeout: float = 2.0  # of that question
    heartbeat: float = 5.0  # a connection on which none comes is dead
    patience: float = 2.0  # without a word in a replay
    cooldown: float = 30.0  # between two replays of one endpoint


class Listening(Protocol):
    """picker.Picker, as seen from here."""

    def precise(self, pool: str) -> tuple[KvSource, Precise] | None: ...


@dataclass(slots=True, eq=False)
class _Subscription:
    """One endpoint of one pool."""

    pool: str
    endpoint: Endpoint
    source: KvSource
    port: int = 0  # where it publishes; 0 while that is not known
    due: float = float("-inf")  # when to ask for it
    tries: int = 0  # in vain
    socket: Any = None
    monitor: Any = None
    replays: int | None = None  # port of its replay socket, if it has one
    replay: Any = None  # while it answers: a socket there
    asked: float = float("-inf")  # when it was last asked
    until: float = 0.0  # while it answers: when to give up; live messages wait in their socket
    heard: int | None = None  # the last number of a replay: live messages up to it were in it
    kept: Any = None  # the message that showed that others are missing
    asking: asyncio.Task[None] | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = str(self.endpoint)


class KvEvents:
    """Keeps what the picker knows of caches true while `run` runs. `observe` subscribes to facts: outcomes tell how true it is."""

    def __init__(
        self, picker: Listening, settings: KvSettings = KvSettings(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._picker, self._settings, self._clock = picker, settings, clock
        self._subscriptions: dict[tuple[str, str], _Subscription] = {}
        self._context: Any = None
        self._poller = zmq.Poller()
        self._of: dict[Any, _Subscription] = {}  # by socket and by monitor
        self._tasks: asyncio.TaskGroup | None = None
        self._session: aiohttp.ClientSession | None = None
        self._wake = asyncio.Event()

    def update(self, pools: Iterable[Pool]) -> None:
        """The pools that exist now, after the picker was told of them."""
        wanted: dict[tuple[str, str], _Subscription] = {}
        for pool in pools:
            found = self._picker.precise(pool.name)
            for endpoint in pool.endpoints if found else ():
                one = _Subscription(pool.name, endpoint, found[0]) if found else None
                if one is not None:
                    wanted[pool.name, one.key] = one
        for key, known in list(self._subscriptions.items()):
            new = wanted.get(key)
            if new is None or (new.source, new.endpoint.rank) != (known.source, known.endpoint.rank):
                self._drop(self._subscriptions.pop(key))
        for key, new in wanted.items():
            self._subscriptions.setdefault(key, new)
        self._wake.set()

    def hurry(self, endpoint: str) -> None:
        """It may be another process, which publishes elsewhere: do not wait for its turn to be asked."""
        for one in self._subscriptions.values():
            if one.key == endpoint:
                one.tries = 0
                if one.due != float("inf"):
                    one.due = self._clock()

    def observe(self, fact: Outcome) -> None:
        """Outcomes tell what servers really had cached."""
        if (found := self._picker.precise(fact.pool)) is None:
            return
        one = self._subscriptions.get((fact.pool, fact.endpoint))
        if one is not None and one.socket is not None:  # what it said of this request came before
            until = self._clock() + self._settings.most
            while self._read(one) and self._clock() < until:
                pass
        found[1].ended(fact)

    async def run(self) -> None:
        """Listen until cancelled."""
        settings = self._settings
        self._context = zmq.Context()
        self._context.max_sockets = 1 << 15
        timeout = aiohttp.ClientTimeout(settings.timeout)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as self._session, asyncio.TaskGroup() as self._tasks:
                while True:
                    self._wake.clear()
                    if not self._subscriptions:
                        await self._wake.wait()
                        continue
                    self._connect()
                    self.look()
                    await asyncio.sleep(settings.interval)
        finally:
            for one in self._subscriptions.values():
                self._drop(one)
            self._tasks = self._session = None
            self._context.destroy(linger=0)

    def look(self) -> None:
        """Read what has come, as far as there is time."""
        now = self._clock()
        ready = dict.fromkeys(self._of[socket] for socket, _ in self._poller.poll(0) if socket in self._of)
        for one in ready:
            self._watch(one)
        for one in self._subscriptions.values():
            if one.replay is not None and now >= one.until:
                self._replayed(one)
        left = list(ready)
        while left:
            left = [one for one in left if self._read(one)]
            if self._clock() >= now + self._settings.most:
                return

    def _read(self, one: _Subscription) -> bool:
        """Whether there was a message."""
        found = self._picker.precise(one.pool)
        try:
            frames = (one.socket if one.replay is None else one.replay).recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        if found is None:
            return True
        if one.replay is None:
            self._live(one, found[1], frames)
        elif len(frames) < 3 or frames[-2] == _END:
            self._replayed(one)
        else:  # vLLM 0.32 sends the topic too, older ones do not
            found[1].received(one.key, (b"", *frames[-2:]), self._clock())
            one.until = self._clock() + self._settings.patience
        return True

    def _live(self, one: _Subscription, known: Precise, frames: Sequence[bytes]) -> None:
        """A message that was not asked for."""
        now, sequence = self._clock(), int.from_bytes(frames[1], "big") if len(frames) == 3 else None
        if one.heard is not None and sequence is not None:
            if sequence <= one.heard:
                return  # it was in the replay
            one.heard = None
        if one.replays is not None and sequence is not None and now >= one.asked + self._settings.cooldown:
            start = missing(known, one.key, sequence)
            if start is not None:
                try:
                    self._ask_again(one, start)
                except zmq.ZMQError:  # as in _open
                    self._end(one.replay)
                    one.replay = None
                else:
                    one.kept = frames
                    return
        known.received(one.key, frames, now)

    def _ask_again(self, one: _Subscription, start: int) -> None:
        """Have everything from the sequence number `start` on said again, as far as the server remembers it."""
        one.asked = self._clock()
        one.until = one.asked + self._settings.patience
        one.replay = self._socket(zmq.DEALER, one)
        one.replay.connect(_address(one.endpoint, one.replays or 0))
        one.replay.send_multipart((b"", start.to_bytes(8, "big")), zmq.NOBLOCK)

    def _replayed(self, one: _Subscription) -> None:
        """The replay is over, or given up: go on with what was said meanwhile, but not twice."""
        self._end(one.replay)
        one.replay, kept, one.kept = None, one.kept, None
        if (found := self._picker.precise(one.pool)) is not None:
            feed = found[1].feeds.get(one.key)
            one.heard = None if feed is None else feed.sequence
            if kept is not None:
                self._live(one, found[1], kept)

    def _watch(self, one: _Subscription) -> None:
        """Notice that the connection has ended."""
        while one.monitor.poll(0):
            event = recv_monitor_message(one.monitor, zmq.NOBLOCK)["event"]
            if event == zmq.EVENT_DISCONNECTED and (found := self._picker.precise(one.pool)) is not None:
                found[1].disconnected(one.key)
                one.heard = None
                one.due = self._clock() + self._settings.again  # a new process may publish elsewhere

    # --- sockets ----------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """A socket for everybody of whom it is known where it publishes; the others are asked."""
        now = self._clock()
        for one in self._subscriptions.values():
            if now < one.due:
                continue
            one.due = float("inf")
            if one.source.port:
                rank, replay = one.endpoint.rank, one.source.replay
                self._open(one, one.source.port + rank, replay + rank if replay else None)
            elif self._tasks is not None:
                one.asking = self._tasks.create_task(self._ask(one))

    def _open(self, one: _Subscription, port: int, replay: int | None) -> None:
        if one.port == port:
            return
        self._close(one)
        try:
            self._subscribe(one, port, replay)
            one.port = port
        except zmq.ZMQError:  # the process has no file descriptors left, for now
            self._close(one)
            one.due = self._clock() + self._settings.again

    def _subscribe(self, one: _Subscription, port: int, replay: int | None) -> None:
        one.socket = self._socket(zmq.SUB, one)
        one.socket.setsockopt(zmq.SUBSCRIBE, one.source.topic.encode())
        one.monitor = one.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._poller.register(one.monitor, zmq.POLLIN)
        self._of[one.monitor] = one
        one.socket.connect(_address(one.endpoint, port))
        one.replays = replay
        if replay is not None:
            self._ask_again(one, 0)

    def _socket(self, kind: int, one: _Subscription) -> Any:
        """Looked at from now on."""
        socket = self._context.socket(kind)
        self._poller.register(socket, zmq.POLLIN)
        self._of[socket] = one
        options: Mapping[int, int] = {
            zmq.IPV6: 1,
            zmq.LINGER: 0,
            zmq.RCVHWM: 10_000,
            zmq.MAXMSGSIZE: LARGEST,
            zmq.RECONNECT_IVL: 100,
            zmq.RECONNECT_IVL_MAX: 5_000,
            zmq.HEARTBEAT_IVL: int(self._settings.heartbeat * 1000),
            zmq.HEARTBEAT_TIMEOUT: int(self._settings.heartbeat * 3000),
        }
        for option, value in options.items():
            socket.setsockopt(option, value)
        return socket

    def _close(self, one: _Subscription) -> None:
        if one.socket is not None:
            one.socket.disable_monitor()
        for each in (one.socket, one.monitor, one.replay):
            self._end(each)
        one.socket = one.monitor = one.replay = one.heard = one.kept = None
        one.port = 0

    def _end(self, socket: Any) -> None:
        if socket is not None:
            if self._of.pop(socket, None) is not None:
                self._poller.unregister(socket)
            socket.close(linger=0)

    def _drop(self, one: _Subscription) -> None:
        if one.asking is not None:
            one.asking.cancel()
        self._close(one)

    async def _ask(self, one: _Subscription) -> None:
        """Where does it publish? Only the port is believed: nothing but the endpoint itself is connected to."""
        found = None
        if self._session is not None:
            try:
                url = f"http://{one.endpoint.host_port}{SOURCES}"
                async with self._session.get(url, allow_redirects=False) as response:
                    page = await whole(response, 1 << 16)
                    alone = not one.endpoint.by_header  # behind one port rank 0 speaks for no other
                    found = ports_of(page, one.endpoint.rank, alone=alone) if response.status == 200 else None
            except (aiohttp.ClientError, TimeoutError, OSError):
                pass
        if self._subscriptions.get((one.pool, one.key)) is not one:
            return
        if found is None:
            one.due = self._clock() + min(self._settings.again * 2.0**one.tries, _LONGEST)
            one.tries = min(one.tries + 1, 10)
        else:
            one.tries = 0
            self._open(one, *found)


def _address(endpoint: Endpoint, port: int) -> str:
    return f"tcp://[{endpoint.address}]:{port}" if ":" in endpoint.address else f"tcp://{endpoint.address}:{port}"


def ports_of(page: bytes, rank: int, *, alone: bool = True) -> tuple[int, int | None] | None:
    """(port, port of the replay socket) in the answer to GET /kv_event_sources, of this data-parallel rank or, `alone`, of the
    only one.

    vLLM 0.32 gives a map by rank, later ones a list. None if there is none.
    """
    try:
        found = orjson.loads(page)
        if isinstance(found, list):
            found = {str(one.get("data_parallel_rank")): one for one in found}
        source = found[str(rank)] if str(rank) in found or len(found) != 1 or not alone else next(iter(found.values()))
        port, replay = (_port(source.get(name)) for name in ("endpoint", "replay_endpoint"))
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return None
    return None if port is None else (port, replay)


def _port(address: object) -> int | None:
    text = address.rpartition(":")[2] if isinstance(address, str) else ""
    return int(text) if re.fullmatch("[0-9]{1,5}", text) and 0 < int(text) < 65536 else None


def missing(known: Precise, endpoint: str, sequence: int) -> int | None:
    """The first number that is missing before this one; None where nothing is."""
    feed = known.feeds.get(endpoint)
    expected = 0 if feed is None or feed.sequence is None else feed.sequence + 1
    if sequence in (0, expected):
        return None
    return expected if sequence > expected else 0  # less: a new process, whose beginning was missed
