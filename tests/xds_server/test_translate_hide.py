"""Usage that nobody asked for: the script as LuaJIT runs it, on streams cut anywhere. With a real Envoy: tests/e2e/test_unasked.py."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lupa.luajit21 import LuaRuntime

from xds_server.translate.hide import HIDE

LUA = LuaRuntime(encoding=None)
LUA.execute(HIDE.encode())
Hider = Callable[[], tuple[Callable[[bytes], bytes], Callable[[], bytes]]]
HIDER: Hider = LUA.eval(b"hider")
LONGEST = 8192

TOKEN = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
NULL = b'data: {"id":"c","choices":[{"index":0,"text":"a"}],"usage":null}\n\n'  # SGLang and TensorRT-LLM, asked or not
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
DONE = b"data: [DONE]\n\n"


def hidden(pieces: Iterable[bytes]) -> list[bytes]:
    """What is sent for each piece, and at the end."""
    feed, rest = HIDER()
    return [feed(piece) for piece in pieces] + [rest()]


def one(text: bytes) -> bytes:
    return b"".join(hidden([text]))


@pytest.mark.parametrize(
    "usage",
    [
        USAGE,
        b'data:{"usage":{},"choices":[]}\n\n',
        b'data: { "choices" : [ ] , "x":"}]{[\\"", "usage" : {"a":[{}]}} \n\n',  # TensorRT-LLM has such a space
        USAGE.replace(b"\n", b"\r\n"),
        b'data: {"metrics":{"choices":1},"choices":[],"system_fingerprint":"f","usage":{"x":1}}\n\n',
    ],
)
def test_the_event_that_tells_usage_alone_is_taken_away(usage: bytes) -> None:
    assert one(TOKEN + usage + DONE) == TOKEN + DONE
    assert hidden([TOKEN, usage, DONE]) == [TOKEN, b"", DONE, b""]
    assert one(usage + usage) == b""


@pytest.mark.parametrize(
    "event",
    [
        TOKEN,
        NULL,
        DONE,
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":7}}\n\n',  # of a server that tells it with the last token
        b'data: {"choices":[],"prompt_filter_results":[{"usage":{}}]}\n\n',
        b'data: {"choices":[],"x_groq":{"usage":{}}}\n\n',
        b'data: {"x":{"choices":[]},"usage":{}}\n\n',
        b'data: {"choices":[],"usage":"{}"}\n\n',
        b'data: {"choices":["a"],"usage":{}}\n\n',
        b'data: {"choices":"a","choices\\\\":[],"usage":{}}\n\n',
        b'data: {"choices":null,"usage":{}}\n\n',
        b'data: {"error":{"message":"\\"choices\\":[],\\"usage\\":{}"}}\n\n',
        b'data: {"choices":[],"usage":{}\n\n',  # no JSON
        b'data: [{"choices":[],"usage":{}}]\n\n',
        b'event: x\ndata: {"choices":[],"usage":{}}\n\n',  # nobody's; it would have to go as a whole
        b'data: {"choices":[],\ndata: "usage":{}}\n\n',
        b': {"choices":[],"usage":{}}\n\n',
        b'data: {"choices":[],"usage":{"x":"' + b"x" * LONGEST + b'"}}\n\n',
    ],
)
def test_every_other_event_passes(event: bytes) -> None:
    assert one(TOKEN + event + DONE) == TOKEN + event + DONE
    assert b"".join(hidden(event[i : i + 1] for i in range(len(event)))) == event


def test_whole_events_are_held_never() -> None:
    pieces = [TOKEN, TOKEN + NULL, b"\n", b": ping\n\n", DONE, b""]
    assert hidden(pieces) == [*pieces, b""]


def test_an_event_that_is_cut_is_held_until_it_has_choices() -> None:
    cut = TOKEN.index(b'"index"') + 4
    assert hidden([TOKEN[:20], TOKEN[20:cut], TOKEN[cut:], DONE]) == [b"", TOKEN[:cut], TOKEN[cut:], DONE, b""]
    begun = b'data: {"x":"'
    found = hidden([begun, b"x" * LONGEST, b"y", b'"}\n\n'])
    assert found == [b"", begun + b"x" * LONGEST, b"y", b'"}\n\n', b""]
    assert hidden([b"data: [DO", b"NE]\n", b"\n" + USAGE]) == [b"data: [DO", b"NE]\n", b"\n", b""]


def test_a_stream_that_breaks_off_loses_nothing() -> None:
    for end in range(len(USAGE)):
        assert one(TOKEN + USAGE[:end]) == TOKEN + USAGE[:end]


# --- laws -------------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(["choices", "usage", '"choices":[]', '"usage":{', "\\", '"', "{[", "}]", "\u2028", "x" * 60])
KEYS = st.sampled_from(["choices", "usage", 'a"usage', "choices\\", "id", "x"])
VALUES = st.recursive(
    WORDS | st.integers(0, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
EVENTS = (
    st.dictionaries(KEYS, VALUES, max_size=4)
    | st.dictionaries(st.sampled_from(["id", "x"]), WORDS, max_size=2).map(lambda more: more | {"choices": [], "usage": {"n": 1}})
    | st.just({"choices": [{"delta": {"content": "usage"}}]})
)  # fmt: skip
STYLES = st.sampled_from([{"separators": (",", ":")}, {"ensure_ascii": False}, {"separators": (" , ", " : ")}])
CUTS = st.lists(st.integers(0, 5000), max_size=12)


def unasked(value: dict[str, Any]) -> bool:
    """As OpenAI says it of `include_usage`; not where something else in it has choices."""

    def chooses(inner: Any) -> bool:
        if isinstance(inner, dict):
            choices = inner.get("choices")
            return (isinstance(choices, list) and bool(choices)) or any(map(chooses, inner.values()))
        return isinstance(inner, list) and any(map(chooses, inner))

    return value.get("choices") == [] and isinstance(value.get("usage"), dict) and not chooses(value)


def cut(text: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.lists(EVENTS, max_size=5), STYLES, CUTS, st.sampled_from(["\n\n", "\r\n\r\n", "\n\n\n"]))
def test_of_a_stream_only_these_are_taken_away(
    values: list[dict[str, Any]], style: dict[str, Any], places: list[int], end: str
) -> None:
    events = [(value, f"data: {json.dumps(value, **style)}{end}".encode()) for value in values]
    done = f"data: [DONE]{end}".encode()
    found = b"".join(hidden(cut(b"".join(text for _, text in events) + done, places)))
    left = b"\n" if end == "\n\n\n" else b""  # a line more than the event had
    assert found == b"".join(left if unasked(value) else text for value, text in events) + done


@given(
    st.lists(st.sampled_from([TOKEN, NULL, USAGE, DONE, b"\n", b"\r\n", b"\r", b"data: ", b"event: x\n", b"{", b'"usage"'])),
    CUTS,
)  # fmt: skip
def test_where_it_is_cut_does_not_matter(parts: list[bytes], places: list[int]) -> None:
    text = b"".join(parts)
    assert b"".join(hidden(cut(text, places))) == one(text)


@given(st.binary(max_size=200) | st.text(alphabet='usagechoices":{}[],\\\r\n dt', max_size=80).map(str.encode), CUTS)
def test_what_is_no_event_passes_as_it_came(text: bytes, places: list[int]) -> None:
    assert b"".join(hidden(cut(text, places))) == text


@given(st.lists(st.sampled_from([TOKEN, NULL, USAGE, DONE]), min_size=1), CUTS)
def test_no_more_is_held_than_an_event_whose_end_has_not_come(parts: list[bytes], places: list[int]) -> None:
    text = b"".join(parts)
    feed, _ = HIDER()
    came = sent = b""
    for piece in cut(text, places):
        came, sent = came + piece, sent + feed(piece)
        whole = came[: came.rindex(b"\n\n") + 2] if b"\n\n" in came else b""
        assert len(sent) >= len(whole.replace(USAGE, b""))
