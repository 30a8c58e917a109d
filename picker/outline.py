"""Outline of a body: its JSON without the long strings, which are most of a large one and need not be read to be hashed.

Reading them, escape by escape, would be most of what a decision costs: 0.4 ms for a prompt of 400 KB, 4 ms for an image of 4 MB. So they
are passed by at the speed of memchr, from quotation mark to quotation mark, and the rest is read with a mark in the place of each. That
pays where quotation marks are far apart; where they are not (code, many short messages), what follows is read as it is.

The prompt is made of what was read, as JSON writes it, and `Outline.whole` puts the strings back: so it is the same whether a string was passed
by or not, if the client writes its escapes as most do (RFC 8259 leaves a choice); where it does not, its prompts are still equal to each
other. A client that writes a mark itself moves one of its own strings: that concerns its own prompt alone. A mark is a
number between two characters DEL: ASCII that nobody writes, and a byte in JSON, too, so that it is found by memchr.

What is not checked: escapes, control characters and UTF-8 in long strings. The server does that. Where they end, all parsers agree.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

LONG = 2048  # bytes of a string that is passed by; shorter ones are read as quickly
_SMALL = 4096  # bytes of a body that is not searched
_SPARSE = 256  # bytes for each quotation mark, ...
_HEAD = 16 << 10  # ... beyond these: names of fields and roles are close together
# Bytes of a string that are searched for escapes: who writes so what is not ASCII is read, for it is up to three times as long.
_SAMPLE = 512
_RUN = 65  # backslashes in a row that are counted, an odd number; nobody writes more
MARK = "\x7f"  # at both ends of one
_NUMBER = re.compile(rb"\x7f(\x7f?)(\d{1,9})\x7f\1")  # twice: see `nested`
_MORE = 64  # marks that a client may have written itself; then it is left at that
_QUOTE, _BACKSLASH, _DEL = b'"\\\x7f'


@dataclass(frozen=True, slots=True)
class Outline:
    """`text` is the JSON to read instead of a body; it lacks `passed`, strings as they are written, without quotation marks."""

    text: bytes
    passed: Sequence[memoryview] = ()
    marks: Sequence[int] = ()  # where in `text` each mark ends
    longer: Sequence[int] = (0,)  # how much longer the body is up to there

    def at(self, place: int) -> int:
        """Where in the body a place of `text` is that is in no mark."""
        return place + self.longer[bisect_right(self.marks, place)]

    def whole(self, written: bytes, skip: int = 0, used: set[int] | None = None) -> bytes:
        """JSON that was written from what was read, with the strings that were passed by; without `skip` bytes at each end.

        Each string is put back once, whatever a client writes: in all calls that have the same `used`.
        """
        end = len(written) - skip
        at = written.find(_DEL) if self.passed else -1
        if at < 0:
            return written[skip:end]
        view, kept = memoryview(written)[:end], skip
        pieces: list[bytes | memoryview] = []
        used = set() if used is None else used
        left = len(self.passed) + _MORE
        while at >= 0 and left:
            left -= 1
            after = at + 1
            mark = _NUMBER.match(written, at)
            if mark is not None and (number := int(mark[2])) < len(self.passed) and number not in used:
                used.add(number)
                pieces += (view[kept:at], _again(self.passed[number]) if mark[1] else self.passed[number])
                kept = after = mark.end()
            at = written.find(_DEL, after)
        return b"".join((*pieces, view[kept:]))


def nested(written: str) -> str:
    """JSON that will be in a string of JSON: strings that were passed by are to be written once more there."""
    return written.replace(MARK, MARK * 2)


def outline(body: bytes) -> Outline:
    """What is to be read of a body."""
    if len(body) < _SMALL:
        return Outline(body)
    view = memoryview(body)
    kept = size = 0
    pieces: list[bytes | memoryview] = []
    passed: list[memoryview] = []
    marks: list[int] = []
    longer = [0]
    for start, end in _strings(body):
        if end - start > LONG and b"\\u" not in body[start : start + _SAMPLE]:
            mark = b"\x7f%d\x7f" % len(passed)
            pieces += (view[kept:start], mark)
            passed.append(view[start:end])
            size += start - kept + len(mark)
            marks.append(size)
            longer.append(end - size)
            kept = end
    return Outline(b"".join((*pieces, view[kept:])), passed, marks, longer) if passed else Outline(body)


def _again(raw: memoryview) -> bytes:
    """What is in a string of JSON, in a string of JSON."""
    found = bytes(raw)
    if b"\\" in found:  # an image has none
        found = orjson.dumps(found.decode(errors="replace"))[1:-1]
    return found.replace(b"\x7f", b"\x7f\x7f")  # as `nested` does


def _strings(body: bytes) -> Iterator[tuple[int, int]]:
    """Where strings begin and end, within their quotation marks, as long as these are far apart."""
    find = body.find
    quotes = 0
    start = find(_QUOTE) + 1
    while start:
        end = find(_QUOTE, start)
        while end > start and body[end - 1] == _BACKSLASH:
            run = backslashes(body, start, end) if body[end - 2] == _BACKSLASH else 1
            if run % 2 == 0:
                break
            quotes += 1
            end = find(_QUOTE, end + 1) if run < _RUN and quotes * _SPARSE < end + _HEAD else -1
        quotes += 2
        if end < 0 or quotes * _SPARSE > end + _HEAD:
            return
        yield start, end
        start = find(_QUOTE, end + 1) + 1


def backslashes(body: bytes, start: int, end: int) -> int:
    """How many stand in a row before `end`; at most _RUN are looked at."""
    before = body[max(start, end - _RUN) : end]
    return len(before) - len(before.rstrip(b"\\"))
