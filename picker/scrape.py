"""Scrapes /metrics of every endpoint: often where requests are in flight or wait, seldom where nothing happens.

One task and one timer for all endpoints; one kept connection each; a GET is one write, and a page is parsed where it
arrives. Slower than vLLM's keep-alive (5 s) would cost a connection a scrape, so the slow interval stays below it.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from picker.load import Load, UnknownPage, parse, parse_ranks
from picker.ranks import ABSENT, count, host_port
from picker.signals import Signals
from xds_server.model.graph import Endpoint

ENGINE_LABEL = "llm-d.ai/engine-type"
# Timers have milliseconds (uvloop) and may fire just before their time: without this the loop would spin until it comes.
_EARLY = 0.002
_LARGEST = 16 << 20  # bytes of a page that nobody sends


@dataclass(frozen=True, slots=True)
class ScrapeSettings:
    """Seconds. In-flight is counted by us and is fresher than any scrape: these may be slow."""

    fast: float = 0.1  # between scrapes of an endpoint in use
    slow: float = 4.5  # of an idle one; with 10 % of jitter still within 5 s
    timeout: float = 1.0
    per_second: float = 200.0  # at most so many fast scrapes in total: about 5 % of a core
    path: str = "/metrics"


class BadPage(Exception):
    """Not an HTTP/1.1 200 response that we can read."""


def page_of(response: bytes, *, closed: bool = False) -> tuple[bytes, bool] | None:
    """(body, whether the connection may be used again) of a complete HTTP/1.1 response; None if more must come.

    `closed`: the server will send no more. Raises BadPage.
    """
    head, blank, body = response.partition(b"\r\n\r\n")
    if not blank:
        if closed:
            raise BadPage("closed before the end of the headers")
        return None
    status, *lines = head.split(b"\r\n")
    if not status.startswith(b"HTTP/1.") or status[8:12] != b" 200":
        raise BadPage(status.decode(errors="replace"))
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    again = fields.get(b"connection", b"").lower() != b"close" and status.startswith(b"HTTP/1.1")
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        page = _unchunked(body)
        if page is None and closed:
            raise BadPage("closed inside a chunk")
        return None if page is None else (page, again)
    length = fields.get(b"content-length")
    if length is None:
        return (body, False) if closed else None
    if not length.isdigit():
        raise BadPage("content-length is no number")
    if len(body) < int(length):
        if closed:
            raise BadPage("closed before the end of the page")
        return None
    return body[: int(length)], again


def _unchunked(body: bytes) -> bytes | None:
    if not body.endswith(b"\r\n\r\n"):  # the last chunk, or trailers, end so: nothing to walk before
        return None
    parts: list[bytes] = []
    at = 0
    while (end := body.find(b"\r\n", at)) >= 0:
        try:
            size = int(body[at:end].partition(b";")[0], 16)
        except ValueError:
            raise BadPage("bad chunk size") from None
        if size == 0:
            return b"".join(parts)
        at = end + 2 + size + 2
        parts.append(body[end + 2 : at - 2])
    return None


@dataclass(slots=True, eq=False)
class _Target:
    """One address. `due`: when to ask, or while `asked`, when to give up."""

    key: str
    endpoints: dict[str, Endpoint]  # by name: the ranks behind it, or itself
    engine: str
    request: bytes
    due: float = 0.0
    asked: float | None = None
    connection: "_Connection | None" = None
    connecting: asyncio.Task[None] | None = None
    gone: bool = False

    def figures(self, page: bytes, now: float) -> Iterator[tuple[str, Load]]:
        """Of each endpoint. Raises UnknownPage."""
        ranks = parse_ranks(page, self.engine, now) if any(one.by_header for one in self.endpoints.values()) else {}
        for name, one in self.endpoints.items():
            yield name, ranks.get(one.rank, ABSENT) if one.by_header else parse(page, self.engine, now)


@dataclass(slots=True, eq=False)
class _Connection(asyncio.Protocol):
    scraper: "Scraper"
    target: _Target
    transport: asyncio.Transport | None = None
    received: list[bytes] = field(default_factory=list)
    size: int = 0
    used: bool = False  # it has carried a page before

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        self.size += len(data)
        self._try(closed=False)

    def connection_lost(self, _: Exception | None) -> None:
        if self.target.connection is self:
            self.target.connection = None
            if self.target.asked is not None:
                if self.used and not self.received:  # closed by keep-alive just when we asked
                    self.scraper.reconnect(self.target)
                else:
                    self._try(closed=True)

    def _try(self, *, closed: bool) -> None:
        if self.target.asked is None or self.size > _LARGEST:
            self.scraper.failed(self.target)
            return
        try:
            found = page_of(b"".join(self.received), closed=closed)
            if found is not None:
                self.received, self.size, self.used = [], 0, True
                self.scraper.page(self.target, found[0])
                if not found[1]:
                    self.target.connection = None
                    self.close()
        except (BadPage, UnknownPage):
            self.scraper.failed(self.target)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class Scraper:
    """Keeps `signals` fresh while `run` runs."""

    def __init__(self, signals: Signals, settings: ScrapeSettings = ScrapeSettings(), seed: int | None = None) -> None:
        self._signals, self._settings = signals, settings
        self._random = random.Random(seed)  # noqa: S311  # jitter
        self._targets: dict[str, _Target] = {}
        self._heap: list[tuple[float, int, _Target]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._contended: set[str] = set()
        signals.on_busy = self.hurry

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """All endpoints of all pools; new ones are scraped at once, spread over a tenth of a second; an address once."""
        wanted: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            wanted.setdefault(endpoint.host_port, {})[str(endpoint)] = endpoint
        for key in self._targets.keys() - wanted.keys():
            self._drop(self._targets.pop(key))
        for key in wanted.keys() - self._targets.keys():
            request = f"GET {self._settings.path} HTTP/1.1\r\nHost: {key}\r\nAccept: text/plain\r\n\r\n".encode()
            target = self._targets[key] = _Target(key, {}, "", request)
            self._at(target, self._now() + self._random.random() * 0.1)
        for key, found in wanted.items():
            labels = dict(next(iter(found.values())).labels)
            self._targets[key].endpoints, self._targets[key].engine = found, labels.get(ENGINE_LABEL, "")

    def hurry(self, endpoint: str) -> None:
        """An idle endpoint got a request: do not wait for its slow turn."""
        key = host_port(endpoint)
        target = self._targets.get(key)
        self._contended.add(key)
        if target is not None and target.asked is None:
            soon = self._now() + self._interval()
            if soon < target.due:
                self._at(target, soon)

    async def run(self) -> None:
        """Scrape until cancelled."""
        loop = self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                while True:
                    due = self._turn(loop.time() + _EARLY)
                    self._wake.clear()  # what _turn itself moved is in `due`
                    timer = loop.call_at(due, self._wake.set) if due is not None else None
                    await self._wake.wait()
                    if timer is not None:
                        timer.cancel()
        finally:
            self._tasks = None
            for target in self._targets.values():
                self._drop(target)
            self._targets.clear()

    def page(self, target: _Target, page: bytes) -> None:
        """A page came: raises UnknownPage when it is not a model server's."""
        asked, now = target.asked, self._now()
        figures = list(target.figures(page, now))
        target.asked = None
        if target.key in target.endpoints:
            self._signals.noticed(target.key, count(page))
        for name, load in figures:
            self._signals.scraped(name, load, now if asked is None else asked)
        if any(map(self._signals.contended, target.endpoints)):
            self._contended.add(target.key)
            pause = self._interval()
        else:
            self._contended.discard(target.key)
            pause = self._settings.slow
        self._at(target, now + pause * self._random.uniform(0.9, 1.1))

    def failed(self, target: _Target) -> None:
        """No page: the next try comes later each time, up to the slow interval."""
        self._disconnect(target)
        target.asked = None
        if not target.gone:
            errors = max(map(self._signals.failed, target.endpoints))
            pause = min(self._settings.slow, self._settings.fast * 2.0 ** min(errors, 10))
            self._at(target, self._now() + pause * self._random.uniform(0.9, 1.1))

    def reconnect(self, target: _Target) -> None:
        """Open a connection and ask on it."""
        if self._tasks is not None and not target.gone:
            target.connecting = self._tasks.create_task(self._connect(target))

    def _now(self) -> float:
        return self._loop.time() if self._loop is not None else 0.0  # 0: due as soon as run() starts

    def _interval(self) -> float:
        """Of an endpoint in use: the total rate is bounded, or 100 busy endpoints would take a core."""
        return max(self._settings.fast, len(self._contended) / self._settings.per_second)

    def _at(self, target: _Target, due: float) -> None:
        target.due = due
        heapq.heappush(self._heap, (due, next(self._order), target))
        if self._heap[0][2] is target:
            self._wake.set()

    def _turn(self, now: float) -> float | None:
        """Do what is due until `now`; when the next is."""
        while self._heap:
            due, _, target = self._heap[0]
            if due != target.due or target.gone:
                heapq.heappop(self._heap)  # moved since, or gone
            elif due > now:
                return due
            else:
                heapq.heappop(self._heap)
                if target.asked is not None:
                    self.failed(target)  # timed out
                else:
                    self._ask(target, now - _EARLY)
        return None

    def _ask(self, target: _Target, now: float) -> None:
        target.asked = now
        for name in target.endpoints:
            self._signals.asked(name)
        self._at(target, now + self._settings.timeout)
        connection = target.connection
        if connection is None or connection.transport is None or connection.transport.is_closing():
            self.reconnect(target)
        else:
            connection.transport.write(target.request)

    async def _connect(self, target: _Target) -> None:
        loop, endpoint = asyncio.get_running_loop(), next(iter(target.endpoints.values()))
        try:
            made, connection = await loop.create_connection(
                lambda: _Connection(self, target), endpoint.address, endpoint.port
            )
        except OSError:
            target.connecting = None
            self.failed(target)
            return
        target.connecting = None
        target.connection = connection
        made.write(target.request)

    def _disconnect(self, target: _Target) -> None:
        connection, target.connection = target.connection, None
        if connection is not None:
            connection.close()
        if target.connecting is not None:
            target.connecting.cancel()
            target.connecting = None

    def _drop(self, target: _Target) -> None:
        target.gone = True
        self._contended.discard(target.key)
        self._disconnect(target)
