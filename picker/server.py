"""The ext_proc server on grpc.aio: one stream is one session; and grpc.health.v1.

A thin shell: messages are bytes on both sides, and everything that is decided is decided in session.py. Requests that wait cost
nothing: `wake` gives them their turn when something has changed, and one timer ends the wait of the next whose time is over.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import grpc
import grpc.aio

from picker.ask import Answer
from picker.facts import Decision, Observe
from picker.inflight import LogEntry
from picker.request import MAX_BODY
from picker.session import Decider, ExtProcSession
from picker.trace import HEADER as TRACEPARENT, UNTRACED, Tracing
from picker.wire import decode, encode
from xds_server.latest import Latest
from xds_server.model.names import INSERT_METADATA, POOL_METADATA, USAGE_METADATA

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
MAX_MESSAGE = 64 << 20  # bytes: a buffered body comes in one message

# grpc.health.v1.HealthCheckResponse{status: SERVING} and {status: NOT_SERVING}: two bytes need no generated code.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_HEALTH_NAMES = frozenset((b"", b"liveness", b"readiness", SERVICE.encode(), b"inference-extension"))
_LATE = 0.001  # seconds: timers have milliseconds and may fire just before their time


class Queueing(Decider, Protocol):
    """picker.Picker, as the server sees it."""

    @property
    def waits(self) -> bool: ...
    @property
    def answers(self) -> bool: ...
    def poll(self, now: float) -> list[tuple[str, Answer]]: ...
    def cancel(self, id_: str, now: float) -> bool: ...
    def next_deadline(self) -> float | None: ...
    def close(self, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: "127.0.0.1:9002", "[::]:0" or "unix:/path"; with credentials, over TLS."""

    target: str
    credentials: Any = None  # grpc.ServerCredentials


def ids() -> Callable[[], str]:
    """Ids that are unique in the fleet and that nobody can guess: whoever writes an access log says by them which request ended."""
    return lambda: secrets.token_hex(12)


