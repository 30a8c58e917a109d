"""Members of a body, changed in place: the model that the server is asked for, and whether its stream tells the usage.

Every other byte stays as the client wrote it: numbers keep their digits, keys their order. A body of 400 KB is copied once, and
searched only where a value has to be found. Why usage is asked for: docs/decisions/0018-usage.md.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import orjson

from picker.outline import outline
from picker.request import Usage

# A bracket, or a string with the colon that makes it a key; what is between them is skipped at C speed, and so is what is in a
# string: by looking for its end, a quotation mark after no backslash or after an even number of them. `_TOKEN` counts up to five;
# where more come before one, `_EXACT_TOKEN` looks at each. Possessive (`*+`): a long string costs no memory for a way back.
_TOKEN = re.compile(
    rb'["{}\[\]](?:(?<=")([^"]*+(?:(?:(?<=[^\\]\\)|(?<=[^\\]\\{3})|(?<=[^\\]\\{5}))"[^"]*+)*+)"([ \t\r\n]*:)?)?'
)
_EXACT_TOKEN = re.compile(rb'["{}\[\]](?:(?<=")([^"\\]*+(?:\\.[^"\\]*+)*+)"([ \t\r\n]*:)?)?', re.DOTALL)
_DOUBTFUL = b"\\" * 6 + b'"'
_VALUE = re.compile(rb'[ \t\r\n]*("[^"\\]*+(?:\\.[^"\\]*+)*+"|[^ \t\r\n,}]++)', re.DOTALL)  # a string, a number, a word
_START = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*(\})?")

_ASK = b'{"include_usage":true}'
# Bytes. What a smaller body costs on its way back is less than what it costs the gateway to write into it.
LARGE = 65536


class Changed(NamedTuple):
    body: bytes | None = None  # in place of the one that came
    insert: tuple[int, bytes] | None = None  # or all that is to be written into it, and the bytes that stay before that


def changed(body: bytes, model: str, usage: Usage, *, inserts: bool) -> Changed:
    """What is to become of `body`: `model` "" and `usage` "told" leave it. `inserts`: the gateway can write into it itself."""
    if inserts and usage == "silent" and not model and len(body) >= LARGE:
        return Changed(insert=_member(body, "stream_options", _ASK))
    new = with_model(body, model) if model else body
    new = new if usage == "told" else with_usage(new, usage)
    return Changed() if new is body else Changed(new)


def with_model(body: bytes, model: str) -> bytes:
    """`body`, a valid JSON object, with another value of its top-level "model". A body that names no model gets one."""
    name = orjson.dumps(model)
    return _changed(body, "model", lambda _: name)


def with_usage(body: bytes, usage: Usage) -> bytes:
    """`body`, of a request with this `usage`, so that its stream tells it; the other members of stream_options stay."""
    if usage == "silent":
        return _inserted(body, "stream_options", _ASK)
    return _changed(body, "stream_options", _asking)


def _asking(options: bytes) -> bytes:
    return _changed(options, "include_usage", lambda _: b"true") if options.startswith(b"{") else _ASK


def _changed(text: bytes, key: str, change: Callable[[bytes], bytes]) -> bytes:
    """The object `text` with another value of `key`, or with one (of nothing). A key that occurs twice is changed twice: parsers
    differ in which one they take.
    """
    rest = memoryview(text)
    out: list[bytes | memoryview] = []
    end = 0
    read = outline(text)  # no long string is searched
    for start, stop in ((read.at(start), read.at(stop)) for start, stop in _values(read.text, key)):
        out += (rest[end:start], change(text[start:stop]))
        end = stop
    return b"".join((*out, rest[end:])) if out else _inserted(text, key, change(b""))


def _inserted(text: bytes, key: str, value: bytes) -> bytes:
    """The object `text` with one more member, before the others."""
    start, member = _member(text, key, value)
    rest = memoryview(text)  # joined, it is copied once
    return b"".join((rest[:start], member, rest[start:]))


def _member(text: bytes, key: str, value: bytes) -> tuple[int, bytes]:
    """Where the first member of the object `text` begins, and one to write there."""
    found = _START.match(text)
    assert found is not None  # noqa: S101 -- it was read as an object
    return text.index(b"{") + 1, b'"%b":%b%b' % (key.encode(), value, b"" if found[1] else b",")


def _values(text: bytes, key: str) -> Iterator[tuple[int, int]]:
    """Where the values of a key of the object `text` are; not those of objects within it."""
    depth = 0
    opened = -1  # where its value began, which is an object or a list
    for token in (_EXACT_TOKEN if _DOUBTFUL in text else _TOKEN).finditer(text):
        first = text[token.start()]
        if first == 0x22:  # a quotation mark
            if depth == 1 and token[2] is not None and _is(token[1], key):
                value = _VALUE.match(text, token.end())
                assert value is not None  # noqa: S101 -- valid JSON has one
                if value[1][:1] in (b"{", b"["):
                    opened = value.start(1)
                else:
                    yield value.span(1)
        elif first in b"{[":
            depth += 1
        else:
            depth -= 1
            if depth == 1 and opened >= 0:
                yield opened, token.end()
                opened = -1


def _is(raw: bytes, key: str) -> bool:
    return raw == key.encode() or (b"\\" in raw and orjson.loads(b'"%b"' % raw) == key)
