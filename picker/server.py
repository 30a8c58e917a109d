"""The ext_proc server on grpc.aio: one stream is one session; and grpc.health.v1.

A thin shell: messages are bytes on both sides, and everything that is decided is decided in session.py.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import grpc
import grpc.aio

from picker.facts import Decision, Observe
from picker.inflight import LogEntry
from picker.request import MAX_BODY
from picker.session import Decider, ExtProcSession
from picker.wire import decode, encode
from xds_server.latest import Latest
from xds_server.model.names import POOL_METADATA

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
MAX_MESSAGE = 64 << 20  # bytes: a buffered body comes in one message

# grpc.health.v1.HealthCheckResponse{status: SERVING} and {status: NOT_SERVING}: two bytes need no generated code.
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
_HEALTH_NAMES = frozenset((b"", b"liveness", b"readiness", SERVICE.encode(), b"inference-extension"))


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: "127.0.0.1:9002", "[::]:0" or "unix:/path"; with credentials, over TLS."""

    target: str
    credentials: Any = None  # grpc.ServerCredentials


def ids() -> Callable[[], str]:
    """Ids that are unique in the fleet: random once per process, then a counter."""
    prefix, numbers = secrets.token_hex(8), count()
    return lambda: f"{prefix}-{next(numbers):x}"


class ExtProcServer:
    """Serves sessions of `decider`; tells `observe` each Decision, and the Outcome of each request refused here."""

    def __init__(
        self,
        decider: Decider,
        observe: Observe,
        serving: Latest[bool],
        *,
        ended: Callable[[LogEntry], None] = lambda _: None,
        max_body: int = MAX_BODY,
        next_id: Callable[[], str] | None = None,
        admit: Callable[[Any], Awaitable[object]] | None = None,
    ) -> None:
        """`admit` is asked with the context of each stream, and aborts those that may not come in."""
        self._admit = admit
        self._decider = decider
        self._observe = observe
        self._ended = ended  # told of requests that no access log will tell of
        self._serving = serving  # what health checks are told; nothing set means not serving
        self._max_body = max_body
        self._next_id = next_id or ids()

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
            await server.stop(grace)

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
        if self._admit is not None:
            await self._admit(context)
        pool = next((str(value) for key, value in context.invocation_metadata() or () if key == POOL_METADATA), "")
        session = ExtProcSession(self._decider, pool, self._next_id(), self._max_body)
        try:
            while (data := await context.read()) is not grpc.aio.EOF:  # `async for` costs an async generator
                now = time.monotonic()
                event = decode(data)
                if event is None:
                    continue
                undecided = session.fact is None
                replies = [encode(reply) for reply in session.receive(event, now, time.time())]
                if undecided and session.fact is not None:
                    self._tell(session, time.monotonic() - now)
                for reply in replies:
                    await context.write(reply)
                if session.closed:
                    return  # Envoy goes on alone: no response byte comes this way
        finally:
            if session.fact is None:
                session.disconnect(time.time())
                self._tell(session, 0.0)
            elif (entry := session.ended(time.monotonic())) is not None:
                self._ended(entry)

    def _tell(self, session: ExtProcSession, seconds: float) -> None:
        fact = session.fact
        if isinstance(fact, Decision):
            fact = replace(fact, seconds=fact.seconds + seconds)
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


def _service(request: bytes) -> bytes:
    """The `service` of a HealthCheckRequest: field 1, a string shorter than 128 bytes."""
    return request[2:] if request[:1] == b"\n" else b""
