"""KV events on the wire: what vLLM 0.32, SGLang 0.5.23 and older ones send, and what nobody should."""

import contextlib

import msgspec
import pytest
from hypothesis import given, strategies as st

from picker.kv_messages import Batch, Cleared, Malformed, Removed, Stored, decode
from tests.picker._kv import frames, stored

TOKENS = bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])


def raw(events: object, sequence: int = 3) -> tuple[bytes, bytes, bytes]:
    return b"kv@pod@model", sequence.to_bytes(8, "big"), msgspec.msgpack.encode(events)


def test_maps_as_vllm_writes_them_now() -> None:
    found = decode(frames(7, stored([11, 12], None, [1, 2, 3, 4], 2, group=0), Removed([11], 0), Cleared()))
    assert found == Batch(7, (Stored([11, 12], None, TOKENS, 2, [], 0), Removed([11], 0), Cleared()), 0)


def test_arrays_as_vllm_and_sglang_wrote_them() -> None:
    events = [
        ["BlockStored", [11, -12], 10, [1, 2, 3, 4], 2, None, "GPU", None],
        ["BlockStored", [b"hash"], None, [1, 2, 3, 4], 4, 5],
        ["BlockRemoved", [11]],
        ["AllBlocksCleared"],
    ]
    assert decode(raw([1.0, events])).events == (
        Stored([11, -12], 10, TOKENS, 2, []),
        Stored([b"hash"], None, TOKENS, 4, [b"5"], lora="5"),
        Removed([11]),
        Cleared(),
    )


def test_a_batch_may_be_a_map_too() -> None:
    found = decode(raw({"ts": 1.0, "events": [["AllBlocksCleared"]], "data_parallel_rank": 2}))
    assert found == Batch(3, (Cleared(),), 2)


def test_a_hash_is_made_of_more_than_tokens() -> None:
    event = {
        "type": "BlockStored", "block_hashes": [1, 2], "parent_block_hash": None, "token_ids": [1, 2, 3, 4], "block_size": 2,
        "lora_id": 1, "medium": "GPU", "lora_name": "sql", "extra_keys": [["sql", "salt"], ["sql"]],
    }  # fmt: skip
    (found,) = decode(raw([0, [event]])).events
    assert isinstance(found, Stored)
    assert (found.extra, found.lora) == ([b"sql\0salt", b"sql"], "sql")
    older = {**event, "extra_keys": None}
    (found,) = decode(raw([0, [older]])).events
    assert isinstance(found, Stored)
    assert found.extra == [b"sql", b"sql"]


def test_maps_as_sglang_writes_them_now() -> None:
    """The salt is a field of its own, and in our keys where vLLM has it: in the first block of a prompt."""
    first = {
        "type": "BlockStored", "block_hashes": [-5], "parent_block_hash": None, "token_ids": [1, 2], "block_size": 2, "lora_id": None,
        "medium": "GPU", "cache_salt": "salt", "session_id": "s", "lora_name": "sql",
    }  # fmt: skip
    second = {**first, "block_hashes": [6], "parent_block_hash": -5, "token_ids": [3, 4]}
    plain = {key: value for key, value in first.items() if key not in ("cache_salt", "lora_name")}
    lower = {**first, "medium": "CPU_PINNED"}
    found = decode(raw([0.5, [first, second, plain, lower], 1]))
    assert found.rank == 1
    assert found.events == (
        Stored([-5], None, TOKENS[:8], 2, [b"sql\0salt"], lora="sql"),
        Stored([6], -5, TOKENS[8:], 2, [b"sql"], lora="sql"),
        Stored([-5], None, TOKENS[:8], 2, []),
    )


def test_what_does_not_stand_for_a_prefix_on_the_accelerator_is_left_out() -> None:
    base = {"type": "BlockStored", "block_hashes": [1], "parent_block_hash": None, "token_ids": [1], "block_size": 1}
    events = [
        {**base, "medium": "CPU"},
        {**base, "block_size": 2},  # not full
        {**base, "medium": "GPU", "kv_cache_spec_kind": "sliding_window"},
        {"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"},
        {"type": "SomethingNew"},
    ]
    assert decode(raw([0, events])).events == ()


@pytest.mark.parametrize(
    "events",
    [
        [["BlockStored", [1], None, [-1, 2], 2]],
        [["BlockStored", [1], None, [2**40, 2], 2]],
        [["BlockStored", [1], None, ["a", 2], 2]],
        [["BlockStored", [1], None, [], 0]],
        [["BlockStored", "hash", None, [1], 1]],
        [["BlockStored", [1], [], [1], 1]],
        [["BlockStored"]],
        [[]],
        [None],
        7,
        None,
    ],
)
def test_what_nobody_should_send_is_malformed(events: object) -> None:
    with pytest.raises(Malformed):
        decode(raw([0, events]))


@pytest.mark.parametrize("found", [(), (b"",), (b"", b"1", b""), (b"", bytes(8), b""), (b"", bytes(8), b"\xc1")])
def test_frames_that_are_none(found: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        decode(found)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=3) | st.binary(max_size=3)
    | st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared"]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["type", "events", "block_hashes"]), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES | st.lists(VALUES, min_size=2, max_size=3))
def test_nothing_but_malformed_is_ever_raised(value: object) -> None:
    with contextlib.suppress(Malformed):
        decode(raw(value))


@given(st.binary(max_size=60))
def test_nor_by_bytes(value: bytes) -> None:
    with contextlib.suppress(Malformed):
        decode((b"", bytes(8), value))
