"""PrefixIndex: which endpoint has probably cached which beginning of a prompt, learned from where requests were sent.

A prompt is cut into blocks of 64 tokens (256 bytes, at 4 bytes a token), and each block's hash is chained on the one before it,
so that a hash stands for everything up to its block. Compare llm-d `approx-prefix-cache-producer`, with three differences:
the match is contiguous, a chain loses its tail first, and the capacity is the server's own where it is known.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from struct import Struct

from xxhash import xxh3_64_intdigest

BLOCK_TOKENS = 64
BLOCK_BYTES = BLOCK_TOKENS * 4
_BLOCKS = Struct(f"{BLOCK_BYTES}s")
MAX_BLOCKS = 2048  # of one prompt: 131072 tokens; what follows does not tell endpoints apart any more
DEFAULT_TOKENS = 31250 * 16  # an endpoint's cache where the server does not say: 500 000 tokens
MAX_ENDPOINT_BLOCKS = 1 << 16  # of one endpoint: 4 million tokens
MAX_POOL_BLOCKS = 1 << 21  # of all endpoints of one pool: a few hundred MB at worst


def hash_blocks(prompt: bytes, model: str, salt: str = "") -> list[int]:
    """Chained hashes of the whole blocks of `prompt`, at most MAX_BLOCKS; other models and salts share nothing."""
    seed = xxh3_64_intdigest(f"{model}\0{salt}".encode())
    whole = memoryview(prompt)[: min(len(prompt) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES]
    return [seed := xxh3_64_intdigest(block, seed) for (block,) in _BLOCKS.iter_unpack(whole)]


def longest(holders: Callable[[int], int | None], hashes: Sequence[int], names: Mapping[int, str]) -> dict[str, int]:
    """For each endpoint that has the first block: how many blocks it has without a gap.

    `holders` gives the bits of the endpoints that have a block, `names` whose each bit is. The sets only shrink along a chain.
    """
    found: dict[str, int] = {}
    low, alive = 0, (holders(hashes[0]) or 0) if hashes else 0  # block `low` is held by `alive`
    while alive:
        # The last block that all of `alive` have: the end, or bisect.
        good, bad = low, len(hashes)
        if (holders(hashes[-1]) or 0) & alive == alive:
            good = bad - 1
        while bad - good > 1:
            middle = (good + bad) // 2
            if (holders(hashes[middle]) or 0) & alive == alive:
                good = middle
            else:
                bad = middle
        left = (holders(hashes[good + 1]) or 0) & alive if good + 1 < len(hashes) else 0
        lost = alive & ~left
        while lost:
            bit = lost & -lost
            found[names[bit]] = good + 1
            lost ^= bit
        low, alive = good + 1, left
    return found


class PrefixIndex:
    """For one pool. Endpoints are "ip:port". One bit of an integer stands for one endpoint, so a block costs one lookup for all.

    Invariant: an endpoint that has a block has every block before it, because `record` touches a chain from its tail to its
    head and eviction takes the block that was touched first. So the sets of endpoints only shrink along a chain, and `match`
    may search instead of walking.
    """

    __slots__ = ("_bits", "_capacity", "_lru", "_masks", "_names")

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}  # block hash -> bits of the endpoints that have it
        self._lru: dict[str, OrderedDict[int, None]] = {}
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}  # bit -> endpoint
        self._capacity: dict[str, int] = {}  # blocks; endpoints that told it

    def __len__(self) -> int:
        """Blocks held, each counted once for every endpoint that has it."""
        return sum(map(len, self._lru.values()))

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """For each endpoint that has the first block: how many blocks it has without a gap."""
        return longest(self._masks.get, hashes, self._names)

    def record(self, endpoint: str, hashes: Sequence[int]) -> None:
        """A request with these blocks was sent to `endpoint`: they are its newest, the head above all."""
        lru = self._lru.get(endpoint)
        if lru is None:
            lru = self._add(endpoint)
        bit, masks, touch = self._bits[endpoint], self._masks, lru.move_to_end
        for block in reversed(hashes):
            if block in lru:
                touch(block)
            else:
                lru[block] = None
                masks[block] = masks.get(block, 0) | bit
        self._evict(endpoint, lru)

    def forget(self, endpoint: str) -> None:
        """Its cache was emptied."""
        lru = self._lru.get(endpoint)
        if lru is not None:
            for block in lru:
                self._clear(block, self._bits[endpoint])
            lru.clear()

    def resize(self, endpoint: str, tokens: int) -> None:
        """The server says how many tokens its cache holds; 0 means that it does not say."""
        blocks = min(tokens // BLOCK_TOKENS, MAX_ENDPOINT_BLOCKS) if tokens > 0 else 0
        if blocks:
            self._capacity[endpoint] = blocks
        else:
            self._capacity.pop(endpoint, None)

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        for gone in [name for name in self._lru if name not in endpoints]:
            bit, lru = self._bits.pop(gone), self._lru.pop(gone)
            del self._names[bit]
            for block in lru:
                self._clear(block, bit)
        for gone in [name for name in self._capacity if name not in endpoints]:
            del self._capacity[gone]

    def _add(self, endpoint: str) -> OrderedDict[int, None]:
        bit = 1
        while bit in self._names:  # the lowest free bit keeps the integers short
            bit <<= 1
        self._bits[endpoint], self._names[bit] = bit, endpoint
        lru = self._lru[endpoint] = OrderedDict()
        return lru

    def _evict(self, endpoint: str, lru: OrderedDict[int, None]) -> None:
        capacity = self._capacity.get(endpoint, DEFAULT_TOKENS // BLOCK_TOKENS)
        limit = max(1, min(capacity, MAX_POOL_BLOCKS // len(self._lru)))
        bit = self._bits[endpoint]
        while len(lru) > limit:
            self._clear(lru.popitem(last=False)[0], bit)

    def _clear(self, block: int, bit: int) -> None:
        left = self._masks[block] & ~bit
        if left:
            self._masks[block] = left
        else:
            del self._masks[block]