class ExtProcServer:
    """Serves sessions of `decider`; tells `observe` each Decision, and the Outcome of each request refused here."""

    def __init__(
        self,
        decider: Queueing,
        observe: Observe,
        serving: Latest[bool],
        *,
        ended: Callable[[LogEntry], None] = lambda _: None,
        max_body: int = MAX_BODY,
        next_id: Callable[[], str] | None = None,
        admit: Callable[[Any, str], Awaitable[None]] | None = None,
        tracing: Tracing = UNTRACED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`admit` is asked with the context of each stream and the pool that it names, and aborts those that may not ask for it."""
        self._clock = clock
        self._waiting: dict[str, asyncio.Future[Answer]] = {}
        self._woken = self._ending = False
        self._timer: asyncio.TimerHandle | None = None
        self._admit = admit
        self._decider = decider
        self._observe = observe
        self._ended = ended  # told of requests that no access log will tell of
        self._serving = serving  # what health checks are told; nothing set means not serving
        self._max_body = max_body
        self._next_id = next_id or ids()
        self._tracing = tracing

    @asynccontextmanager
    async def listen(
        self, addresses: Iterable[Address], beside: Iterable[grpc.GenericRpcHandler] = (), grace: float = 5.0
    ) -> AsyncIterator[list[int]]:
        """Serve while the context lasts; gives the ports in the order of `addresses` (1 for a unix socket).

        `beside`: other services for the same connections, such as the access log service.
        """
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_send_message_length", MAX_MESSAGE),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a second server behind it
                ("grpc.http2.max_ping_strikes", 0),  # Envoy's keepalive must never end the connection
            )
        )
        server.add_generic_rpc_handlers((self._handlers(), *beside))
        ports = [
            server.add_insecure_port(address.target)
            if address.credentials is None
            else server.add_secure_port(address.target, address.credentials)
            for address in addresses
        ]
        await server.start()
        try:
            yield ports
        finally:
            self._ending = True
            self._dismiss()
            await server.stop(grace)
            if self._timer is not None:
                self._timer.cancel()

    def _handlers(self) -> Any:
        methods = {
            f"/{SERVICE}/Process": grpc.stream_stream_rpc_method_handler(self._process),
            "/grpc.health.v1.Health/Check": grpc.unary_unary_rpc_method_handler(self._check),
            "/grpc.health.v1.Health/Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }

        class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, call: Any) -> Any:
                return methods.get(call.method)

        return Handlers()

    async def _process(self, _requests: AsyncIterator[bytes], context: Any) -> None:
        pool, ask_usage, inserts, tracing = "", False, False, self._tracing
        for key, value in context.invocation_metadata() or ():
            if key == POOL_METADATA:
                pool = pool or str(value)
            elif key == USAGE_METADATA:
                ask_usage = True
            elif key == INSERT_METADATA:
                inserts = True
            elif key == TRACEPARENT:
                tracing = tracing.beneath(str(value))
        if self._admit is not None:
            await self._admit(context, pool)
        session = ExtProcSession(
            self._decider, pool, self._next_id(), self._max_body, tracing, ask_usage=ask_usage, inserts=inserts
        )
        reading = answer = None  # while the request waits: a read that was begun, and what it will be told
        try:
            # `async for` would cost an async generator
            while (data := await (reading or context.read())) is not grpc.aio.EOF:
                reading = None
                now = self._clock()
                event = decode(data)
                if event is None:
                    continue
                undecided = session.fact is None
                replies = session.receive(event, now, time.time())
                answer = self._enqueue(session)
                if undecided and session.fact is not None:
                    self._tell(session, self._clock() - now)
                for reply in replies:
                    await context.write(encode(reply))
                if answer is not None:
                    reading = asyncio.ensure_future(context.read())
                    reading = await _either(answer, reading, context)
                    if not answer.done():
                        return  # the client has left
                    replies = session.resume(answer.result())
                    self._tell(session, self._clock() - now)
                    for reply in replies:
                        await context.write(encode(reply))
                if session.closed:
                    return  # Envoy goes on alone: no response byte comes this way
        finally:
            if reading is not None:
                reading.cancel()
            self._leave(session, answer)

    def _enqueue(self, session: ExtProcSession) -> "asyncio.Future[Answer] | None":
        """What a request that must wait will be told; None for all others."""
        if self._decider.answers:  # this request has let others go
            self.wake()
        if session.waiting is None:
            return None
        found = self._waiting[session.waiting] = asyncio.get_running_loop().create_future()
        if self._ending:  # its headers came before: it is still served, but nobody waits any more
            self._dismiss()
        self._set_timer()
        return found

    def _dismiss(self) -> None:
        """Whoever waits is answered."""
        self._decider.close(self._clock())
        self._poll()

    def wake(self) -> None:
        """Something has changed that may let a request go: one ended, a scrape came, endpoints came. Cheap while nobody waits."""
        if not self._woken and self._decider.waits:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._poll)  # once for all that changes in this turn of the loop

    def _poll(self) -> None:
        self._woken = False
        for id_, answer in self._decider.poll(self._clock()):
            waiting = self._waiting.pop(id_, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._decider.next_deadline()
        if due is not None:
            seconds = max(due - self._clock(), 0.0) + _LATE
            self._timer = asyncio.get_running_loop().call_later(seconds, self._poll)

    def _leave(self, session: ExtProcSession, answer: "asyncio.Future[Answer] | None") -> None:
        """The stream is over, whoever ended it."""
        if session.waiting is not None and answer is not None:
            if not answer.done() and not self._decider.cancel(session.waiting, self._clock()):
                self._poll()  # its answer is on its way
            self._waiting.pop(session.waiting, None)
            if answer.done() and not answer.cancelled():
                session.resume(answer.result())  # decided, but nobody will hear of it
                self._tell(session, 0.0)
            self.wake()  # others may go now
        if session.fact is None:
            session.disconnect(time.time())
            self._tell(session, 0.0)
        elif (entry := session.ended(self._clock())) is not None:
            self._ended(entry)

    def _tell(self, session: ExtProcSession, seconds: float) -> None:
        fact = session.fact
        if isinstance(fact, Decision):
            fact = replace(fact, seconds=max(seconds, fact.seconds))
        if fact is not None:
            self._observe(fact)

    async def _check(self, request: bytes, context: Any) -> bytes:
        if _service(request) not in _HEALTH_NAMES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _SERVING if self._serving.value else _NOT_SERVING

    async def _watch(self, request: bytes, context: Any) -> None:
        if _service(request) not in _HEALTH_NAMES:
            await context.write(b"\x08\x03")  # SERVICE_UNKNOWN, and the stream stays open: grpc.health.v1 wants it so
            await asyncio.Event().wait()
        if self._serving.value is None:
            await context.write(_NOT_SERVING)
        async for serving in self._serving.values():
            await context.write(_SERVING if serving else _NOT_SERVING)


async def _either(answer: "asyncio.Future[Answer]", reading: "asyncio.Future[Any]", context: Any) -> Any:
    """Until the answer is there or the stream is over; gives the read that has not been looked at yet."""
    while True:
        await asyncio.wait((answer, reading), return_when=asyncio.FIRST_COMPLETED)
        if answer.done() or reading.result() is grpc.aio.EOF:
            return reading
        reading = asyncio.ensure_future(context.read())  # a message that has no place here


def _service(request: bytes) -> bytes:
    """The `service` of a HealthCheckRequest: field 1, a string shorter than 128 bytes."""
    return request[2:] if request[:1] == b"\n" else b""
