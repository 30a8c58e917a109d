"""Load: requests on kept connections for a while, each as soon as the one before it was answered, and what other processes spend on them."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

_REQUEST_S = 20.0  # the longest that one request may take
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNK = re.compile(rb"\r\n[0-9a-f]+\r\n")
_PREFIXES = 16


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all threads that it ever had, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


class LoadFailed(Exception):
    """A request did not get the answer that it should."""


def bodies(size: int, tokens: int, model: str, seed: int = 0) -> Callable[[], bytes]:
    """Chat requests of `size` bytes: half of the text is one of 16 beginnings, the rest is new each time. `tokens` 0: no stream."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(5000)]
    words += ["\\n", '\\"'] * 100
    tail = f'"}}],"model":"{model}","max_tokens":{tokens or 64},"stream":{"true" if tokens else "false"}}}'.encode()
    room = size - len(tail) - len(b'{"messages":[{"role":"system","content":""},{"role":"user","content":"')
    half = room // 2

    def text(length: int) -> bytes:
        return " ".join(chance.choices(words, k=length // 4)).encode()[:length].rstrip(b"\\").ljust(length)

    prefixes = [text(half) for _ in range(_PREFIXES)]
    new = text(4 * (room - half) + 4096).replace(b"\\", b" ").replace(b'"', b" ")
    escaped = b"\\n" * max(1, (room - half) // 200)

    def body() -> bytes:
        at = chance.randrange(len(new) - (room - half))
        fresh = b"%016x%s" % (chance.getrandbits(64), escaped)
        end = at + room - half - len(fresh)
        return b'{"messages":[{"role":"system","content":"%s"},{"role":"user","content":"%s%s%s' % (
            prefixes[chance.randrange(_PREFIXES)], fresh, new[at:end], tail,
        )  # fmt: skip

    return body


@dataclass
class Measured:
    """What happened between two looks at the clocks. `cpu`: seconds of each process."""

    cpu: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def us(self, name: str) -> float:
        return round(self.cpu[name] / len(self.latencies) * 1e6, 1)

    @property
    def per_second(self) -> float:
        return round(len(self.latencies) / self.seconds, 1)

    @property
    def p50_ms(self) -> float:
        return round(sorted(self.latencies)[len(self.latencies) // 2] * 1000, 2)


class _Client(asyncio.Protocol):
    """One connection; calls `done` with each whole response."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._parts: list[bytes] = []
        self._missing: int | None = None  # bytes of a body whose length is known
        self._began = 0.0
        self._asleep: asyncio.TimerHandle | None = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.send()

    def send(self) -> None:
        body = self._load.body()
        self.busy = True
        self._began = time.perf_counter()
        self._transport.writelines([self._load.head % len(body), body])

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            self._load.fail(f"a connection was closed: {error}; got {b''.join(self._parts)[:300]!r}")

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if self._missing is None and len(self._parts) == 1:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._parts.clear()
                self._load.fail(f"a response in which the headers come in pieces: {data[:300]!r}")
                return
            found = _LENGTH.search(data, 0, end)
            self._missing = end + int(found[1]) if found else None
        if self._missing is not None:
            self._missing -= len(data)
            if not self._missing:
                self._answered()
        elif data.endswith(b"0\r\n\r\n"):
            self._answered()

    def _answered(self) -> None:
        response, self._parts, self._missing = b"".join(self._parts), [], None
        self.busy = False
        tokens = _CHUNK.sub(b"", response).count(b'" token"')  # a chunk may end within a token
        if not response.startswith(b"HTTP/1.1 200") or tokens != self._load.tokens:
            self._load.fail(f"wrong answer: {response[:300]!r} ({tokens} tokens of {self._load.tokens})")
            return
        self._load.latencies.append(time.perf_counter() - self._began)
        self._load.total += 1
        if not self._load.stopping:
            self.send()

    def close(self) -> None:
        self._transport.close()


class _Load:
    def __init__(self, host: str, port: int, tokens: int, body: Callable[[], bytes]) -> None:
        self.head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\n"
            "accept: application/json\r\nuser-agent: OpenAI/Python 2.0.0\r\nauthorization: Bearer 0123456789\r\n"
            "content-length: %d\r\n\r\n"
        ).encode()
        self.tokens = tokens
        self.body = body
        self.stopping = False
        self.latencies: list[float] = []
        self.total = 0
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, why: str) -> None:
        if not self.failed.done():
            self.failed.set_exception(LoadFailed(why))


async def run(
    where: tuple[str, int],
    body: Callable[[], bytes],
    *,
    tokens: int,
    connections: int,
    warm_up: float,
    seconds: float,
    pids: Mapping[str, int],
) -> tuple[Measured, int]:
    """Load for `warm_up + seconds`; what the latter brought, and the number of requests in all. Raises LoadFailed, TimeoutError."""
    loop = asyncio.get_running_loop()
    load = _Load(*where, tokens, body)
    clients = [(await loop.create_connection(lambda: _Client(load), *where))[1] for _ in range(connections)]
    await asyncio.wait([load.failed], timeout=warm_up)
    load.latencies = []
    began, before = time.perf_counter(), {name: cpu_seconds(pid) for name, pid in pids.items()}
    await asyncio.wait([load.failed], timeout=seconds)
    cpu = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    measured = Measured(cpu, time.perf_counter() - began, load.latencies)
    load.latencies = []
    load.stopping = True
    async with asyncio.timeout(_REQUEST_S):
        while any(client.busy for client in clients) and not load.failed.done():
            await asyncio.sleep(0.01)
    if load.failed.done():
        await load.failed
    load.failed.cancel()
    for client in clients:
        client.close()
    if not measured.latencies:
        raise LoadFailed("no request was answered in time")
    return measured, load.total
