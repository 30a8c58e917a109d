"""Protobuf's wire format, as far as encoded messages are put together from their parts: nothing is encoded twice.

Source: protobuf.dev/programming-guides/encoding, length-delimited fields.
"""


def head(field: int, size: int) -> bytes:
    """What comes before the `size` bytes of a field that is a string, bytes or a message."""
    return _varint(field << 3 | 2) + _varint(size)


def embed(field: int, body: bytes) -> bytes:
    """`body` as such a field: how an encoded message becomes part of another."""
    return head(field, len(body)) + body


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
