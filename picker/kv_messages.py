"""What a model server says of its prefix cache: one ZMQ message in, a Batch of events out.

Three frames: topic, sequence number (8 bytes, big endian), msgpack of [time, events, rank]. An event is a map with `type`
(vLLM 0.32, SGLang 0.5.23) or an array that begins with its name (both before); so is the batch. Source: vLLM distributed/kv_events.py,
SGLang disaggregation/kv_events.py. Only blocks on the accelerator count: what lies on CPU or disk has to be brought back first.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

Hash = int | bytes  # the engine's own; means nothing outside of it
LARGEST = 64 << 20  # bytes of a message that nobody sends
_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys",
           "group_idx", "kv_cache_spec_kind")  # fmt: skip
_REMOVED = ("block_hashes", "medium", "group_idx")
_NARROW = ("sliding", "chunked", "mamba", "cross")  # kinds of attention whose blocks do not stand for a whole prefix


class Malformed(Exception):
    """Not a message that we can read."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Blocks that follow one another, all full. `extra` has an entry for each: what else its hash is made of, b"" for nothing."""

    hashes: Sequence[Hash]
    parent: Hash | None  # None: the first is the beginning of a prompt
    tokens: bytes  # 4 bytes each
    block_tokens: int
    extra: Sequence[bytes] = ()  # empty: nothing else, for all of them
    group: int | None = None  # of layers: models with several kinds of attention cache each kind apart
    lora: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    hashes: Sequence[Hash]
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Cleared:
    """The cache is empty."""


@dataclass(frozen=True, slots=True)
class Batch:
    sequence: int  # one more than that of the batch before; the first of a process is 0
    events: tuple[Stored | Removed | Cleared, ...]
    rank: int | None = None  # data-parallel


def decode(frames: Sequence[bytes]) -> Batch:
    """Read one message. Events that we do not know are left out. Raises Malformed."""
    if len(frames) != 3 or len(frames[1]) != 8:
        raise Malformed("not three frames: topic, sequence number, events")
    if len(frames[2]) > LARGEST:
        raise Malformed("too large")
    try:
        batch = msgspec.msgpack.decode(frames[2])
        if isinstance(batch, Mapping):
            events, rank = batch["events"], batch.get("data_parallel_rank")
        else:
            events, rank = batch[1], batch[2] if len(batch) > 2 else None
        found = tuple(event for one in events if (event := _event(one)) is not None)
    except (msgspec.DecodeError, ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    return Batch(int.from_bytes(frames[1], "big"), found, rank if isinstance(rank, int) else None)


def _event(found: Any) -> Stored | Removed | Cleared | None:
    kind, fields = _tagged(found)
    if kind == "AllBlocksCleared":
        return Cleared()
    medium = fields.get("medium")
    if kind not in ("BlockStored", "BlockRemoved") or (medium is not None and medium != "GPU"):
        return None
    hashes, group = fields["block_hashes"], fields.get("group_idx")
    if not isinstance(hashes, list) or not all(isinstance(one, (int, bytes)) for one in hashes):
        raise TypeError("block_hashes is no list of hashes")
    group = group if isinstance(group, int) else None
    return Removed(hashes, group) if kind == "BlockRemoved" else _stored(fields, hashes, group)


def _stored(fields: Mapping[str, Any], hashes: list[Hash], group: int | None) -> Stored | None:
    if any(word in (fields.get("kv_cache_spec_kind") or "") for word in _NARROW):
        return None
    parent, size, lora = fields["parent_block_hash"], fields["block_size"], fields.get("lora_name")
    tokens = array("I", fields["token_ids"])
    if not isinstance(parent, (int, bytes, type(None))):
        raise TypeError("parent_block_hash is no hash")
    if not isinstance(size, int) or size < 1:
        raise ValueError("block_size is no number of tokens")
    if len(tokens) != size * len(hashes):  # blocks that are not full can be hit by nobody but who continues them
        return None
    if lora is None and fields.get("lora_id") is not None:
        lora = str(fields["lora_id"])
    lora = lora if isinstance(lora, str) else ""
    keys = fields.get("extra_keys")
    if not isinstance(keys, list) or len(keys) != len(hashes):  # SGLang, or vLLM of long ago
        salt = fields.get("cache_salt") if parent is None else None
        keys = [[*filter(None, (lora, salt))], *[[lora]] * (len(hashes) - 1)] if lora or salt else []
    extra = [extra_of(one) for one in keys] if any(keys) else []
    return Stored(hashes, parent, tokens.tobytes(), size, extra, group, lora)


def extra_of(keys: Any) -> bytes:
    """What a block's hash is made of beside tokens (adapter, cache salt, media), as bytes; b"" for nothing."""
    return "\0".join(str(one) for one in keys).encode() if keys and any(keys) else b""


def _tagged(found: Any) -> tuple[str, Mapping[str, Any]]:
    """The name of an event and its fields, whichever way it is written."""
    if isinstance(found, Mapping):
        return found["type"], found
    names = _STORED if found[0] == "BlockStored" else _REMOVED
    return found[0], dict(zip(names, found[1:], strict=False))
