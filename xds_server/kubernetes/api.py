"""A thin client of the Kubernetes API: JSON in and out by path, one typed error, watches as decoded events.

Source: Kubernetes API concepts. Bodies go through orjson; requests are bounded in number, not in rate: the server has
priority and fairness, and says 429 with Retry-After where it wants us slower.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import aiohttp
import orjson

from xds_server.kubernetes.access import Access
from xds_server.kubernetes.lines import Lines

Json = dict[str, Any]
Parameters = Mapping[str, str]
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"  # JSON is YAML
_UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


class ApiError(Exception):
    """The API server refused (`code` is HTTP's), or could not be reached (`code` 0). `retry_after` is in seconds, or 0."""

    def __init__(self, code: int, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after

    @classmethod
    def of(cls, status: Json, code: int = 0, retry_after: str = "") -> "ApiError":
        """From a metav1.Status, as an answer's body or as the object of a watch's ERROR event."""
        details = status.get("details") or {}
        wait = float(retry_after) if retry_after.isdigit() else float(details.get("retryAfterSeconds") or 0)
        return cls(int(status.get("code") or code), status.get("reason", ""), status.get("message", ""), wait)


class Api:
    """Raises ApiError for every answer but 2xx, and where there is no answer."""

    def __init__(self, access: Access, session: aiohttp.ClientSession, *, concurrency: int, timeout: float) -> None:
        self._access, self._session, self._timeout = access, session, timeout
        self._slots = asyncio.Semaphore(concurrency)

    async def get(self, path: str, parameters: Parameters = MappingProxyType({})) -> Json:
        """An object, or a page of a list."""
        return await self._send("GET", path, parameters)

    async def create(self, path: str, body: Json) -> Json:
        return await self._send("POST", path, {}, body)

    async def apply(self, path: str, body: Json, manager: str, *, force: bool = True) -> Json:
        """Server-side apply."""
        parameters = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._send("PATCH", path, parameters, body, APPLY)

    async def patch(self, path: str, body: Json, manager: str = "") -> Json:
        """A JSON merge patch: lists are replaced as a whole."""
        return await self._send("PATCH", path, {"fieldManager": manager} if manager else {}, body, MERGE)

    async def delete(self, path: str) -> Json:
        return await self._send("DELETE", path, {})

    async def watch(self, path: str, parameters: Parameters, silence: float) -> AsyncGenerator[Json, None]:
        """Events until the server ends the watch. ApiError 0 after `silence` seconds without a byte: a hung connection.

        Watches take no slot: they last. A peer that is gone without a word is found sooner, by TCP keepalive.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout, sock_read=silence)
        lines = Lines()
        try:
            async with self._request("GET", path, {**parameters, "watch": "1"}, timeout=timeout) as answer:
                async for chunk in answer.content.iter_any():
                    for line in lines.feed(chunk):
                        yield orjson.loads(line)
        except _UNREACHABLE as error:
            raise _unreachable(error, path) from error
        except orjson.JSONDecodeError as error:
            raise ApiError(0, "BadAnswer", f"{path}: an event is not JSON ({error})") from error

    async def _send(
        self,
        method: str,
        path: str,
        parameters: Parameters,
        body: Json | None = None,
        content: str = "application/json",
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        data = None if body is None else orjson.dumps(body)
        try:
            async with (
                self._slots,
                self._request(method, path, parameters, timeout=timeout, data=data, content=content) as answer,
            ):
                found: Json = orjson.loads(await answer.read())
                return found
        except _UNREACHABLE as error:
            raise _unreachable(error, path) from error
        except orjson.JSONDecodeError as error:
            raise ApiError(
                0, "BadAnswer", f"{path}: the answer is not JSON ({error}); is this an API server?"
            ) from error

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, parameters: Parameters, *, timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's
        data: bytes | None = None, content: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:  # fmt: skip
        access = self._access
        for refused in (False, True):
            headers = {"Accept": "application/json", "Content-Type": content}
            if token := await _token(access, refused):
                headers["Authorization"] = token
            async with self._session.request(
                method, access.host + path, params=parameters, data=data, headers=headers, timeout=timeout,
                proxy=access.proxy, server_hostname=access.server_name, allow_redirects=False,
            ) as answer:  # fmt: skip
                if answer.status == 401 and token and not refused:
                    continue  # a token that has just expired: once more with a new one
                if not 200 <= answer.status < 300:
                    raise await _refusal(answer, path)
                yield answer
                return


@asynccontextmanager
async def connect(access: Access, *, concurrency: int = 32, timeout: float = 30.0) -> AsyncIterator[Api]:  # noqa: ASYNC109 - of each request, not of this call
    """An Api with its connections. `timeout` in seconds: for connecting, and for all of a request that is no watch."""
    connector = aiohttp.TCPConnector(
        limit=0, ssl=access.tls or True, socket_factory=_socket, keepalive_timeout=60, ttl_dns_cache=10
    )
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(access, session, concurrency=concurrency, timeout=timeout)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """With keepalive: a peer that vanished is noticed in about 30 s, as by the HTTP/2 pings of client-go."""
    family, kind, protocol, _, _ = address
    found = socket.socket(family=family, type=kind, proto=protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return found


async def _token(access: Access, refused: bool) -> str:
    """Raises ApiError 0 for whatever an exec plugin, or a file of it, has to say: it may be well in a moment."""
    try:
        return await access.token(refused)
    except Exception as error:
        raise ApiError(0, "NoToken", f"no token for the API server: {error or type(error).__name__}") from error


async def _refusal(answer: aiohttp.ClientResponse, path: str) -> ApiError:
    body = await answer.read()
    retry = answer.headers.get("Retry-After", "")
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        shown = body[:200].decode(errors="replace").strip()
        status = {"reason": answer.reason or "", "message": f"{path}: {shown}"}
    return ApiError.of(status | {"code": answer.status}, answer.status, retry)


def _unreachable(error: BaseException, path: str) -> ApiError:
    why = str(error) or type(error).__name__
    return ApiError(0, "Unreachable", f"{path}: {why}")
