"""The doors that write by themselves, once a period: what is common to them. /metrics is read, and needs none of this.

The event loop takes the snapshot, as it does for a scrape; a door builds and sends in threads, one piece at a time.
"""

import asyncio
import logging
import time
from collections import Counter as Tallies
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from observability import catalogue as c
from observability.registry import Reading, Registry

log = logging.getLogger("penstock.export")

FLOOR = 10.0  # seconds between two points of a series: a quota of Cloud Monitoring
LAST = 5.0  # seconds that the last write may take: the process is about to end
Why = Literal["invalid", "unavailable", "denied", "limits", "dropped", "other"]
Signal = Literal["metrics", "traces"]


@dataclass(slots=True)
class Tally:
    """What became of series, or spans."""

    written: int = 0
    failed: Tallies[Why] = field(default_factory=Tallies)

    def add(self, other: "Tally") -> None:
        self.written += other.written
        self.failed += other.failed


class Door(Protocol):
    name: str  # a value of the label `door`

    async def write(self, readings: Sequence[Reading], now: float) -> Tally:
        """One point of every series; nothing is raised for what the other side says or does."""

    def close(self) -> None:
        """Give up what is being sent."""


class Account:
    """The metrics of one door: they leave by it, too."""

    def __init__(self, registry: Registry, door: str, signal: Signal) -> None:
        self._errors = registry.counter(c.EXPORT_ERRORS_TOTAL)
        self._labels = {"door": door, "signal": signal}
        self._written = registry.counter(c.EXPORTED_TOTAL).bind(**self._labels)
        self._seconds = registry.histogram(c.EXPORT_DURATION_SECONDS).bind(**self._labels)

    def book(self, tally: Tally, seconds: float) -> None:
        self._written.inc(tally.written)
        self._seconds.observe(seconds)
        for why, count in tally.failed.items():
            self.failed(why, count)

    def failed(self, why: Why, count: int) -> None:
        self._errors.bind(**self._labels, reason=why).inc(count)


class Push:
    """Writes the registry through a door. Run `run` in a TaskGroup."""

    def __init__(
        self, door: Door, registry: Registry, *, period: float = 60.0, clock: Callable[[], float] = time.time
    ) -> None:
        if period < FLOOR:
            raise ValueError(f"the period is {FLOOR:g} seconds or longer, not {period:g}")
        self._door, self._registry, self._period, self._clock = door, registry, period, clock
        self._account = Account(registry, door.name, "metrics")
        self._last = clock()
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Write until cancelled; then once more, so that what was counted last is not lost."""
        try:
            while True:
                await asyncio.sleep(self._period)
                await self.turn()
        finally:
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST):
                        await self.turn()
            finally:
                self._door.close()

    async def turn(self) -> bool:
        """Write once; False, and nothing is, too soon after the last time: also where the clock was set back."""
        now = self._clock()
        if now - self._last < FLOOR:
            return False
        self._last = now
        start = time.perf_counter()
        readings = self._registry.snapshot()
        try:
            tally = await self._door.write(readings, now)
        except Exception:  # our mistake, or a library's: it must not end the serving of requests
            log.exception("%s: nothing is written", self._door.name)
            tally = Tally(failed=Tallies({"other": sum(len(reading.points) for reading in readings)}))
        self._account.book(tally, time.perf_counter() - start)
        failed = frozenset(tally.failed)
        if failed - self._told:
            log.warning(
                "%s: not written: %s; counted in %s", self._door.name, dict(tally.failed), c.EXPORT_ERRORS_TOTAL.name
            )
        self._told = failed  # one line when it begins to fail, not one a minute
        return True
