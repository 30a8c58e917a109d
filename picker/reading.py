"""Answers of model servers, as far as they are worth reading."""

import aiohttp


async def whole(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body; nothing where it has more than `most` bytes."""
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) > most:
            return b""
    return bytes(found)
