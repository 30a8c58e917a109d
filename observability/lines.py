"""What a log is made of: items that wait, in bounded memory, for a thread that writes them as lines. Full means dropped and counted."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, Generic, TypeVar

from observability.metric import Metric
from observability.registry import Sample

T = TypeVar("T")


class Lines(Generic[T]):
    """`made` makes items into bytes, in the thread that writes; where it fails, as where the stream does, they are dropped.

    `capacity` is items that wait for the stream; `lost` counts the dropped. Run `run` in a TaskGroup. For one event loop.
    """

    def __init__(self, stream: BinaryIO, made: Callable[[list[T]], bytes], capacity: int, lost: Metric) -> None:
        self.dropped = 0  # items that a full buffer, the stream or `made` refused
        self._lost = lost
        self._stream = stream
        self._made = made
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._wake = asyncio.Event()

    def offer(self, item: T) -> None:
        if len(self._items) >= self._capacity:
            self.dropped += 1
            return
        self._items.append(item)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled; what is in the buffer then is still written."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                lost = await asyncio.to_thread(self._write, self.take())
                self.dropped += lost  # in two steps: what `offer` has dropped meanwhile counts too
        finally:
            self.dropped += self._write(self.take())

    def collect(self) -> Iterator[Sample]:
        """For `Registry.collect`."""
        yield Sample(self._lost, {}, self.dropped)

    def take(self) -> list[T]:
        """What waits; it is not written any more."""
        taken = list(self._items)
        self._items.clear()
        return taken

    def _write(self, items: list[T]) -> int:
        """How many were lost: a full disk or a closed pipe must not end the serving of requests."""
        try:
            self._stream.write(self._made(items))
            self._stream.flush()
        except (OSError, TypeError, ValueError):  # the latter two: a figure of a server that JSON cannot say
            return len(items)
        return 0
