"""Long strings that are not read: what is read instead says the same, and the prompt is the same."""

import json
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

import picker.outline as module
from picker.errors import BadRequest
from picker.outline import LONG, Outline, outline
from picker.request import parse
from xds_server.model.names import REWRITE_HEADERS

CHAT = {":path": "/v1/chat/completions"}
TEXT = "So it goes, from word to word,\nand line to line.\t" * 200
# Few quotation marks, so that strings are passed by; and backslashes before some of them.
ALPHABET = "abcdefgh ijklmnop\n\\é🙂"
STRINGS = st.one_of(
    st.text(ALPHABET, max_size=20),
    st.text('"\\x', max_size=6),
    st.builds(
        lambda seed, size, end: "".join(random.Random(seed).choices(ALPHABET, k=size)) + end,
        *(st.integers(0, 99), st.sampled_from([LONG - 2, LONG - 1, LONG, LONG + 1, 5000, 20_000])),
        st.sampled_from(["", "\\", '"', '\\"', '"\\', '\\\\"', "\0"]),
    ),
)
VALUES = st.recursive(
    st.one_of(STRINGS, st.integers(-9, 9), st.none(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


class Counted(bytes):
    """Counts how often somebody searches it."""

    searches = 0

    def find(self, *args: Any) -> int:
        self.searches += 1
        return super().find(*args)


def messages(*contents: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": one} for one in contents], **more}


def body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def read(raw: bytes, monkeypatch: pytest.MonkeyPatch | None = None) -> Any:
    """What is known of a body; with a `monkeypatch`, read as it is."""
    if monkeypatch is not None:
        monkeypatch.setattr(module, "_SMALL", 1 << 30)
    found = parse(CHAT, raw)
    return found.prompt, found.cache_salt, found.media, found.model, found.streaming


@given(VALUES)
def test_with_its_strings_put_back_it_is_the_body(value: Any) -> None:
    raw = orjson.dumps({"a": value, "b": TEXT})
    found = outline(raw)
    assert all(len(one) > LONG for one in found.passed)
    assert found.passed
    assert len(found.text) < len(raw)
    assert found.whole(orjson.dumps(orjson.loads(found.text))) == raw
    for at, byte in enumerate(found.text):
        if not any(mark - 15 <= at < mark for mark in found.marks):
            assert raw[found.at(at)] == byte
    assert found.at(len(found.text)) == len(raw)


@given(st.lists(VALUES, min_size=1, max_size=4), st.one_of(st.just(""), STRINGS), VALUES)
def test_all_that_is_known_of_a_request_is_the_same(contents: list[Any], salt: str, tools: Any) -> None:
    more = {"cache_salt": salt} if salt and len(body(salt)) < LONG else {}
    parts = [{"type": "image_url", "image_url": {"url": "data:" + TEXT.strip().replace("\n", "")}}, TEXT]
    raw = body(messages(*contents, parts, tools=tools, stream=True, **more))
    with pytest.MonkeyPatch.context() as patch:
        expected = read(raw, patch)
    assert read(raw) == expected


@given(st.binary(max_size=40), st.integers(0, 5000))
def test_what_is_no_json_is_refused_in_the_same_words(junk: bytes, at: int) -> None:
    raw = body(messages(TEXT, stream=True))
    start, end = raw.index(b"So it"), raw.rindex(b"line.")
    at = at % start if at % 2 else end + at % (len(raw) - end) + 1
    broken = raw[:at] + junk + raw[at:]

    def told(patch: pytest.MonkeyPatch | None) -> Any:
        try:
            return read(broken, patch)
        except BadRequest as error:
            return error.message

    with pytest.MonkeyPatch.context() as patch:
        expected = told(patch)
    found = told(None)
    # Only what is within a long string may be wrong and not be seen: Envoy's other end sees it.
    assert found == expected or (isinstance(expected, str) and not isinstance(found, str))


def test_a_conversation_keeps_its_prefix_when_it_becomes_dense() -> None:
    """A long answer with many quotation marks is read as it is, and so is what follows: the prompt is the same."""
    code = 'print("hello")\n' * 1000
    before, after = body(messages(TEXT)), body(messages(TEXT, code, TEXT))
    assert len(outline(after).passed) == 1
    assert not outline(body(messages(code, TEXT))).passed
    assert parse(CHAT, after).prompt.startswith(parse(CHAT, before).prompt)


def test_who_writes_ascii_alone_has_the_same_prompts() -> None:
    """Its long strings are read, as their beginnings show it: they would be up to three times as long."""
    for text in ("é", "é" + TEXT, "привет " * 3000):
        asked = messages(text)
        assert parse(CHAT, json.dumps(asked).encode()).prompt == parse(CHAT, body(asked)).prompt


def test_escapes_that_come_late_in_long_strings_stay_as_they_are() -> None:
    long, more = messages(TEXT + "é"), messages(TEXT + "é", "go on")
    plain = json.dumps(long).encode()
    assert parse(CHAT, plain).prompt != parse(CHAT, body(long)).prompt
    assert parse(CHAT, json.dumps(more).encode()).prompt.startswith(parse(CHAT, plain).prompt)


def test_a_long_salt_is_what_it_says() -> None:
    salt = 'a "salt"\n' + "x" * LONG
    assert parse(CHAT, body(messages(TEXT, cache_salt=salt))).cache_salt == salt
    broken = body(messages(TEXT, cache_salt=salt)).replace(b"\\n", b"\\q")
    assert parse(CHAT, broken).cache_salt  # the server may refuse it


def test_no_string_is_put_into_two_pictures() -> None:
    """Marks of a client, one in each of many parts: what is hashed is never more than the body."""
    parts = [{"type": "image", "a": "\x7f0\x7f"}] * 1000
    found = outline(body({"x": TEXT, **messages(parts)}))
    used: set[int] = set()
    put = [len(found.whole(orjson.dumps(part), used=used)) for part in parts]
    assert sum(size > len(TEXT) / 2 for size in put) == 1
    assert len(parse(CHAT, body({"x": TEXT, **messages(parts)})).media) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 100_000,  # it is not counted to its end, again and again
        ("\\" * 100 + '"') * 1000,
        '"' * 100_000,
        "\x7f0" * 4000,  # a mark, written by the client
        "\x7f0\x7f" * 2000,
    ],
)
def test_whatever_a_client_writes_is_in_bounds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = body(messages(text))
    found = parse(CHAT, raw)
    assert len(found.prompt) <= 2 * len(raw)
    assert read(raw)[3:] == read(raw, monkeypatch)[3:]


def test_a_mark_that_a_client_writes_moves_its_own_string() -> None:
    raw = body(messages("\x7f0\x7f" * 60, TEXT, "\x7f7\x7f"))
    found = parse(CHAT, raw).prompt
    assert found.count(b"So it goes") == 200  # once
    assert found.endswith(b"\x7f0\x7f\\u0000user\\u0000\x7f7\x7f")


def test_what_has_many_quotation_marks_is_not_searched_to_its_end() -> None:
    raw = Counted(body(messages(*["hello"] * 100_000)))
    outline(raw)
    assert 0 < raw.searches < 200


def test_small_bodies_and_headers_are_read_as_they_are() -> None:
    raw = body(messages("x" * 2100))
    assert outline(raw) == Outline(raw)
    assert parse({**CHAT, REWRITE_HEADERS[0]: "other"}, raw).rewrite == "other"


def test_marks_are_not_searched_for_without_end() -> None:
    raw = Counted(b"\x7fx" * 10_000)
    assert outline(body(messages(TEXT))).whole(raw) == raw
    assert 0 < raw.searches < 100
