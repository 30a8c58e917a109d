"""Records as lines: the same bytes for the same record, back to the same value, and a mistake is named."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from picker.load import Load
from picker.record_json import RecordError, _plain, _read, config_line, plain, read, record, record_line
from tests.picker._recorded import ENDPOINTS, LOADS, plugin, traffic

ASK: dict[str, Any] = {"model": "m", "prompt": 300, "headers": {}, "image": True, "subset": ("10.0.0.1",)}
CONFIG = {"plugins": [plugin("queue-scorer")]}


def one(config: Any = CONFIG) -> Any:
    (found,), _ = traffic(config, tuple(Load(scraped=100.0) for _ in ENDPOINTS), [ASK])
    return found


@given(LOADS)
def test_a_load_is_read_as_it_was(load: Load) -> None:
    assert _read(Load, orjson.loads(orjson.dumps(_plain(load))), "load") == load


def test_a_file_has_the_configuration_once_and_a_line_for_each_record() -> None:
    found = one()
    lines = [b'{"severity": "INFO"}\n', b"ready\n", config_line(found.config), record_line(found), record_line(found)]
    assert [each.record for each in read(lines)] == [found, found]
    assert [each.number for each in read(lines)] == [4, 5]
    assert record_line(found) == record_line(found)
    assert record_line(found).count(b"\n") == 1


def test_a_record_may_carry_its_configuration() -> None:
    found = one()
    assert [each.record for each in read([record_line(found, inline=True)])] == [found]
    (found,) = (each.record for each in read([record_line(one(None))]))
    assert found is not None
    assert found.config.content is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"penstock_decision": 1}, "penstock_decision"),
        ({"config": "0123"}, "config"),
        ({"config": ["0123"]}, "config"),
        ({"config": {"digest": 1}}, "config"),
        ({"id": 5}, "id"),
        ({"why": "guessed"}, "why"),
        ({"now": "soon"}, "now"),
        ({"now": True}, "now"),
        ({"candidates": {}}, "candidates"),
        ({"candidates": []}, "candidates"),
        ({"candidates": [{"endpoint": {}}]}, "candidates[0].endpoint.address"),
        ({"request": None}, "request"),
        ({"picked": {"endpoints": ["9.9.9.9:1"], "candidates": 1, "matched": 0}}, "picked.endpoints"),
        ({"picked": {"endpoints": [], "candidates": 1, "matched": 0}}, "picked.endpoints"),
        ({"picked": {"endpoints": [], "candidates": 1, "matched": 0, "headers": [["a"]]}}, "picked.headers[0]"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], field: str) -> None:
    found = one(None)
    with pytest.raises(RecordError) as caught:
        record({**plain(found), **change}, {"default": found.config})
    assert caught.value.field == field


@pytest.mark.parametrize(("name", "value"), [("prompt_bytes", -1), ("prompt_bytes", 1 << 40), ("media", 1 << 40)])
def test_figures_that_no_request_has(name: str, value: int) -> None:
    content = plain(one(None))
    content["request"][name] = value
    with pytest.raises(RecordError, match=f"request.{name}"):
        record(content, {"default": one(None).config})


def test_what_is_wrong_with_a_line_harms_no_other() -> None:
    found = one(None)
    cut = record_line(found)[:-20]
    lines = list(read([cut, record_line(found), orjson.dumps({**plain(found), "id": 1}), b'{"penstock_config": 7}']))
    assert [bool(each.record) for each in lines] == [False, True, False, False]
    assert [each.error for each in lines] == [
        "the line is cut off, or no JSON",
        "",
        "id: must be a string, not 1",
        "penstock_config: is 7; this version of Penstock reads 2",
    ]


CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(plain(one(None)))), CONTENT, max_size=3))
def test_any_content_is_a_record_or_a_mistake(content: dict[str, Any]) -> None:
    found = one(None)
    with suppress(RecordError):
        assert record({**plain(found), **content}, {"default": found.config})
