"""The model's name in answers: the script as LuaJIT runs it, on texts cut anywhere. With a real Envoy: tests/e2e/test_rewrite.py."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from lupa.luajit21 import LuaRuntime

from penstock.offline import envoy
from tests.test_golden import validate
from tests.xds_server.resolve_world import gateway, graph, pool, route, rule, service, thing
from xds_server.model.graph import EVERYTHING, Graph
from xds_server.snapshot import LDS, RDS
from xds_server.translate import DataPlane, translate
from xds_server.translate.restore import SCRIPT

LUA = LuaRuntime(encoding=None)
LUA.execute(SCRIPT.encode())
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


# --- who wakes it -----------------------------------------------------------------------------------------------------

TO_POOL = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}]
SET = {
    "type": "RequestHeaderModifier",
    "requestHeaderModifier": {"set": [{"name": "X-Llm-D-Model-Name-Rewrite", "value": "b"}]},
}


def resources(found: Graph, kind: str) -> bytes:
    snapshot = translate(found, DataPlane())[EVERYTHING]
    return b"".join(each.body for each in snapshot.of_type(kind).values())


def rewrite(name: str) -> Any:
    return thing(
        "InferenceModelRewrite", "w", {"poolRef": {"name": name}, "rules": [{"targets": [{"modelRewrite": "b"}]}]}
    )


def test_it_is_there_for_pools_and_awake_where_models_are_rewritten() -> None:
    plain = graph(gateway(), pool(), route("r", rule(to=TO_POOL)))
    of_pool = graph(gateway(), pool(), route("r", rule(to=TO_POOL)), rewrite("p"))
    of_route = graph(gateway(), pool(), route("r", rule(to=TO_POOL, filters=[SET])))
    other = graph(gateway(), pool(), route("r", rule(to=TO_POOL)), rewrite("q"))
    assert [b"restore_model" in resources(each, RDS) for each in (plain, other, of_pool, of_route)] == [
        False,
        False,
        True,
        True,
    ]
    # A rewrite that comes or goes changes routes, never listeners: those would end long streams.
    assert resources(plain, LDS) == resources(of_pool, LDS) == resources(of_route, LDS)
    assert b"envoy_on_response" in resources(plain, LDS)


def test_pools_of_others_have_none() -> None:
    picker = pool(spec={"endpointPickerRef": {"name": "epp", "port": {"number": 9002}}})
    epp = service("epp", service_ports=[{"port": 9002}])
    found = graph(gateway(), picker, epp, route("r", rule(to=TO_POOL)), rewrite("p"), foreign_pickers=True)
    assert b"restore_model" not in resources(found, RDS)
    assert b"envoy_on_response" not in resources(found, LDS)


def without_lua(found: Any) -> Any:
    """The same configuration with an extension that no Envoy has in the place of Lua."""
    if isinstance(found, list):
        return [without_lua(each) for each in found]
    if not isinstance(found, dict):
        return found
    if "extensions.filters.http.lua" in found.get("@type", ""):
        return {
            "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": "type.googleapis.com/penstock.NoLua",
        }
    return {key.replace("http.lua", "http.nolua"): without_lua(each) for key, each in found.items()} | (
        {"name": "envoy.filters.http.nolua"} if found.get("name") == "envoy.filters.http.lua" else {}
    )


@pytest.mark.envoy
def test_an_envoy_without_lua_takes_the_same_configuration(tmp_path: Path) -> None:
    found = graph(gateway(), pool(), route("r", rule(to=TO_POOL)), rewrite("p"))
    resources_ = envoy(translate(found, DataPlane(bind="127.0.0.1"))[EVERYTHING])
    other = without_lua(resources_)
    assert str(other).count("NoLua") == 2
    validate(other, tmp_path)
    wanted = json.dumps(other).replace('"isOptional": true', '"isOptional": false')
    with pytest.raises(AssertionError, match="nolua"):  # it is this word that does it
        validate(json.loads(wanted), tmp_path)
