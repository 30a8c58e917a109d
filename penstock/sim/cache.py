"""KV blocks and the prefix cache, as in vLLM: full blocks are shared by hash; what nobody uses stays until it is evicted.

Eviction is least recently used first, and the tail of a chain before its head: a chain without its head is useless.
"""

from collections import OrderedDict
from collections.abc import Sequence


class BlockCache:
    """Counts blocks; those with a hash are shared, the others belong to one request and hold what is not a full block."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._users: dict[int, int] = {}  # hash -> requests that use the block now
        self._idle: OrderedDict[int, None] = OrderedDict()  # cached and unused, the next to be evicted first
        self._private = 0
        self.changes: list[tuple[bool, int]] | None = None  # if set: (whether it came, hash) of each block, in order

    @property
    def used(self) -> int:
        return len(self._users) + self._private

    @property
    def cached(self) -> int:
        """Blocks that a prompt can hit."""
        return len(self._users) + len(self._idle)

    def __contains__(self, block: int) -> bool:
        return block in self._users or block in self._idle

    def hits(self, hashes: Sequence[int]) -> int:
        """How many blocks of a chain are cached, from its head to the first hole."""
        for index, block in enumerate(hashes):
            if block not in self:
                return index
        return len(hashes)

    def take(self, hashes: Sequence[int], private: int) -> bool:
        """Use the blocks of a chain and some private ones; False, and nothing happens, when there is not enough room."""
        new = sum(block not in self._users for block in hashes)
        if self.used + new + private > self.blocks:
            return False
        for block in hashes:
            if block not in self:
                self._tell(True, block)
            self._idle.pop(block, None)
            self._users[block] = self._users.get(block, 0) + 1
        self._private += private
        self._evict()
        return True

    def give_back(self, hashes: Sequence[int], private: int, filled: Sequence[int] = ()) -> None:
        """End a use. `filled`: the hashes that follow the chain, of private blocks that are full now and can be shared."""
        self._private -= private
        for block in filled:
            if block not in self:
                self._tell(True, block)
        for block in reversed(filled):
            if block not in self._users:
                self._idle[block] = None
                self._idle.move_to_end(block)
        for block in reversed(hashes):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._idle[block] = None
        self._evict()

    def clear(self) -> None:
        """Forget what is not in use."""
        for block in self._idle:
            self._tell(False, block)
        self._idle.clear()

    def _evict(self) -> None:
        while self._idle and self.used + len(self._idle) > self.blocks:
            self._tell(False, self._idle.popitem(last=False)[0])

    def _tell(self, came: bool, block: int) -> None:
        if self.changes is not None:
            self.changes.append((came, block))
