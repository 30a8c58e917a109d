"""Blocks are counted right whatever happens, and chains are evicted from their tails."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.sim.cache import BlockCache


def test_hits_stop_at_the_first_hole() -> None:
    cache = BlockCache(10)
    assert cache.take([1, 2], 0)
    assert cache.take([4], 0)
    assert (cache.hits([1, 2, 3, 4]), cache.hits([4]), cache.hits([9]), cache.hits([])) == (2, 1, 0, 0)


def test_the_tail_goes_before_the_head_and_the_old_before_the_new() -> None:
    cache = BlockCache(4)
    assert cache.take([1, 2], 0)
    cache.give_back([1, 2], 0)
    assert cache.take([5, 6], 0)
    cache.give_back([5, 6], 0)
    assert cache.take([], 1)
    assert [block in cache for block in (1, 2, 5, 6)] == [True, False, True, True]
    assert cache.take([7], 1)
    assert [block in cache for block in (1, 5, 6)] == [False, True, False]


def test_shared_blocks_count_once_and_lack_of_room_changes_nothing() -> None:
    cache = BlockCache(3)
    assert cache.take([1, 2], 0)
    assert cache.take([1, 2], 1)
    assert cache.used == 3
    assert not cache.take([1, 3], 0)
    assert not cache.take([], 1)
    assert cache.used == 3


def test_an_answer_can_be_hit_by_the_next_turn() -> None:
    cache = BlockCache(8)
    assert cache.take([1], 3)
    cache.give_back([1], 3, filled=[2, 3])
    assert (cache.hits([1, 2, 3, 4]), cache.used, cache.cached) == (3, 0, 3)
    cache.clear()
    assert cache.cached == 0


class Counting(RuleBasedStateMachine):
    """Uses come and go in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = BlockCache(6)
        self.uses: list[tuple[list[int], int]] = []

    @rule(start=st.integers(0, 2), length=st.integers(0, 4), private=st.integers(0, 3))
    def take(self, start: int, length: int, private: int) -> None:
        chain = [start * 10 + index for index in range(length)]
        if self.cache.take(chain, private):
            self.uses.append((chain, private))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.uses:
            chain, private = self.uses.pop(data.draw(st.integers(0, len(self.uses) - 1)))
            filled = [
                (chain[0] if chain else 90) + len(chain) + index for index in range(data.draw(st.integers(0, private)))
            ]
            self.cache.give_back(chain, private, filled)

    @invariant()
    def counts_are_right(self) -> None:
        blocks = {block for chain, _ in self.uses for block in chain}
        assert self.cache.used == len(blocks) + sum(private for _, private in self.uses) <= 6
        assert self.cache.cached + self.cache._private <= 6
        assert all(block in self.cache for block in blocks)


TestCounting = Counting.TestCase
