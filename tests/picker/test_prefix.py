"""PrefixIndex against a naive oracle: sets of prefixes, walked block by block."""

import random
from collections import OrderedDict

from hypothesis import given, strategies as st

from picker.prefix import BLOCK_TOKENS, MAX_BLOCKS, TOKEN_BYTES, PrefixIndex, blocks_in, hash_blocks, tokens_in


def prompt(blocks: list[int]) -> bytes:
    return b"".join(bytes([block]) * BLOCK_TOKENS * TOKEN_BYTES for block in blocks)


def hashes(blocks: list[int]) -> list[int]:
    return hash_blocks(prompt(blocks), "m")


def test_a_hash_stands_for_everything_before_it() -> None:
    one, two = hashes([1, 2, 3]), hashes([9, 2, 3])
    assert not set(one) & set(two)
    assert hashes([1, 2]) == one[:2]


def test_models_and_salts_share_nothing() -> None:
    found = [hash_blocks(prompt([1]), *seed)[0] for seed in (("m",), ("n",), ("m", "salt"), ("m\0", ""))]
    assert len(set(found)) == 4


def test_only_whole_blocks_count_and_not_too_many() -> None:
    assert hash_blocks(b"x" * (BLOCK_TOKENS * TOKEN_BYTES - 1), "m") == []
    assert len(hash_blocks(bytes((tokens_in(MAX_BLOCKS) + 9999) * TOKEN_BYTES), "m")) == MAX_BLOCKS


@given(st.integers(0, tokens_in(MAX_BLOCKS) + 5000))
def test_what_of_a_prompt_is_in_no_block_is_little(tokens: int) -> None:
    found = len(hash_blocks(bytes(tokens * TOKEN_BYTES), "m"))
    assert found == blocks_in(tokens)
    assert tokens_in(found) <= tokens
    if found < MAX_BLOCKS:
        assert tokens < tokens_in(found + 1)
        assert tokens - tokens_in(found) < max(BLOCK_TOKENS, tokens / 32 + 1)


def test_blocks_of_every_size_are_chained() -> None:
    whole = random.Random(1).randbytes(tokens_in(MAX_BLOCKS) * TOKEN_BYTES)
    before = hash_blocks(whole, "m")
    assert len(set(before)) == MAX_BLOCKS
    for block in (0, 127, 128, 223, 224, 319, 320, MAX_BLOCKS - 1):
        at = tokens_in(block) * TOKEN_BYTES
        changed = hash_blocks(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], "m")
        assert changed[:block] == before[:block]
        assert not set(changed[block:]) & set(before[block:])


def test_a_cache_is_as_large_as_the_tokens_it_holds() -> None:
    index, deep = PrefixIndex(), hash_blocks(bytes(20000 * TOKEN_BYTES), "m")
    index.resize("a", 10000)
    index.record("a", deep)
    assert tokens_in(index.match(deep)["a"]) == 9984  # 128 blocks of 64, and 7 of 256
    index.record("a", hashes([1]))
    assert tokens_in(index.match(deep)["a"]) == 9728


def test_the_match_stops_at_the_first_gap() -> None:
    index = PrefixIndex()
    index.record("a", hashes([1, 2, 3, 4]))
    index.record("b", hashes([1, 2, 9, 4]))
    assert index.match(hashes([1, 2, 3, 4, 5])) == {"a": 4, "b": 2}
    assert index.match(hashes([7])) == {}
    assert index.match([]) == {}


def test_a_chain_loses_its_tail_first() -> None:
    index = PrefixIndex()
    index.resize("a", 4 * BLOCK_TOKENS)
    index.record("a", hashes([1, 2, 3]))
    index.record("a", hashes([5, 6]))
    assert index.match(hashes([1, 2, 3])) == {"a": 2}
    assert index.match(hashes([5, 6])) == {"a": 2}
    index.record("a", hashes([1, 2, 3, 4, 5, 6, 7]))  # longer than the cache: the head stays
    assert index.match(hashes([1, 2, 3, 4, 5, 6, 7])) == {"a": 4}
    assert len(index) == 4


def test_an_endpoint_that_is_gone_leaves_nothing() -> None:
    index = PrefixIndex()
    for name in "abc":
        index.record(name, hashes([1, 2]))
    index.retain({"b"})
    assert index.match(hashes([1, 2])) == {"b": 2}
    index.record("d", hashes([1]))  # takes the bit of one that is gone
    assert index.match(hashes([1, 2])) == {"b": 2, "d": 1}
    index.retain(())
    assert len(index) == 0
    assert not index._masks


class Naive:
    """The same law, written for reading."""

    def __init__(self) -> None:
        self.lru: dict[str, OrderedDict[int, None]] = {}
        self.limits: dict[str, int] = {}

    def record(self, endpoint: str, found: list[int]) -> None:
        lru = self.lru.setdefault(endpoint, OrderedDict())
        for block in reversed(found):
            lru.pop(block, None)
            lru[block] = None
        while len(lru) > self.limits.get(endpoint, 10**9):
            lru.popitem(last=False)

    def match(self, found: list[int]) -> dict[str, int]:
        out = {}
        for endpoint, lru in self.lru.items():
            n = 0
            while n < len(found) and found[n] in lru:
                n += 1
            if n:
                out[endpoint] = n
        return out


CHAINS = st.lists(st.integers(0, 2), max_size=9)
NAMES = st.sampled_from("abcd")
STEPS = st.one_of(
    st.tuples(st.just("record"), NAMES, CHAINS),
    st.tuples(st.just("resize"), NAMES, st.integers(1, 12)),
    st.tuples(st.just("retain"), st.sets(NAMES), st.none()),
    st.tuples(st.just("match"), NAMES, CHAINS),
)


@given(st.lists(STEPS, max_size=40))
def test_the_index_agrees_with_the_oracle(steps: list[tuple[str, object, object]]) -> None:
    index, naive = PrefixIndex(), Naive()
    for step, who, what in steps:
        match step:
            case "record":
                index.record(who, hashes(what))
                naive.record(who, hashes(what))
            case "resize":
                index.resize(who, what * BLOCK_TOKENS)
                naive.limits[who] = what
            case "retain":
                index.retain(who)
                naive.lru = {name: lru for name, lru in naive.lru.items() if name in who}
                naive.limits = {name: limit for name, limit in naive.limits.items() if name in who}
            case "match":
                assert index.match(hashes(what)) == naive.match(hashes(what))
    assert len(index) == sum(map(len, naive.lru.values()))
    assert set(index._masks) == {block for lru in naive.lru.values() for block in lru}
