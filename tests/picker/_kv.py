"""KV events as servers send them, for tests."""

from array import array
from collections.abc import Sequence
from typing import Any

import msgspec

from picker.kv_messages import Cleared, Removed, Stored


def stored(
    hashes: Sequence[int], parent: int | None, tokens: Sequence[int], size: int, lora: str = "", **more: Any
) -> Stored:
    extra = [lora.encode()] * len(hashes) if lora else []
    return Stored(list(hashes), parent, array("I", tokens).tobytes(), size, extra, lora=lora, **more)


def frames(sequence: int, *events: Stored | Removed | Cleared, topic: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """As vLLM 0.32 writes them."""
    payload = msgspec.msgpack.encode([1.5, [_map(event) for event in events], 0])
    return topic, sequence.to_bytes(8, "big"), payload


def _map(event: Stored | Removed | Cleared) -> dict[str, Any]:
    match event:
        case Stored():
            return {
                "type": "BlockStored",
                "block_hashes": list(event.hashes),
                "parent_block_hash": event.parent,
                "token_ids": list(memoryview(event.tokens).cast("I")),
                "block_size": event.block_tokens,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": event.lora or None,
                "extra_keys": [[event.lora] if event.lora else None for _ in event.hashes],
                "group_idx": event.group,
                "kv_cache_spec_kind": "full_attention",
            }
        case Removed():
            return {
                "type": "BlockRemoved",
                "block_hashes": list(event.hashes),
                "medium": "GPU",
                "group_idx": event.group,
            }
        case Cleared():
            return {"type": "AllBlocksCleared"}
