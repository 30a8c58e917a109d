"""What endpoints hold as their events say, and when that is believed."""

from array import array
from dataclasses import replace

from hypothesis import given, strategies as st

from picker.facts import Decision, Outcome
from picker.kv_links import Rendered
from picker.kv_messages import Batch, Cleared, Removed
from picker.precise import BELIEVED, SPECULATIVE, Precise, Unlinked
from picker.prefix import BLOCK_TOKENS, PrefixIndex, hash_blocks
from picker.request import InferenceRequest
from tests.picker._kv import frames, stored
from tests.picker.test_inflight import decision

SIZE = 16  # tokens of a block; four of them are a block of bytes
A, B = "10.0.0.1:8000", "10.0.0.2:8000"


def ids(*blocks: int) -> list[int]:
    """64 tokens for each number."""
    return [1000 * block + index for block in blocks for index in range(BLOCK_TOKENS)]


class World:
    """A pool of two, and prompts of token ids: blocks of tokens end where blocks of bytes do."""

    def __init__(self) -> None:
        self.prefixes = PrefixIndex()
        self.precise = Precise(self.prefixes)
        self.sequences = {A: 0, B: 0}

    def tell(self, who: str, *events, skip: int = 0, now: float = 0.0) -> None:
        self.precise.apply(who, Batch(self.sequences[who] + skip, events), now)
        self.sequences[who] += skip + 1

    def stores(self, who: str, *blocks: int, now: float = 0.0) -> None:
        self.tell(who, stored(range(len(ids(*blocks)) // SIZE), None, ids(*blocks), SIZE), now=now)

    def hashes(self, *blocks: int) -> list[int]:
        return hash_blocks(array("I", ids(*blocks)).tobytes(), "m")

    def link(self, *blocks: int) -> int:
        prompt = array("I", ids(*blocks)).tobytes()
        request = InferenceRequest("/v1/completions", model="m", prompt=prompt)
        return self.precise.link(Unlinked("ns/p", "m", request, self.hashes(*blocks)), prompt, None)

    def match(self, *blocks: int, now: float = 100.0) -> dict[str, int]:
        hashes = self.hashes(*blocks)
        found = self.precise.match(hashes, self.prefixes.match(hashes), now)
        return {name: count for name, count in found.items() if count}

    def sends(self, who: str, *blocks: int, now: float, id_: str = "x") -> None:
        made = replace(decision(id_, who), prompt_tokens=len(blocks) * BLOCK_TOKENS, matched_tokens=0)
        self.precise.decided(made, self.hashes(*blocks), now)
        self.prefixes.record(who, self.hashes(*blocks))

    def ends(self, who: str, cached: int | None, tokens: int, id_: str = "x") -> None:
        self.precise.ended(outcome(decision(id_, who), who, cached, tokens))

    def mode(self, who: str) -> str:
        return self.precise.feeds[who].mode


def outcome(made: Decision, endpoint: str, cached: int | None, tokens: int) -> Outcome:
    return Outcome(
        id=made.id, time=0.0, pool=made.pool, model="m", target_model="m", objective="", priority=0, fairness_id="",
        streaming=True, status=200, reason="", endpoint=endpoint, input_tokens=tokens, cached_tokens=cached,
    )  # fmt: skip


def test_what_a_server_holds_is_known_wherever_the_request_went() -> None:
    world = World()
    world.stores(A, 1, 2, 3)
    world.stores(B, 1)
    assert world.match(1, 2, 3) == {}  # nobody knows yet which bytes these tokens are
    assert world.link(1, 2, 3) == 3
    assert world.match(1, 2, 3) == {A: 3, B: 1}
    assert world.match(1, 2, 9) == {A: 2, B: 1}
    assert world.match(9) == {}


def test_what_was_evicted_is_known_at_once() -> None:
    world = World()
    world.stores(A, 1, 2, 3)
    world.link(1, 2, 3)
    world.sends(A, 1, 2, 3, now=0.0)
    world.tell(A, Removed(list(range(4, 12))))
    assert world.match(1, 2, 3) == {A: 1}
    world.tell(A, Removed(list(range(4))))
    assert world.match(1, 2, 3) == {}


def test_a_cache_that_was_emptied_is_empty_although_something_was_just_sent_there() -> None:
    world = World()
    world.stores(A, 1, 2)
    world.link(1, 2)
    world.sends(A, 1, 2, now=99.9)
    world.tell(A, Cleared())
    assert world.match(1, 2) == {}
    assert world.mode(A) == "precise"


def test_what_was_just_sent_counts_until_events_can_tell() -> None:
    world = World()
    world.stores(A, 7)
    world.stores(B, 1, 2)
    world.link(1, 2)
    world.sends(A, 1, 2, now=100.0)
    assert world.match(1, 2, now=100.0 + SPECULATIVE) == {A: 2, B: 2}
    assert world.match(1, 2, now=100.1 + SPECULATIVE) == {B: 2}


def test_blocks_that_are_not_linked_are_known_from_where_requests_went() -> None:
    world = World()
    world.stores(A, 1, 2)
    world.stores(B, 1)
    world.link(1, 2)
    for who in (A, B):
        world.sends(who, 1, 2, 3, now=0.0)
    assert world.match(1, 2, 3) == {A: 3, B: 1}  # B lacks what A has, so it lacks what follows too


def test_endpoints_without_events_are_as_before() -> None:
    world = World()
    world.stores(A, 1)
    world.link(1)
    world.sends(B, 1, now=0.0)
    assert world.match(1) == {A: 1, B: 1}


def test_a_gap_ends_what_was_known_and_requests_tell_instead() -> None:
    world = World()
    world.stores(A, 1, 2)
    world.link(1, 2)
    world.sends(A, 1, now=0.0)
    world.tell(A, skip=1)
    assert (world.mode(A), world.precise.feeds[A].gaps, world.precise.held.count(A)) == ("approximate", 1, 0)
    assert world.match(1, 2) == {A: 1}


def test_a_message_that_cannot_be_read_is_a_gap() -> None:
    world = World()
    world.precise.received(A, frames(0, stored([0, 1, 2, 3], None, ids(1), SIZE)), 0.0)
    world.link(1)
    assert world.match(1) == {A: 1}
    world.precise.received(A, (b"", (1).to_bytes(8, "big"), b"\xc1"), 0.0)
    assert (world.mode(A), world.match(1), world.precise.feeds[A].malformed) == ("approximate", {}, 1)
    world.precise.received(A, frames(2), 0.0)
    assert world.precise.feeds[A].gaps == 0  # it is the same one


def test_who_is_heard_of_late_is_doubted_until_it_agrees() -> None:
    world = World()
    world.sequences[A] = 40
    world.stores(A, 1, 2, 3, 4)
    world.link(1, 2, 3, 4)
    assert world.mode(A) == "approximate"
    for number in range(3):
        world.sends(A, 1, 2, 3, 4, now=float(number))
        world.ends(A, 240, 4 * 64)
    assert world.mode(A) == "precise"


def test_who_holds_less_than_it_told_of_loses_trust_and_regains_it() -> None:
    world = World()
    world.stores(A, 1, 2, 3, 4, 5, 6)
    world.link(1, 2, 3, 4, 5, 6)
    trust = [1.0]
    for cached in (0, 0, 0, 0, 0, 380, 380, 380, 380):
        world.sends(A, 1, 2, 3, 4, 5, 6, now=-1.0)
        world.ends(A, cached, 6 * 64)
        trust.append(world.precise.feeds[A].trust)
    assert trust[:6] == sorted(trust[:6], reverse=True)
    assert trust[5] < BELIEVED
    assert trust[5:] == sorted(trust[5:])
    assert world.mode(A) == "precise"


def test_who_stores_blocks_and_says_nothing_is_not_believed() -> None:
    world = World()
    world.stores(A, 1, 2)
    world.link(1, 2)
    for number in range(2):
        world.sends(A, 1, 2, now=1.0 + number)
        assert world.mode(A) == "precise"
        world.ends(A, 0, 128)
    assert world.mode(A) == "approximate"
    world.stores(A, 1, 2, now=5.0)
    assert world.precise.held.count(A) == 8
    assert world.mode(A) == "approximate"  # until what it holds agrees with what it reports


def test_a_connection_that_is_lost_is_believed_again_when_nothing_was_missed() -> None:
    world = World()
    world.stores(A, 1)
    world.link(1)
    world.precise.disconnected(A)
    assert (world.mode(A), world.match(1)) == ("approximate", {})
    world.tell(A)
    assert (world.mode(A), world.match(1)) == ("precise", {A: 1})


def test_a_process_that_begins_anew_holds_nothing() -> None:
    world = World()
    world.stores(A, 1, 2)
    world.link(1, 2)
    world.sends(A, 1, 2, now=99.9)
    world.sequences[A] = 0
    world.stores(A, 1)
    assert (world.match(1, 2), world.mode(A)) == ({A: 1}, "precise")


def test_who_fills_up_is_known_again() -> None:
    world = World()
    world.stores(A, 1)
    world.precise.resize(A, 8)
    world.tell(A, skip=3)
    world.stores(A, 1)
    assert world.mode(A) == "approximate"
    world.tell(A, stored(range(10, 14), None, ids(2), SIZE))
    assert world.mode(A) == "precise"


def test_a_tokenizer_is_asked_for_what_comes_again_and_once() -> None:
    world = World()
    hashes = world.hashes(1, 2)

    def wants() -> str:
        return world.precise.wants(hashes, world.prefixes.match(hashes))

    world.prefixes.record(A, hashes)
    assert not wants()  # nobody publishes events
    world.stores(A, 1)
    assert wants() == "again"
    world.link(1, 2)
    assert not wants()
    hashes = world.hashes(3, 4)
    assert wants() == "new"  # if there is time
    world.prefixes.record(A, hashes)
    assert wants() == "again"
    world.precise.link(Unlinked("ns/p", "m", InferenceRequest("/x", prompt=b"?"), hashes), b"", None)
    assert not wants()  # in vain


def test_a_size_that_came_while_a_tokenizer_answered_is_asked_for_again() -> None:
    """SGLang tells the text of so many tokens at a time as the sizes of before were multiples of."""
    world = World()
    hashes = world.hashes(1, 2)
    world.prefixes.record(A, hashes)
    world.stores(A, 1)
    prompt = b"x" * 4 * 2 * BLOCK_TOKENS
    asked = Unlinked("ns/p", "m", InferenceRequest("/v1/completions", model="m", prompt=prompt), hashes)
    tokens = array("I", ids(1, 2)).tobytes()
    half = len(prompt) // 2
    assert world.precise.link(asked, tokens, Rendered(prompt, [half, 2 * half], step=BLOCK_TOKENS)) == 0
    assert world.precise.wants(hashes, world.prefixes.match(hashes)) == "again"
    ends = range(half // 4, len(prompt) + 1, half // 4)
    assert world.precise.link(asked, tokens, Rendered(prompt, ends, step=SIZE)) > 0


def test_adapters_have_blocks_of_their_own() -> None:
    world = World()
    world.tell(A, stored(range(4), None, ids(1), SIZE, lora="m"))
    world.tell(B, stored(range(4), None, ids(1), SIZE))
    world.link(1)
    assert world.match(1) == {A: 1}  # "m" is the adapter that was asked for


def test_adapters_of_sglang_are_asked_for_with_their_base() -> None:
    world = World()
    world.tell(A, stored(range(4), None, ids(1), SIZE, lora="sql"))
    prompt = array("I", ids(1)).tobytes()
    for model, holders in (("m:sql", {A: 1}), ("m:other", {})):
        hashes = hash_blocks(prompt, model)
        request = InferenceRequest("/v1/completions", model=model, prompt=prompt)
        world.precise.link(Unlinked("ns/p", model, request, hashes), prompt, None)
        assert {name: n for name, n in world.precise.match(hashes, {}, 100.0).items() if n} == holders


def test_of_several_groups_of_layers_one_is_followed() -> None:
    world = World()
    world.tell(A, stored(range(4), None, ids(1), SIZE, group=1), stored(range(4), None, ids(2), SIZE, group=2))
    world.tell(A, Removed([0], 2))
    world.link(1)
    world.link(2)
    assert (world.match(1), world.match(2)) == ({A: 1}, {})


def test_few_sizes_of_blocks_are_taken() -> None:
    world = World()
    for size in range(1, 9):
        name = f"10.0.0.{size}:8000"
        world.sequences[name] = 0
        world.tell(name, stored([1], None, range(size), size), stored([2], None, range(9), 9))
    assert sorted(world.precise.links) == [1, 2, 3, 4]
    assert world.precise.held.count("10.0.0.1:8000") == 1  # and one of each engine
    world.precise.retain({"10.0.0.2:8000"})
    assert sorted(world.precise.links) == [2]


def test_who_is_gone_leaves_nothing() -> None:
    world = World()
    world.stores(A, 1)
    world.precise.retain(())
    assert (world.precise.feeds, world.precise.held.names) == ({}, {})


@given(st.lists(st.tuples(st.sampled_from(["store", "remove", "clear", "gap"]), st.integers(1, 3)), max_size=12))
def test_no_gap_leaves_anything_that_is_not_so(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: what is said of a precise endpoint, and was not sent there, is what it really holds."""
    world, truth = World(), set()
    for one in (1, 2, 3):
        world.link(one)
    for what, block in steps:
        hashes = [block * 10 + index for index in range(4)]
        match what:
            case "store":
                world.tell(A, *([] if block in truth else [stored(hashes, None, ids(block), SIZE)]))
                truth.add(block)
            case "remove":
                world.tell(A, Removed(hashes if block in truth else []))
                truth.discard(block)
            case "clear":
                world.tell(A, Cleared())
                truth.clear()
            case "gap":  # it was told elsewhere that this block is gone
                truth.discard(block)
                world.sequences[A] += 1
                world.tell(A)
        if A in world.precise.feeds:
            for one in (1, 2, 3):
                assert one in truth or not world.match(one)
