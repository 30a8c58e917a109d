"""Usage of streams, read and hidden: the script as LuaJIT runs it, on streams cut anywhere. With a real Envoy: tests/e2e/test_usage.py
and test_unasked.py.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lupa.luajit21 import LuaRuntime

from xds_server.translate.usage import USAGE as SCRIPT

LUA = LuaRuntime(encoding=None)
LUA.execute(SCRIPT.encode())
Tell = Callable[[bytes, float], None]
Reader = Callable[[Tell, bool], tuple[Callable[[bytes], bytes], Callable[[], bytes]]]
READER: Reader = LUA.eval(b"usage_reader")
LONGEST, LONGEST_HELD = 1 << 20, 8192

TOKEN = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
NULL = b'data: {"id":"c","choices":[{"index":0,"text":"a"}],"usage":null}\n\n'  # SGLang and TensorRT-LLM, asked or not
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
DONE = b"data: [DONE]\n\n"


def hidden(pieces: Iterable[bytes]) -> list[bytes]:
    """What is sent for each piece, and at the end."""
    feed, rest = READER(lambda *_: None, True)
    return [feed(piece) for piece in pieces] + [rest()]


def told(pieces: Iterable[bytes], *, hides: bool = False) -> dict[str, float]:
    """What the metadata has at the end; nothing of the stream is changed unless it hides."""
    found: dict[str, float] = {}
    feed, rest = READER(lambda name, number: found.update({name.decode(): number}), hides)
    pieces = list(pieces)
    passed = [feed(piece) for piece in pieces] + [rest()]
    assert hides or passed == [*pieces, b""]
    return found


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
        b'data: {"choices":[],"usage":{"x":"' + b"x" * LONGEST_HELD + b'"}}\n\n',
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
    for size in (LONGEST_HELD, LONGEST):
        found = hidden([begun, b"x" * size, b"y", b'"}\n\n', TOKEN])
        assert found == [b"", begun + b"x" * size, b"y", b'"}\n\n', TOKEN, b""]
    assert hidden([b"data: [DO", b"NE]\n", b"\n" + USAGE]) == [b"data: [DO", b"NE]\n", b"\n", b""]


def test_a_stream_that_breaks_off_loses_nothing() -> None:
    for end in range(len(USAGE)):
        assert one(TOKEN + USAGE[:end]) == TOKEN + USAGE[:end]


# --- what is read -----------------------------------------------------------------------------------------------------

CHAT = {
    "prompt_tokens": 100,
    "total_tokens": 107,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 64},
}
RESPONSE = {"input_tokens": 100, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 64}}
MESSAGE = {"input_tokens": 36, "cache_creation_input_tokens": 3, "cache_read_input_tokens": 64, "output_tokens": 7}
COUNTED = {"prompt_tokens": 100, "completion_tokens": 7, "cached_tokens": 64}
WRITTEN = {"prompt_tokens": 36, "cache_creation_tokens": 3, "cache_read_tokens": 64, "completion_tokens": 7}


def sse(*events: dict[str, Any], before: str = "") -> bytes:
    return b"".join(f"{before}data: {json.dumps(event)}\n\n".encode() for event in events)


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize(
    ("stream", "wanted"),
    [
        (sse({"choices": [{"delta": {}}], "usage": None}, {"choices": [], "usage": CHAT}) + DONE, COUNTED),
        (sse({"choices": [{"delta": {"content": '"'}}], "usage": CHAT}), COUNTED),
        (sse(*({"choices": [{}], "usage": {"completion_tokens": n}} for n in (1, 2))), {"completion_tokens": 2}),
        (sse({"response": {"usage": None}}, {"response": {"output": [{"usage": {}}], "usage": RESPONSE}}), COUNTED),
        (
            sse(
                {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 1, "output_tokens": 0}}},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": MESSAGE},
                before="event: x\n",
            ),
            WRITTEN,
        ),
        (sse({"choices": [{"usage": CHAT}], "x": {"usage": CHAT}, "y": [{"usage": CHAT}]}), {}),
        (sse({"choices": [{"delta": {"content": json.dumps({"usage": CHAT})}}]}), {}),
        (sse({"usage": {"prompt_tokens": None, "completion_tokens": "7", "x": {"prompt_tokens": 1}}}), {}),
        (b'data: {"usage":{"prompt_tokens":1}\n\ndata: "usage"\n\nevent: "usage"\n\n', {}),
    ],
)  # fmt: skip
def test_what_is_told_is_read_where_it_may_be(stream: bytes, wanted: dict[str, int], hides: bool) -> None:
    for each in (stream, stream.replace(b"\n", b"\r\n")):
        assert told([each], hides=hides) == wanted
        assert told((each[i : i + 1] for i in range(len(each))), hides=hides) == wanted


def test_the_end_of_a_long_answer_is_read_and_what_is_longer_is_not() -> None:
    for size, wanted in ((LONGEST - 1000, COUNTED), (LONGEST, {})):
        event = sse({"response": {"output": "x" * size, "usage": RESPONSE}})
        assert told([event]) == told([event[:5000], event[5000:]]) == wanted
        assert told([event[:-50], event[-50:] + sse({"usage": CHAT})]) == COUNTED


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


@given(st.lists(EVENTS, max_size=4), STYLES, CUTS, st.booleans())
def test_of_a_stream_what_it_tells_of_itself_is_read(
    values: list[dict[str, Any]], style: dict[str, Any], places: list[int], hides: bool
) -> None:
    numbers = [{"prompt_tokens": number, "x": [value]} for number, value in enumerate(values)]
    text = b"".join(
        f"data: {json.dumps(value | {'usage': usage}, **style)}\n\n".encode()
        for value, usage in zip(values, numbers, strict=True)
    )
    assert told(cut(text, places), hides=hides) == ({"prompt_tokens": len(values) - 1} if values else {})


@given(st.lists(st.sampled_from([TOKEN, NULL, USAGE, DONE]), min_size=1), CUTS)
def test_no_more_is_held_than_an_event_whose_end_has_not_come(parts: list[bytes], places: list[int]) -> None:
    text = b"".join(parts)
    feed, _ = READER(lambda *_: None, True)
    came = sent = b""
    for piece in cut(text, places):
        came, sent = came + piece, sent + feed(piece)
        whole = came[: came.rindex(b"\n\n") + 2] if b"\n\n" in came else b""
        assert len(sent) >= len(whole.replace(USAGE, b""))
