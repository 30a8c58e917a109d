"""PrefixIndex: which endpoint has probably cached which beginning of a prompt, learned from where requests were sent.

A prompt is cut into blocks, and each block's hash is chained on the one before it, so that a hash stands for everything up to
its block. The blocks grow with the depth, from 64 tokens to 4096: what of a match is not seen stays below 1/32 of it, and a
prompt of 100 000 tokens has 290 blocks instead of 1600. Compare llm-d `approx-prefix-cache-producer`, with three more differences:
the match is contiguous, a chain loses its tail first, and the capacity is the server's own where it is known.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from itertools import accumulate
from struct import Struct

from xxhash import xxh3_64_intdigest

TOKEN_BYTES = 4  # on the average; a token of a prompt that is token ids takes as much
BLOCK_TOKENS = 64  # of the first blocks
# (tokens of a block, how many of them), one after the other.
STEPS = ((BLOCK_TOKENS, 128), (256, 96), (1024, 96), (4096, 96))
# Of one prompt: 524 288 tokens; what follows does not tell endpoints apart.
MAX_BLOCKS = sum(count for _, count in STEPS)
_SIZES = tuple(size for size, count in STEPS for _ in range(count))
TOKENS = (0, *accumulate(_SIZES))  # of so many blocks: `tokens_in` for loops
_STRUCTS = tuple((Struct(f"{size * TOKEN_BYTES}s"), size * TOKEN_BYTES, count) for size, count in STEPS)
_MANY = 24  # endpoints that are as quickly found among a hundred as one by one
DEFAULT_TOKENS = 31250 * 16  # an endpoint's cache where the server does not say: 500 000 tokens
MAX_ENDPOINT_BLOCKS = 1 << 16  # of one endpoint: 4 million tokens at least
MAX_POOL_BLOCKS = 1 << 21  # of all endpoints of one pool: a few hundred MB at worst


def tokens_in(blocks: int) -> int:
    """Tokens that the first blocks of any prompt have, at most MAX_BLOCKS."""
    return TOKENS[blocks]


def blocks_in(tokens: float) -> int:
    """Whole blocks that so many tokens are."""
    return bisect_right(TOKENS, tokens) - 1


def hash_blocks(prompt: bytes, model: str, salt: str = "") -> list[int]:
    """Chained hashes of the whole blocks of `prompt`, at most MAX_BLOCKS; other models and salts share nothing."""
    seed = xxh3_64_intdigest(f"{model}\0{salt}".encode())
    found: list[int] = []
    left = memoryview(prompt)
    for blocks, size, most in _STRUCTS:
        whole = min(len(left) // size, most) * size
        found += [seed := xxh3_64_intdigest(block, seed) for (block,) in blocks.iter_unpack(left[:whole])]
        if whole < most * size:
            break
        left = left[whole:]
    return found


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
        if lost.bit_count() > _MANY:
            found |= {name: good + 1 for bit, name in names.items() if lost & bit}
        else:
            while lost:
                bit = lost & -lost
                found[names[bit]] = good + 1
                lost ^= bit
        low, alive = good + 1, left
    return found


def reach(blocks: Container[int], hashes: Sequence[int]) -> int:
    """How many of the first blocks are among those that have, with each block, every block before it: a search, no walk."""
    if not hashes or hashes[0] not in blocks:
        return 0
    if hashes[-1] in blocks:
        return len(hashes)
    return bisect_left(hashes, True, key=lambda block: block not in blocks)


class PrefixIndex:
    """For one pool. Endpoints are "ip:port". One bit of an integer stands for one endpoint, so a block costs one lookup for all.

    Invariant: an endpoint that has a block has every block before it, because `record` touches a chain from its tail to its
    head and eviction takes the block that was touched first. So the sets of endpoints only shrink along a chain, and `match`
    may search instead of walking.
    """

    __slots__ = ("_bits", "_capacity", "_held", "_lru", "_masks", "_names")

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}  # block hash -> bits of the endpoints that have it
        self._lru: dict[str, OrderedDict[int, int]] = {}  # block hash -> its tokens
        self._held: dict[str, int] = {}  # tokens of all of them
        self._bits: dict[str, int] = {}
        self._names: dict[int, str] = {}  # bit -> endpoint
        self._capacity: dict[str, int] = {}  # tokens; endpoints that told it

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
        known, count = reach(lru, hashes), len(hashes)
        bit, masks = self._bits[endpoint], self._masks
        for index in range(count - 1, known - 1, -1):
            block = hashes[index]
            lru[block] = _SIZES[index]
            masks[block] = masks.get(block, 0) | bit
        deque(map(lru.move_to_end, reversed(hashes[:known])), maxlen=0)  # a loop of C: a long prompt has hundreds
        self._held[endpoint] += TOKENS[count] - TOKENS[known]
        self._evict(endpoint, lru)

    def forget(self, endpoint: str) -> None:
        """Its cache was emptied."""
        lru = self._lru.get(endpoint)
        if lru is not None:
            for block in lru:
                self._clear(block, self._bits[endpoint])
            lru.clear()
            self._held[endpoint] = 0

    def resize(self, endpoint: str, tokens: int) -> None:
        """The server says how many tokens its cache holds; 0 means that it does not say."""
        if tokens >= BLOCK_TOKENS:
            self._capacity[endpoint] = tokens
        else:
            self._capacity.pop(endpoint, None)

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        for gone in [name for name in self._lru if name not in endpoints]:
            bit, lru = self._bits.pop(gone), self._lru.pop(gone)
            del self._names[bit], self._held[gone]
            for block in lru:
                self._clear(block, bit)
        for gone in [name for name in self._capacity if name not in endpoints]:
            del self._capacity[gone]

    def _add(self, endpoint: str) -> OrderedDict[int, int]:
        bit = 1
        while bit in self._names:  # the lowest free bit keeps the integers short
            bit <<= 1
        self._bits[endpoint], self._names[bit] = bit, endpoint
        lru = self._lru[endpoint] = OrderedDict()
        self._held[endpoint] = 0
        return lru

    def _evict(self, endpoint: str, lru: OrderedDict[int, int]) -> None:
        capacity = self._capacity.get(endpoint, DEFAULT_TOKENS)
        most = max(1, min(MAX_ENDPOINT_BLOCKS, MAX_POOL_BLOCKS // len(self._lru)))
        bit, held = self._bits[endpoint], self._held[endpoint]
        while len(lru) > most or (held > capacity and len(lru) > 1):
            block, size = lru.popitem(last=False)
            held -= size
            self._clear(block, bit)
        self._held[endpoint] = held

    def _clear(self, block: int, bit: int) -> None:
        left = self._masks[block] & ~bit
        if left:
            self._masks[block] = left
        else:
            del self._masks[block]
