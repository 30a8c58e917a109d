"""The simulated server's KV events say what its cache holds, in the form that the picker reads."""

from typing import Any

from hypothesis import given, strategies as st

from penstock.sim import tokens
from penstock.sim.cache import BlockCache
from penstock.sim.kv_events import Publisher
from picker.kv_blocks import HeldBlocks
from picker.kv_messages import Batch, Cleared, Removed, Stored, decode

SIZE = 2  # tokens of a block


class Wire:
    """A socket that keeps what is sent."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def send_multipart(self, frames: Any, _flags: int) -> None:
        self.batches.append(decode(frames))


def made(blocks: int) -> tuple[BlockCache, Publisher, Wire]:
    cache, wire = BlockCache(blocks), Wire()
    found = Publisher(cache, SIZE)
    found._socket = wire
    return cache, found, wire


TEXTS = st.lists(st.sampled_from([b"aaaabbbb", b"ccccdddd", b"eeeeffff"]), min_size=1, max_size=4).map(b"".join)


@given(st.lists(st.tuples(st.sampled_from(["use", "clear"]), TEXTS, st.sampled_from(["", "sql"]))), st.integers(3, 6))
def test_what_was_told_is_what_is_cached(steps: list[tuple[str, bytes, str]], blocks: int) -> None:
    cache, publisher, wire = made(blocks)
    told: set[int] = set()
    held = HeldBlocks()
    for what, text, adapter in steps:
        if what == "clear":
            cache.clear()
            publisher.flush(cleared=True)
        else:
            hashes = tokens.chain(adapter, text, SIZE)[:blocks]
            publisher.know(adapter, text, hashes)
            if cache.take(hashes[:2], len(hashes[2:])):
                publisher.flush()
                cache.give_back(hashes[:2], len(hashes[2:]), hashes[2:])
            publisher.flush()
    for number, batch in enumerate(wire.batches):
        assert batch.sequence == number
        for event in batch.events:
            match event:
                case Stored():
                    told.update(event.hashes)
                    assert held.stored("a", event)  # its parent was told before
                case Removed():
                    told.difference_update(event.hashes)
                    held.removed("a", event.hashes)
                case Cleared():
                    told.clear()
                    held.clear("a")
    every = {block for _, text, adapter in steps for block in tokens.chain(adapter, text, SIZE)}
    assert told == {block for block in every if block in cache}
    assert held.count("a") == len(told)


def test_messages_that_are_dropped_are_numbered() -> None:
    cache, publisher, wire = made(4)
    for number, text in enumerate((b"aaaabbbb", b"ccccdddd", b"eeeeffff")):
        publisher.dropping = number == 1
        hashes = tokens.chain("", text, SIZE)
        publisher.know("", text, hashes)
        cache.take(hashes, 0)
        cache.give_back(hashes, 0)
        publisher.flush()
        publisher.flush()  # nothing new: no message
    assert [batch.sequence for batch in wire.batches] == [0, 2]


def test_tokens_are_written_as_a_byte_level_tokenizer_does() -> None:
    assert tokens.ids(b"\x01\x00\x00\x00\x02") == [1, 2]
    assert tokens.strings(b"a b\ncd") == ["a\u0120b\u010a", "cd"]
