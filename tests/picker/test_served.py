"""Lists of models: what is read of them, and who of a pool may be asked for one."""

from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, strategies as st

from picker.served import LONGEST, MOST, NoList, Served, parse

A, B, C, D = (f"10.0.0.{number}:8000" for number in (1, 2, 3, 4))
BASE = frozenset({"base"})
SQL = frozenset({"base", "sql"})


def page(*cards: Any, **more: Any) -> bytes:
    return orjson.dumps({"object": "list", "data": list(cards), **more})


def served(**lists: frozenset[str] | None) -> Served:
    """What A, B, C list, by letter; None: it does not say."""
    found = Served()
    found.update([A, B, C, D])
    for letter, names in lists.items():
        address = {"a": A, "b": B, "c": C, "d": D}[letter]
        if names is None:
            found.unknown(address)
        else:
            found.listed(address, names, at=0.0, until=30.0)
    return found


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_names_of_vllm_and_sglang() -> None:
    permission = [{"id": "modelperm-1", "object": "model_permission", "group": None}]
    base = {"id": "base", "object": "model", "owned_by": "vllm", "root": "/m", "parent": None, "permission": permission}
    assert parse(page(base, {**base, "id": "sql", "parent": "base"})) == ({"base", "sql"}, True)
    one = {"id": "base", "owned_by": "sglang", "root": "base", "parent": None, "max_model_len": 4096}
    assert parse(page(one, {**one, "id": "sql", "parent": "base"})) == ({"base", "sql", "base:sql"}, False)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b'{"object": "list"}',
        page(),  # it serves something, so it does not say what
        page("base"),
        page({"name": "base"}),
        page({"id": 7}),
        page({"id": "base"}, None),
        page({"id": "/models/x.gguf", "owned_by": "llamacpp"}),  # it takes any name
        page({"id": "x", "owned_by": "tensorrt_llm"}),
        page({"id": "x" * (LONGEST + 1)}),
        page(*({"id": str(number)} for number in range(MOST + 1))),
        b'{"data": [{"id": "base"}' + b', {"id": "x"}' * 200_000 + b"]}",
        b'{"data": [{"id": "base"}], "x": [1' + b",1" * 1_000_000 + b"]}",
        b'{"data": [{"id": "\xff"}]}',
        b'{"data": [{"id": "base"}], "x": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_list(bad: bytes) -> None:
    with pytest.raises(NoList):
        parse(bad)


def test_ten_thousand_adapters_are_read() -> None:
    permission = {
        "id": "modelperm-0123456789abcdef",
        "object": "model_permission",
        "created": 1,
        "organization": "*",
        **dict.fromkeys(("allow_create_engine", "allow_sampling", "allow_logprobs", "allow_search_indices"), True),
        "allow_view": True,
        "allow_fine_tuning": False,
        "group": None,
        "is_blocking": False,
    }
    base = {"object": "model", "created": 1, "owned_by": "vllm", "root": "/x", "parent": "base", "max_model_len": None}
    names, _ = parse(page(*({"id": f"adapter-{n}", **base, "permission": [permission]} for n in range(10_000))))
    assert len(names) == 10_000


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_none(found: bytes) -> None:
    for each in (found, b'{"data": [{"id": ' + found):
        with suppress(NoList):
            assert parse(each)


# --- who may be asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        ({"a": SQL, "b": BASE, "c": BASE, "d": BASE}, [0]),
        ({"a": SQL, "b": BASE, "c": SQL, "d": BASE}, [0, 2]),
        ({"a": SQL, "b": BASE, "c": None, "d": BASE}, [0, 2]),  # C may have it
        ({"a": BASE, "b": BASE, "c": None, "d": BASE}, [2]),
        ({"a": SQL, "b": SQL, "c": SQL, "d": SQL}, None),
        ({"a": BASE, "b": BASE, "c": BASE, "d": BASE}, None),  # nobody has it: it is the servers' to say so
        ({"a": None, "b": None, "c": None, "d": None}, None),
        ({"a": SQL}, [0]),  # the others were not asked yet
        ({"a": BASE}, [1, 2, 3]),
        ({}, None),
    ],
)
def test_who_has_the_model_or_may_have_it(lists: dict[str, Any], found: list[int] | None) -> None:
    assert served(**lists).candidates([A, B, C, D], "sql") == found


LISTS = st.dictionaries(st.sampled_from("abcd"), st.none() | st.frozensets(st.sampled_from("xyz"), min_size=1))


@given(LISTS, st.sampled_from("xyz"))
def test_somebody_is_left_and_nobody_who_has_it_is_left_out(lists: dict[str, Any], model: str) -> None:
    names = [A, B, C, D]
    found = served(**lists).candidates(names, model)
    kept = [names[i] for i in range(4) if found is None or i in found]
    having = {letter for letter, names in lists.items() if names is not None and model in names}
    assert kept
    assert {"abcd"[names.index(name)] for name in kept} >= having
    if having and all(lists.get(letter) is not None for letter in "abcd"):
        assert {"abcd"[names.index(name)] for name in kept} == having


def test_all_ranks_behind_a_port_have_its_list() -> None:
    found = Served()
    ranks = [f"{host}@{rank}" for host in (A, B) for rank in (0, 1)]
    found.update(ranks)
    found.listed(A, BASE, 0.0, 30.0)
    found.listed(B, SQL, 0.0, 30.0)
    assert found.candidates(ranks, "sql") == [2, 3]
    assert found.lacks(f"{A}@1", "sql") and not found.lacks(f"{B}@1", "sql")


