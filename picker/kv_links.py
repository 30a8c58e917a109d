"""Links: from blocks of a prompt's bytes, which the picker hashes, to blocks of tokens, which the servers tell of.

A server's own tokenizer is asked, off the request path, once for a prefix. Its tokens stand in the text that the
chat template rendered; the parts of the prompt are looked for there, and what lies between them belongs to the part that follows.
So where a block of tokens ends is known to a few bytes, and what is in doubt counts as not cached. Where tokens end in that text is
told by their own strings (vLLM), or by the text of so many at a time (SGLang).
"""

import re
from bisect import bisect_left
from codecs import charmap_build, charmap_encode
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import orjson

from picker.kv_blocks import ROOT
from picker.outline import backslashes
from picker.prefix import MAX_BLOCKS, TOKEN_BYTES, blocks_in, reach, tokens_in

MAX_LINKS = 1 << 18  # blocks of bytes: 64 MB of prompts, which takes about as much
SETTLED = 16  # bytes behind a token after which what follows does not change it any more
_NUL = rb"\u0000"  # as prompts have it: they are written as JSON writes text
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u....|u....|.)")  # of UTF-16 both halves
_PART = 8  # bytes: shorter parts are found by chance
_CUT = "\ufffd"
_MISSES = 8  # parts that the template has changed; then the rest is not looked for


class Links:
    """Block of bytes -> (key of the last block of tokens that ends in it or before, blocks of bytes that those tokens are).

    Least recently linked goes first, and the tail of a chain before its head: a linked block has linked blocks before it.
    """

    __slots__ = ("_links", "get")

    def __init__(self) -> None:
        self._links: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self.get: Callable[[int], tuple[int, int] | None] = self._links.get

    def __len__(self) -> int:
        return len(self._links)

    def add(self, hashes: Sequence[int], links: Sequence[tuple[int, int]]) -> None:
        """`links` of the first `hashes`; there may be fewer."""
        found, touch = self._links, self._links.move_to_end
        for index in range(min(len(links), len(hashes)) - 1, -1, -1):
            found[hashes[index]] = links[index]
            touch(hashes[index])
        while len(found) > MAX_LINKS:
            found.popitem(last=False)

    def count(self, hashes: Sequence[int]) -> int:
        """How many blocks are linked, from the first on."""
        return reach(self._links, hashes)


def links(blocks: int, keys: Sequence[int], ends: Sequence[int]) -> list[tuple[int, int]]:
    """The links of a prompt of so many blocks of bytes. `keys` and `ends` (bytes, ascending) are those of its blocks of tokens.

    A block of bytes counts as cached where most of it is: the next one, of which the server may have a part, is never counted.
    """
    if not ends:
        return []
    span = ends[-1] // len(ends)  # bytes of a block of tokens
    found: list[tuple[int, int]] = []
    passed = 0
    for index in range(min(blocks, blocks_in((ends[-1] + span) / TOKEN_BYTES))):
        while passed < len(ends) and ends[passed] + SETTLED <= tokens_in(index + 1) * TOKEN_BYTES:
            passed += 1
        found.append((keys[passed - 1], _nearest(ends[passed - 1])) if passed else (ROOT, 0))
    return found


def _nearest(end: int) -> int:
    """Blocks of bytes that the first `end` bytes are, the last of them where it is there for the most part."""
    whole = blocks_in(end / TOKEN_BYTES)
    if whole == MAX_BLOCKS:
        return whole
    return whole + (end * 2 >= (tokens_in(whole) + tokens_in(whole + 1)) * TOKEN_BYTES)


