"""A client of HTTP/2 without TLS, for what aiohttp cannot send: a body with trailers, or without its length."""

import asyncio
from collections.abc import Sequence

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

Headers = Sequence[tuple[str, str]]


async def post(port: int, path: str, body: bytes, headers: Headers = (), trailers: Headers = ()) -> tuple[int, bytes]:
    """Status and body of the answer to one JSON request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = H2Connection(H2Configuration(header_encoding="utf-8"))
    client.initiate_connection()
    pseudo = ((":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", path))
    client.send_headers(1, [*pseudo, ("content-type", "application/json"), *headers])
    status, answer, ended = 0, b"", False
    try:
        while not ended:
            while body and (room := min(client.local_flow_control_window(1), client.max_outbound_frame_size)):
                piece, body = body[:room], body[room:]
                client.send_data(1, piece, end_stream=not body and not trailers)
                if not body and trailers:
                    client.send_headers(1, trailers, end_stream=True)
            writer.write(client.data_to_send())
            data = await reader.read(65536)
            if not data:
                raise ConnectionError("the connection was closed before the answer's end")
            for event in client.receive_data(data):
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers or ())[":status"])
                elif isinstance(event, DataReceived):
                    answer += event.data or b""
                    client.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                elif isinstance(event, StreamReset):
                    raise ConnectionError(f"the stream was reset: {event.error_code}")
                ended = ended or isinstance(event, StreamEnded)
    finally:
        writer.close()
    return status, answer