def test_a_list_is_believed_for_a_while() -> None:
    found = served(a=SQL, b=BASE, c=BASE, d=BASE)
    found.listed(A, SQL, at=20.0, until=50.0)
    edition = found.edition(29.9)
    assert found.candidates([A, B, C, D], "sql") == [0]
    assert (found.age(A, 29.0), found.age(B, 29.0)) == (9.0, 29.0)
    assert found.edition(30.0) != edition
    assert found.candidates([A, B, C, D], "sql") is None  # the others may have it by now
    assert (found.age(B, 30.0), found.has(B), found.has(A)) == (None, None, SQL)
    assert found.edition(50.0) != edition
    assert found.has(A) is None


WHICH = st.sampled_from([A, B, C])
NAMES = st.frozensets(st.sampled_from("xyz"), min_size=1)
NEWS = st.one_of(
    st.tuples(st.just("update"), st.lists(WHICH)),
    st.tuples(st.just("listed"), WHICH, NAMES, st.integers(1, 9)),
    st.tuples(st.just("unknown"), WHICH),
    st.tuples(st.just("unanswered"), WHICH),
    st.tuples(st.just("doubted"), WHICH, st.sampled_from("xyz")),
)


@given(st.lists(NEWS))
def test_the_edition_is_another_one_whenever_the_candidates_are(news: list[Any]) -> None:
    found = Served()
    found.update([A, B, C])

    def seen(now: float) -> tuple[int, list[Any]]:
        return found.edition(now), [found.candidates([A, B, C], model) for model in "xyz"]

    editions = dict([seen(0.0)])
    for now, (what, *given_) in enumerate(news, 1):
        if what == "listed":
            address, names, seconds = given_
            found.listed(address, names, now, now + seconds)
        elif what == "doubted":
            found.doubted(*given_, now=now)
        else:
            getattr(found, what)(*given_)
        edition, candidates = seen(now)
        assert editions.setdefault(edition, candidates) == candidates


def test_the_same_again_is_no_other_edition() -> None:
    found = served(a=SQL, b=BASE, c=None)
    edition = found.edition(0.0)
    found.listed(A, SQL, 1.0, 31.0)
    found.unanswered(B)
    found.unknown(C)
    found.listed("9.9.9.9:1", SQL, 1.0, 31.0)  # it is gone
    found.unknown("9.9.9.9:1")
    found.unanswered("9.9.9.9:1")
    assert found.edition(1.0) == edition


def test_a_question_in_vain_leaves_what_was_known() -> None:
    found = served(a=SQL, b=BASE, c=BASE)
    found.unanswered(A)
    found.unanswered(D)  # for the first time: it may have anything
    assert found.candidates([A, B, C, D], "sql") == [0, 3]


def test_endpoints_that_are_gone_are_forgotten() -> None:
    found = served(a=SQL, b=BASE)
    found.update([B, C])
    found.update([A, B])
    assert found.has(A) is None
    assert found.candidates([A, B], "sql") == [0]  # not asked yet


def test_equal_lists_are_kept_once() -> None:
    found = served(a=frozenset({"base", "sql"}), b=frozenset({"sql", "base"}))
    assert found.has(A) is found.has(B)


# --- servers that take any name ---------------------------------------------------------------------------------------


def test_who_serves_what_it_does_not_list_may_have_anything() -> None:
    found = served(a=SQL, b=BASE, c=BASE, d=BASE)
    assert found.lacks(B, "sql")
    found.doubted(B, "sql", now=5.0)
    assert found.candidates([A, B, C, D], "sql") == [0]  # it may have got it just now: another look says so
    edition = found.edition(0.0)
    found.listed(B, BASE, at=4.0, until=30.0)  # was asked before
    assert found.candidates([A, B, C, D], "sql") == [0]
    found.listed(B, BASE, at=5.5, until=30.0)
    assert found.edition(0.0) != edition
    assert found.candidates([A, B, C, D], "sql") == [0, 1]
    assert not found.lacks(B, "other")
    assert "1 endpoints, such as 10.0.0.2:8000" in found.note([A, B])
    found.listed(B, SQL, at=6.0, until=30.0)  # now it lists something else
    assert found.lacks(B, "other")
    assert found.note([A, B]) == ""


def test_sglang_takes_any_name_for_its_base_model_and_its_own_adapters_only() -> None:
    found = served(a=SQL, b=BASE)
    found.update([A, B, C])
    edition = found.edition(0.0)
    found.listed(C, frozenset({"qwen", "chat", "qwen:chat"}), 0.0, 30.0, strict=False)
    found.listed(B, BASE, 0.0, 30.0, strict=False)
    assert found.edition(0.0) != edition
    assert found.candidates([A, B, C], "sql") is None
    assert found.candidates([A, B, C], "qwen:chat") == [2]
    assert found.candidates([A, B], "qwen:chat") is None


def test_an_adapter_that_was_loaded_in_the_meantime_tells_nothing_of_its_server() -> None:
    found = served(a=BASE, b=BASE)
    found.doubted(B, "sql", now=5.0)
    edition = found.edition(0.0)
    found.listed(B, SQL, at=5.5, until=30.0)
    assert found.edition(0.0) != edition
    assert found.candidates([A, B], "sql") == [1]
    assert found.lacks(B, "other")


def test_no_model_is_lacked_by_nobody() -> None:
    assert not served(a=SQL).lacks(A, "")
    assert not served(a=SQL).lacks("9.9.9.9:1", "sql")
