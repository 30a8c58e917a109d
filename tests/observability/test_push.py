"""Push: once a period, never twice within ten seconds, once more at the end; what fails is counted and told once."""

import asyncio
from collections import Counter

import pytest

from observability import catalogue as c
from observability.exporters.push import FLOOR, Push, Tally
from observability.registry import Registry

ERRORS, WRITTEN = c.EXPORT_ERRORS_TOTAL.name, c.EXPORTED_TOTAL.name


class Door:
    name = "otlp"

    def __init__(self, *tallies: Tally) -> None:
        self.tallies, self.times, self.closed = list(tallies), [], False
        self.wrote = asyncio.Event()

    async def write(self, readings: object, now: float) -> Tally:
        self.times.append(now)
        self.wrote.set()
        return self.tallies.pop(0) if self.tallies else Tally(1)

    def close(self) -> None:
        self.closed = True


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def value(registry: Registry, name: str, **labels: str) -> float | None:
    for reading in registry.snapshot():
        if reading.metric.name == name:
            for point in reading.points:
                if labels.items() <= dict(zip(reading.metric.label_names, point.labels, strict=True)).items():
                    return point.value
    return None


async def test_no_two_points_are_closer_than_the_quota_allows() -> None:
    door, clock = Door(), Clock()
    push = Push(door, Registry(), clock=clock)
    done = []
    for step in (FLOOR - 0.1, 0.1, 5.0, 5.0, -3600.0, 3600.0, FLOOR):
        clock.now += step
        done.append(await push.turn())
    assert done == [False, True, False, True, False, False, True]
    assert all(later - sooner >= FLOOR for sooner, later in zip(door.times, door.times[1:], strict=False))


async def test_what_was_counted_last_is_written_at_the_end() -> None:
    door, clock = Door(), Clock()
    task = asyncio.create_task(Push(door, Registry(), period=3600, clock=clock).run())
    await asyncio.sleep(0)
    clock.now += 30.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (door.times, door.closed) == ([1030.0], True)


async def test_failures_are_counted_and_told_when_they_begin(caplog: pytest.LogCaptureFixture) -> None:
    bad = lambda: Tally(3, Counter({"invalid": 2}))  # noqa: E731
    door, clock, registry = Door(bad(), bad(), Tally(5), bad()), Clock(), Registry()
    push = Push(door, registry, clock=clock)
    told = []
    for _ in range(4):
        clock.now += FLOOR
        await push.turn()
        told.append(len(caplog.records))
    assert told == [1, 1, 1, 2]
    assert value(registry, ERRORS, door="otlp", signal="metrics", reason="invalid") == 6
    assert value(registry, WRITTEN, door="otlp", signal="metrics") == 14


def test_a_period_that_the_quota_forbids_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="10 seconds or longer"):
        Push(Door(), Registry(), period=5.0)


async def test_a_door_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Door):
        async def write(self, readings: object, now: float) -> Tally:
            raise KeyError("our mistake")

    clock, registry = Clock(), Registry()
    push = Push(Broken(), registry, clock=clock)
    clock.now += FLOOR
    assert await push.turn()
    assert "our mistake" in caplog.text
    assert value(registry, ERRORS, reason="other")
