"""Latest: the one way in which the parts of the gateway share a value.

The newest value wins, a slow reader skips what it missed, and an equal value wakes nobody. Compare Rust's `tokio::sync::watch`.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """A cell that holds the newest value, or nothing before the first `set` (nothing is published before the first sync).

    For one event loop; not thread-safe.
    """

    __slots__ = ("_changed", "_value", "version")

    def __init__(self, value: T | None = None) -> None:
        self._value = value
        self.version = 0 if value is None else 1  # counts the values that differed from the one before
        self._changed = asyncio.Event()

    @property
    def value(self) -> T | None:
        return self._value

    def set(self, value: T) -> bool:
        """Publish `value`; False, and nobody wakes, if it equals the present one."""
        if self.version and (value is self._value or value == self._value):
            return False
        self._value = value
        self.version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return True

    async def get(self) -> T:
        """The present value; waits for the first one."""
        while self._value is None:
            await self._changed.wait()
        return self._value

    async def next(self, seen: int) -> tuple[int, T]:
        """(version, value), as soon as the version differs from `seen` (0 for a reader that has seen none)."""
        while self._value is None or self.version == seen:
            await self._changed.wait()
        return self.version, self._value

    async def values(self) -> AsyncIterator[T]:
        """The present value, then each later one that the reader is quick enough to see."""
        seen = 0
        while True:
            seen, value = await self.next(seen)
            yield value