def token_ends(count: int, block_tokens: int) -> list[int]:
    """Where blocks of tokens end in a prompt that is token ids, 4 bytes each."""
    return [(index + 1) * block_tokens * TOKEN_BYTES for index in range(count // block_tokens)]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a prompt that is in the rendered text, too. Figures are bytes."""

    start: int  # in the prompt
    place: int  # in the rendered text, without the space around it: templates strip that
    length: int
    skipped: int  # of space before it
    escapes: Sequence[int]  # where in the part, with its space, each begins
    longer: Sequence[int]  # how much longer it is in the prompt, after so many of them

    def at(self, place: int) -> int:
        """Where in the prompt that place of the rendered text is; the part's beginning for what comes before it."""
        offset = self.skipped + max(place - self.place, 0)
        return self.start + offset + self.longer[bisect_left(self.escapes, offset)]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a template made of a prompt, and where in it, in bytes, each `step` tokens end."""

    text: bytes
    ends: Sequence[int]
    step: int = 1


def of_strings(strings: Sequence[str]) -> Rendered:
    """By the tokenizer's own strings of all tokens."""
    joined = "".join(strings)
    if "\u2581" in joined and "\u0120" not in joined:  # SentencePiece writes a space so
        each = [_piece(one) for one in strings]
        return Rendered(b"".join(each), list(accumulate(map(len, each))))
    return Rendered(charmap_encode(joined, "replace", _BYTES)[0], list(accumulate(map(len, strings))))


def of_pieces(whole: str, pieces: Iterable[str], step: int) -> Rendered:
    """By the text of all tokens, and the texts of each `step` of them: U+FFFD stands for a cut character, and a space may be missing.

    Where one of them is not found where it should be, nothing is known of what follows.
    """
    text = whole.encode()
    ends: list[int] = []
    at = 0  # before a character that the last piece had a part of
    for piece in pieces:
        found = piece.strip(_CUT).encode()
        if found and piece[0] == _CUT:
            at += len(text[at : at + 4].decode(errors="ignore")[:1].encode())
        place = text.find(found, at, at + len(found) + 1)
        if place < 0:
            break
        at = place + len(found)
        ends.append(at)
    return Rendered(text, ends, step)


def text_ends(prompt: bytes, rendered: Rendered, block_tokens: int) -> list[int]:
    """Where blocks of tokens end in a prompt; none of those after the prompt's last part. `block_tokens`: a multiple of its step."""
    parts = _parts(prompt, rendered.text)
    found: list[int] = []
    part = 0
    each = block_tokens // rendered.step
    for end in rendered.ends[each - 1 :: each]:
        while part < len(parts) and parts[part].place + parts[part].length < end:
            part += 1
        if part == len(parts):
            break
        found.append(parts[part].at(end))  # between two parts: known once the next one begins
    return found


def _parts(prompt: bytes, rendered: bytes) -> list[_Part]:
    """Each part that is in both. Roles stand between NULs."""
    found: list[_Part] = []
    at = misses = 0
    for start, written in _written(prompt):
        whole, escapes, longer = _unescaped(written)
        part = whole.strip()
        place = rendered.find(part, at) if len(part) >= _PART else -1
        if place >= 0:
            found.append(_Part(start, place, len(part), whole.index(part), escapes, longer))
            at = place + len(part)
        elif len(part) >= _PART:
            misses += 1
            if misses == _MISSES:
                break
    return found


def _written(prompt: bytes) -> Iterator[tuple[int, bytes]]:
    """What stands between NULs, and where. A backslash before what looks like one makes it text, unless it is one itself."""
    start = at = 0
    while (at := prompt.find(_NUL, at)) >= 0:
        if backslashes(prompt, start, at) % 2:
            at += 1
            continue
        yield start, prompt[start:at]
        start = at = at + len(_NUL)
    yield start, prompt[start:]


def _unescaped(written: bytes) -> tuple[bytes, list[int], list[int]]:
    """What JSON writes so, where in it the escapes are, and how much longer it is written after so many of them."""
    escapes: list[int] = []
    longer = [0]
    try:
        for escape in _ESCAPE.finditer(written):
            escapes.append(escape.start() - longer[-1])
            size = 1 if len(escape[0]) == 2 else len(orjson.loads(b'"%b"' % escape[0]).encode())
            longer.append(longer[-1] + len(escape[0]) - size)
        return orjson.loads(b'"%b"' % written).encode(), escapes, longer
    except orjson.JSONDecodeError:  # in a long string, which nobody has checked: see outline.py
        return b"", [], [0]


def _piece(text: str) -> bytes:
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass
    return text.replace("\u2581", " ").encode(errors="replace")


def _byte_level() -> str:
    """The character that byte-level BPE (GPT-2 and all after it) writes for each byte."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in plain else next(others)) for byte in range(0x100))


_BYTES = charmap_build(_byte_level())
