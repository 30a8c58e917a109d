"""The simulated server's KV events, on the wire as vLLM 0.32 writes them: ZMQ PUB, three frames, msgpack."""

import time
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq

from penstock.sim import tokens
from penstock.sim.cache import BlockCache

_REMEMBERED = 4  # times as many blocks as the cache has


@dataclass(frozen=True, slots=True)
class _Block:
    parent: int | None
    text: bytes
    adapter: str


class Publisher:
    """Tells what comes into `cache` and what goes. `start` binds the port; `flush` sends what has changed since."""

    def __init__(self, cache: BlockCache, block_tokens: int, rank: int = 0) -> None:
        self.port = 0
        self.dropping = False  # as if messages were lost: they are numbered and not sent
        cache.changes = []
        self._cache, self._size, self._rank = cache, block_tokens, rank
        self._blocks: dict[int, _Block] = {}
        self._sequence = 0
        self._context: Any = None
        self._socket: Any = None

    def start(self, host: str, port: int) -> None:
        """Port 0: any free one. Raises OSError."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(f"tcp://{host}:{port or '*'}")
        self.port = int(self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])

    def stop(self) -> None:
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = self._socket = None

    def know(self, adapter: str, text: bytes, hashes: tuple[int, ...]) -> None:
        """A request has come whose blocks may be cached: their text."""
        size = self._size * tokens.BYTES
        if len(self._blocks) > _REMEMBERED * self._cache.blocks:
            self._blocks = {block: found for block, found in self._blocks.items() if block in self._cache}
        for index, block in enumerate(hashes):
            parent = hashes[index - 1] if index else None
            self._blocks[block] = _Block(parent, text[index * size : (index + 1) * size], adapter)

    def flush(self, *, cleared: bool = False) -> None:
        """One message with all that has changed; `cleared`: the cache was emptied."""
        changes, self._cache.changes = self._cache.changes or [], []
        events: list[dict[str, Any]] = [{"type": "AllBlocksCleared"}] if cleared else []
        for came, block in changes if not cleared else ():
            if not came:
                events.append({"type": "BlockRemoved", "block_hashes": [block], "medium": "GPU", "group_idx": 0})
            elif (found := self._blocks.get(block)) is not None:
                events.append(self._stored(block, found))
        if not events:
            return
        payload = msgspec.msgpack.encode([time.time(), events, self._rank])
        sequence = self._sequence.to_bytes(8, "big")
        self._sequence += 1
        if self._socket is not None and not self.dropping:
            self._socket.send_multipart((b"", sequence, payload), zmq.NOBLOCK)

    def _stored(self, block: int, found: _Block) -> dict[str, Any]:
        return {
            "type": "BlockStored",
            "block_hashes": [block],
            "parent_block_hash": found.parent,
            "token_ids": tokens.ids(found.text),
            "block_size": self._size,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": found.adapter or None,
            "extra_keys": [[found.adapter]] if found.adapter else [None],
            "group_idx": 0,
            "kv_cache_spec_kind": "full_attention",
        }
