"""A model server that costs next to nothing: HTTP/1.1 on raw asyncio, with vLLM's answers and the names of its metrics.

`python -m benchmarks._backend [ENDPOINTS]` prints the ports, then serves until it is killed. A stream has one write per token, in the
same spirit as a real server's: nothing joins two tokens unless the reader is late.
"""

import asyncio
import json
import re
import sys
from typing import cast

import uvloop

from benchmarks.flips import HOST

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_tokens":(\d+),"stream":(true|false)')
_USAGE = {"prompt_tokens": 100, "completion_tokens": 64, "total_tokens": 164}
_MESSAGE = {"role": "assistant", "content": "lorem ipsum " * 28}
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()
_EVENT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(**fields: object) -> bytes:
    return _chunk(b"data: %s\n\n" % json.dumps(_EVENT | fields).encode())


_TOKEN = _event(choices=[{"index": 0, "delta": {"content": " token"}, "finish_reason": None}])
_LAST = _event(choices=[], usage=_USAGE) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_PAGE = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="27000"} 1.0
"""


def _whole(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


_PAGE_RESPONSE = _whole(b"text/plain; version=0.0.4", _PAGE)
_ANSWER_RESPONSE = _whole(b"application/json", _ANSWER)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._missing = 0  # bytes of the body that is coming
        self._left = 0  # tokens of the stream that is going out

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._call_soon = asyncio.get_running_loop().call_soon

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._parts.append(data)
            self._missing -= len(data)
        else:
            start = b"".join((*self._parts, data))
            end = start.find(b"\r\n\r\n") + 4
            if end < 4:
                self._parts = [start]
                return
            found = _LENGTH.search(start, 0, end)
            self._parts = [start]
            self._missing = end + (int(found[1]) if found else 0) - len(start)
        if not self._missing:
            parts, self._parts = self._parts, []
            self._answer(parts)

    def _answer(self, parts: list[bytes]) -> None:
        if parts[0].startswith(b"GET /metrics"):
            self._transport.write(_PAGE_RESPONSE)
            return
        asked = _TOKENS.search(b"".join(parts[-2:])[-100:])
        if asked is None:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        elif asked[2] == b"true":
            self._transport.write(_STREAM_HEAD)
            self._left = int(asked[1])
            self._next()
        else:
            self._transport.write(_ANSWER_RESPONSE)

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        if self._left:
            self._left -= 1
            self._transport.write(_TOKEN)
            self._call_soon(self._next)
        else:
            self._transport.write(_LAST)


async def main(endpoints: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Connection, HOST, 0) for _ in range(endpoints)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 4))
