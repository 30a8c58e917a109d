"""HeldBlocks: which endpoint holds which blocks of tokens, as the servers' own events say.

An engine's hashes mean nothing to the next engine. So each block gets a key of ours, chained on the key before it: equal prefixes
of tokens have equal keys everywhere. One bit of an integer stands for one endpoint, as in PrefixIndex.
"""

from collections.abc import Collection, Sequence

from xxhash import xxh3_64_intdigest

from picker.kv_messages import Hash, Stored

ROOT = 0x9E3779B97F4A7C15  # the key of the empty prefix, which everybody holds
MAX_ENDPOINT_BLOCKS = 1 << 18  # of one endpoint: 4 million tokens in blocks of 16
MAX_POOL_BLOCKS = 1 << 21  # of all endpoints of one pool: a few hundred MB at worst


def chain(parent: int, tokens: bytes, block_tokens: int, extra: Sequence[bytes] = ()) -> list[int]:
    """The keys of the whole blocks of `tokens` (4 bytes each) that follow the block with the key `parent`."""
    size = block_tokens * 4
    view = memoryview(tokens)
    found: list[int] = []
    for index in range(len(tokens) // size):
        if extra and extra[index]:
            parent = xxh3_64_intdigest(extra[index], parent)
        parent = xxh3_64_intdigest(view[index * size : (index + 1) * size], parent)
        found.append(parent)
    return found


class _Table:
    """One endpoint's blocks. An engine may hold one block several times: it tells so, and tells of each that goes."""

    __slots__ = ("bit", "blocks", "copies")

    def __init__(self, bit: int) -> None:
        self.bit = bit
        self.blocks: dict[Hash, int] = {}  # engine's hash -> our key
        self.copies: dict[Hash, int] = {}  # beyond the first


class HeldBlocks:
    """For one pool. Endpoints are "ip:port".

    Invariant: an endpoint that holds a key holds every key before it, for without them the engine could not use the block. Who
    loses a block loses what follows it, until that is stored again. So sets of endpoints only shrink along a chain. All is
    dicts of integers: the garbage collector need not look at them.
    """

    __slots__ = ("_children", "_parents", "_tables", "masks", "names")

    def __init__(self) -> None:
        self.masks: dict[int, int] = {ROOT: 0}  # key -> bits of the endpoints that hold it
        self.names: dict[int, str] = {}  # bit -> endpoint
        self._parents: dict[int, int] = {}
        self._children: dict[int, int | dict[int, None]] = {}  # of keys that are held; not of ROOT
        self._tables: dict[str, _Table] = {}

    def count(self, endpoint: str) -> int:
        """Blocks that the endpoint has told of, each as often as it holds it."""
        table = self._tables.get(endpoint)
        return len(table.blocks) + sum(table.copies.values()) if table else 0

    def bit(self, endpoint: str) -> int:
        table = self._tables.get(endpoint)
        return table.bit if table else 0

    def stored(self, endpoint: str, event: Stored) -> bool:
        """False where what comes before is unknown, or there is no room: then nothing (more) of it is taken."""
        table = self._tables.get(endpoint) or self._add(endpoint)
        parent = ROOT if event.parent is None else table.blocks.get(event.parent)
        if parent is None:
            return False
        limit = min(MAX_ENDPOINT_BLOCKS, MAX_POOL_BLOCKS // len(self._tables))
        bit, blocks = table.bit, table.blocks
        reachable = self.masks.get(parent, 0) & bit
        keys = chain(parent, event.tokens, event.block_tokens, event.extra)
        for engine_hash, key in zip(event.hashes, keys, strict=True):
            known = blocks.get(engine_hash)
            if known == key:
                table.copies[engine_hash] = table.copies.get(engine_hash, 0) + 1
            else:
                if known is not None:  # hashes that collide: believe the newer
                    table.copies.pop(engine_hash, None)
                    self._drop(known, bit)
                    reachable = self.masks.get(parent, 0) & bit
                elif len(blocks) >= limit:
                    return False
                blocks[engine_hash] = key
            if reachable:
                self._hold(key, parent, bit)
            parent = key
        return True

    def removed(self, endpoint: str, hashes: Sequence[Hash]) -> None:
        """Blocks that nobody has told of are of no interest."""
        table = self._tables.get(endpoint)
        if table is None:
            return
        for engine_hash in hashes:
            more = table.copies.get(engine_hash, 0)
            if more > 1:
                table.copies[engine_hash] = more - 1
            elif more:
                del table.copies[engine_hash]
            elif (key := table.blocks.pop(engine_hash, None)) is not None:
                self._drop(key, table.bit)

    def clear(self, endpoint: str) -> None:
        """Forget all blocks of this endpoint."""
        table = self._tables.get(endpoint)
        if table is None:
            return
        for key in table.blocks.values():
            self._drop(key, table.bit)
        table.blocks.clear()
        table.copies.clear()

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        for gone in [name for name in self._tables if name not in endpoints]:
            self.clear(gone)
            bit = self._tables.pop(gone).bit
            del self.names[bit]
            self.masks[ROOT] &= ~bit

    def _add(self, endpoint: str) -> _Table:
        bit = 1
        while bit in self.names:  # the lowest free bit keeps the integers short
            bit <<= 1
        self.names[bit] = endpoint
        self.masks[ROOT] |= bit
        table = self._tables[endpoint] = _Table(bit)
        return table

    def _hold(self, key: int, parent: int, bit: int) -> None:
        mask = self.masks.get(key)
        if mask is not None:
            self.masks[key] = mask | bit
            return
        self.masks[key], self._parents[key] = bit, parent
        if parent == ROOT:
            return
        siblings = self._children.get(parent)
        if siblings is None:
            self._children[parent] = key
        elif isinstance(siblings, dict):
            siblings[key] = None
        else:
            self._children[parent] = {siblings: None, key: None}

    def _drop(self, key: int, bit: int) -> None:
        """The endpoint does not hold this any more, nor what follows it."""
        masks, left = self.masks, [key]
        while left:
            key = left.pop()
            mask = masks.get(key, 0)
            if not mask & bit:
                continue
            children = self._children.get(key, ())
            left += (children,) if isinstance(children, int) else children
            if mask != bit:
                masks[key] = mask & ~bit
                continue
            del masks[key]
            self._leave(key, self._parents.pop(key))

    def _leave(self, key: int, parent: int) -> None:
        siblings = self._children.get(parent)
        if isinstance(siblings, dict):
            del siblings[key]
            if len(siblings) == 1:
                self._children[parent] = next(iter(siblings))
        elif siblings is not None:
            del self._children[parent]
