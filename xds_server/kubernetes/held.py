"""The statuses that objects have now, as the API server holds them: what the status writer compares with and writes over."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from xds_server.model.objects import ObjectRef

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """`status` is JSON text: a third of the memory of dicts, and it is looked into only where something has changed."""

    path: str
    uid: str
    version: str  # resourceVersion
    status: bytes

    @classmethod
    def of(cls, path: str, found: Mapping[str, Any]) -> "Entry":
        meta = found["metadata"]
        status = orjson.dumps(found.get("status") or {}, option=orjson.OPT_SORT_KEYS)
        return cls(path, meta.get("uid", ""), meta.get("resourceVersion", ""), status)


class Held(Mapping[ObjectRef, Json]):
    """Raw statuses by object. For one event loop and one reader of its changes."""

    def __init__(self) -> None:
        self._entries: dict[ObjectRef, Entry] = {}
        self._dirty: set[ObjectRef] = set()
        self._wake = asyncio.Event()

    def __getitem__(self, ref: ObjectRef) -> Json:
        found: Json = orjson.loads(self._entries[ref].status)
        return found

    def __iter__(self) -> Iterator[ObjectRef]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, ref: ObjectRef) -> Entry | None:
        return self._entries.get(ref)

    def put(self, ref: ObjectRef, entry: Entry) -> None:
        """Keeps the newer one: the answer to a write may overtake the watch, whose older events then say nothing new."""
        old = self._entries.get(ref)
        if old and old.path == entry.path and old.uid == entry.uid and _older(entry.version, old.version):
            return
        self._entries[ref] = entry
        if old is None or old.status != entry.status or old.uid != entry.uid:
            self._changed(ref)

    def remove(self, ref: ObjectRef, path: str) -> None:
        """Forget it, if it is the one of this path: a kind that moved between groups may be served by both."""
        old = self._entries.get(ref)
        if old and old.path == path:
            del self._entries[ref]
            self._changed(ref)

    async def changes(self) -> frozenset[ObjectRef]:
        """The objects whose status came, changed or went since the last call; waits for one."""
        await self._wake.wait()
        self._wake.clear()
        found, self._dirty = frozenset(self._dirty), set()
        return found

    def _changed(self, ref: ObjectRef) -> None:
        self._dirty.add(ref)
        self._wake.set()


def _older(one: str, other: str) -> bool:
    """Resource versions of one resource are numbers that grow (KEP-5504); where they are not, the later word counts."""
    return one.isdigit() and other.isdigit() and int(one) < int(other)
