"""What is changed in a body: values that are asked for, and not a byte more."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from picker.outline import outline
from picker.request import parse
from picker.splice import LARGE, Changed, changed, with_model, with_usage

WORDS = ["model", '"model":"m"', "stream_options", '"stream_options":{', "include_usage", "\\", '"']
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
    | st.text('\\"', max_size=7),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["model", "messages", 'a"b', "\\", "stream_options"]), inner, max_size=3)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["a", "mode", "model2", 'x"model', "\\model", "messages", "", "stream_option", 'a"stream_options']
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
INDENTS = st.sampled_from([None, 0, 2])


@given(OBJECTS, OBJECTS, st.tuples(st.text(min_size=1), st.text()), INDENTS, st.booleans())
def test_only_the_top_level_model_changes(
    before: dict[str, Any], after: dict[str, Any], names: tuple[str, str], indent: int | None, ascii_only: bool
) -> None:
    old, new = names
    body = {**before, "model": old, **after}
    changed = with_model(json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode(), new)
    assert json.loads(changed) == {**body, "model": new}  # integers of any size
    assert list(json.loads(changed)) == list(body)  # the order of the keys


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"model":"a","n":12345678901234567890123}', b'{"model":"b","n":12345678901234567890123}'),
        (rb'{ "mod\u0065l" : "a\/c" , "x":1.0}', rb'{ "mod\u0065l" : "b" , "x":1.0}'),
        (b'{"model":"a","model":"a"}', b'{"model":"b","model":"b"}'),
        (
            b'{"x":{"model":"a"},"s":"\\"model\\":\\"a\\""}',
            b'{"model":"b","x":{"model":"a"},"s":"\\"model\\":\\"a\\""}',
        ),
        (b"{}", b'{"model":"b"}'),
        (b' {"model":null}', b' {"model":"b"}'),
        (b'{"model":[{}],"x":1,"model":"a"}', b'{"model":"b","x":1,"model":"b"}'),
    ],
)
def test_rewriting_keeps_every_other_byte(body: bytes, changed: bytes) -> None:
    assert with_model(body, "b") == changed


@given(OBJECTS, OBJECTS, st.lists(st.text('\\"\n', max_size=6), min_size=1, max_size=5))
def test_what_is_long_is_in_nobodys_way(before: dict[str, Any], after: dict[str, Any], ends: list[str]) -> None:
    long = {str(index): "so it goes, " * 300 + end for index, end in enumerate(ends)}
    body = json.dumps({"x": {"model": "a", **long}, **before, "model": "a", **long, **after}).encode()
    assert outline(body).passed
    assert json.loads(with_model(body, "b")) == {**json.loads(body), "model": "b"}
    small = json.dumps(
        {"stream": True, "stream_options": {"include_usage": None, **long}, "model": "a", **long}
    ).encode()
    assert with_usage(small, "declined") == small.replace(b'"include_usage": null', b'"include_usage": true')


# --- usage ------------------------------------------------------------------------------------------------------------

OPTIONS = st.none() | st.builds(
    lambda more, said, first: {"include_usage": said, **more} if first else {**more, "include_usage": said},
    st.dictionaries(st.sampled_from(["include_usag", "x", 'a"include_usage', "{"]), JSON, max_size=3),
    st.sampled_from([None, False]),
    st.booleans(),
)


def asked(body: bytes) -> bytes:
    """As the session asks: with what `parse` has found."""
    request = parse({":path": "/v1/completions"}, body)
    assert request.usage != "told"
    changed = with_usage(body, request.usage)
    assert parse({":path": "/v1/completions"}, changed).usage == "told"
    return changed


@given(OBJECTS, INDENTS, st.booleans())
def test_a_stream_without_options_gets_the_one(body: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    body = body | {"model": "m", "stream": True}
    text = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()
    changed = asked(text)
    assert json.loads(changed) == body | {"stream_options": {"include_usage": True}}
    assert changed.replace(b'"stream_options":{"include_usage":true},', b"", 1) == text


@given(OBJECTS, OPTIONS, OBJECTS, INDENTS, st.booleans())
def test_of_options_only_the_one_changes(
    before: dict[str, Any], options: dict[str, Any] | None, after: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    body = {**before, "stream_options": options, **after, "model": "m", "stream": True}
    changed = json.loads(asked(json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()))
    assert changed == body | {"stream_options": {**(options or {}), "include_usage": True}}
    assert list(changed) == list(body)
    assert not options or list(changed["stream_options"]) == list(options)


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"n":1e0,"stream_options":%b}', b'{"n":1e0,"stream_options":%b}'),
        (rb'{"stream\u005foptions" : %b , "x":[ ]}', rb'{"stream\u005foptions" : %b , "x":[ ]}'),
        (b'{"stream_options":{"a":{}},"stream_options":%b}', None),
    ],
)
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (b"null", b'{"include_usage":true}'),
        (b'{"include_usage":false}', b'{"include_usage":true}'),
        (rb'{ "x" : [1.0, {"include_usage":0}] , "include_us\u0061ge":null}', rb'{ "x" : [1.0, {"include_usage":0}] , "include_us\u0061ge":true}'),
    ],
)  # fmt: skip
def test_asking_keeps_every_other_byte(body: bytes, changed: bytes | None, options: bytes, wanted: bytes) -> None:
    if changed is None:  # twice: parsers differ in which they take
        changed = body.replace(b'{"a":{}}', b'{"include_usage":true,"a":{}}')
    assert with_usage(body % options, "declined") == changed % wanted


@pytest.mark.parametrize("start", [b"{", b" \r\n\t{ "])
def test_what_a_gateway_writes_itself_gives_the_same_body(start: bytes) -> None:
    body = start + b'"stream":true,"prompt":"%b"}' % (b"x" * LARGE)
    found = changed(body, "", "silent", inserts=True)
    assert found.body is None
    assert found.insert is not None
    at, text = found.insert
    assert body[:at] + text + body[at:] == with_usage(body, "silent")


def test_all_else_goes_back_whole() -> None:
    body = b'{"model":"a","prompt":"%b","stream_options":null}' % (b"x" * LARGE)
    silent, small = body.replace(b',"stream_options":null', b""), b'{"model":"a","prompt":"p"}'
    assert changed(body, "", "told", inserts=True) == Changed()
    assert changed(body, "", "declined", inserts=True) == Changed(with_usage(body, "declined"))
    assert changed(silent, "", "silent", inserts=False) == Changed(with_usage(silent, "silent"))
    assert changed(silent, "b", "silent", inserts=True) == Changed(with_usage(with_model(silent, "b"), "silent"))
    assert changed(silent, "b", "told", inserts=True) == Changed(with_model(silent, "b"))
    assert changed(small, "", "silent", inserts=True) == Changed(with_usage(small, "silent"))


def test_both_at_once() -> None:
    body = b'{"model":"a","stream":true}'
    assert (
        with_usage(with_model(body, "b"), "silent")
        == b'{"stream_options":{"include_usage":true},"model":"b","stream":true}'
    )
