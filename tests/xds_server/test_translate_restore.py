"""The model's name in answers: the script as LuaJIT runs it, on texts cut anywhere. With a real Envoy: tests/e2e/test_rewrite.py."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lupa.luajit21 import LuaRuntime

from xds_server.translate.restore import RESTORE

LUA = LuaRuntime(encoding=None)
LUA.execute(RESTORE.encode())
Restorer = Callable[..., tuple[Callable[[bytes], bytes], Callable[[], bytes]]]
RESTORER: Restorer = LUA.eval(b"restorer")
ASKED, TARGET = 'né"w', "org/tärget"


def restored(pieces: Iterable[bytes], *, events: bool = True, asked: str = ASKED, target: str = TARGET) -> list[bytes]:
    """What is sent for each piece, and at the end."""
    plain = [json.dumps(each, ensure_ascii=False).encode() for each in (asked, target)]
    feed, rest = RESTORER(*plain, json.dumps(target).encode(), events)
    return [feed(piece) for piece in pieces] + [rest()]


def one(text: str, **options: Any) -> str:
    return b"".join(restored([text.encode()], **options)).decode()


NAME = json.dumps(ASKED, ensure_ascii=False)


@pytest.mark.parametrize("name", [f'"{TARGET}"', json.dumps(TARGET), '"org\\/tärget"'])
@pytest.mark.parametrize(
    "text", ['{"model":%s}', '{ "id" : 1,\n "model" :\t%s , "a":"b"}', '{"response":{"x":[1],"model":%s},"b":{}}']
)
def test_the_name_in_every_spelling_and_place(text: str, name: str) -> None:
    assert one(text % name, events=False) == text % NAME
    line = "data: " + text.replace("\n", "") + "\n\n"
    assert one(line % name) == line % NAME


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"org/other"}',
        '{"model":"org/tärgets"}',
        '{"model":["org/tärget"]}',
        '{"model":{"model":"org/tärget"}}',
        '{"choices":[{"model":"org/tärget"}]}',
        '{"choices":{"model":"org/tärget"}}',
        '{"message":[{"model":"org/tärget"}]}',
        '{"a":"model","b":"org/tärget"}',
        '{"a\\"model":"org/tärget"}',
        '{"a":"\\"model\\":\\"org/tärget\\""}',
        '{"model":null,"b":"org/tärget"}',
        '{"models":"org/tärget"}',
        '["model","org/tärget"]',
        '"model"',
        "",
        "}}}]",
    ],
)
def test_nothing_else_is_touched(text: str) -> None:
    assert one(text, events=False) == text
    assert one(f"data: {text}\n\n") == f"data: {text}\n\n"


def test_lines_that_are_no_data_are_not_read() -> None:
    text = f'event: {{"model":"{TARGET}"}}\r\n: {{"model":"{TARGET}"}}\ndatum: 1\ndat\n\ndata: [DONE]\n\n'
    assert one(text) == text


def test_the_same_beginning_is_recognised_and_another_is_read() -> None:
    lines = [
        f'data: {{"id":"{n}","model":"{TARGET}","n":"{m}"}}\n\n' for n, m in ((1, 1), (1, 2), (2, 3), (2, 4), (1, 5))
    ]
    assert one("".join(lines)) == "".join(lines).replace(f'"{TARGET}"', NAME)


def test_a_name_that_does_not_end_is_held_no_longer_than_the_target_is() -> None:
    begin = f'data: {{"model":"{TARGET[:5]}'
    assert restored([begin.encode()])[0] == b'data: {"model":'
    assert len(restored([begin.encode() + b"x" * 1000])[0]) == len(begin) + 1000
    assert one(begin) == begin


# --- laws -------------------------------------------------------------------------------------------------------------

TEXTS = st.sampled_from(
    [TARGET, ASKED, "model", 'a"model', "message", "response", "\\", '"model":"', "\u2028", "data: ", "{[", "x" * 40]
)
KEYS = st.sampled_from(["model", "message", "response", "choices", 'a"model', "id", "model\\"])
VALUES = st.recursive(
    TEXTS | st.integers(0, 9) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)
STYLES = st.sampled_from([{"separators": (",", ":")}, {"ensure_ascii": False}, {"separators": (" , ", " : ")}])


def expected(value: dict[str, Any]) -> dict[str, Any]:
    """The answer as the client should see it: the first model of the answer, or of its message or response, if it is the target."""
    found = dict(value)
    for key, inner in value.items():
        if key == "model" and isinstance(inner, str):
            return found | ({key: ASKED} if inner == TARGET else {})
        if key in ("message", "response") and isinstance(inner, dict) and isinstance(inner.get("model"), str):
            return found | ({key: inner | {"model": ASKED}} if inner["model"] == TARGET else {})
    return found


def cut(text: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(OBJECTS, STYLES, st.lists(st.integers(0, 5000), max_size=12))
def test_of_an_answer_only_the_model_changes(value: dict[str, Any], style: dict[str, Any], places: list[int]) -> None:
    text = json.dumps(value, **style).encode()
    assert json.loads(b"".join(restored(cut(text, places), events=False))) == expected(value)


@given(
    st.lists(OBJECTS, max_size=4),
    STYLES,
    st.lists(st.integers(0, 5000), max_size=12),
    st.sampled_from(["\n\n", "\r\n\r\n"]),
)
def test_of_a_stream_only_the_models_change(
    values: list[dict[str, Any]], style: dict[str, Any], places: list[int], end: str
) -> None:
    text = "".join(f"event: x\ndata: {json.dumps(value, **style)}{end}" for value in values) + f"data: [DONE]{end}"
    found = b"".join(restored(cut(text.encode(), places))).decode()
    lines = [line.rstrip("\r") for line in found.split("\n") if line.startswith("data: ")]
    assert [json.loads(line[6:]) for line in lines[:-1]] == [expected(value) for value in values]
    assert found.count(end) == len(values) + 1 and found.endswith(f"data: [DONE]{end}")


@given(
    st.binary(max_size=200) | st.text(alphabet='model":{}[],\\\n dat', max_size=80).map(str.encode),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=5),
)
def test_what_is_no_json_passes_as_it_came(text: bytes, events: bool, places: list[int]) -> None:
    assert b"".join(restored(cut(text, places), events=events)) == text
