"""Protobuf's wire format, as far as encoded messages are put together from their parts, or taken apart: nothing is copied twice.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator

_VARINT, _LENGTH = 0, 2


def head(field: int, size: int) -> bytes:
    """What comes before the `size` bytes of a field that is a string, bytes or a message."""
    return _varint(field << 3 | _LENGTH) + _varint(size)


def embed(field: int, body: bytes) -> bytes:
    """`body` as such a field: how an encoded message becomes part of another."""
    return head(field, len(body)) + body


def fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, slice | int]]:
    """Each field of the message in `data[start:end]`: its number, and where its bytes are, or its value.

    Only strings, bytes, messages, integers, booleans and enumerations can be read. Raises ValueError.
    """
    while start < end:
        tag, start = _number(data, start, end)
        value, start = _number(data, start, end)
        kind = tag & 7
        if kind == _VARINT:
            yield tag >> 3, value
        elif kind == _LENGTH and start + value <= end:
            yield tag >> 3, slice(start, start + value)
            start += value
        else:
            raise ValueError(f"field {tag >> 3} cannot be read")


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A variable-length integer, and where what follows begins."""
    found = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        found |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return found, at
    raise ValueError("a number has no end")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
