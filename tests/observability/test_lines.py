"""What a log is made of: nothing waits for the stream, what it does not take is counted, the last items are written."""

import asyncio
import io
import threading
from typing import Any

import pytest

from observability.catalogue import LOG_RECORDS_DROPPED_TOTAL as LOST
from observability.lines import Lines


async def written(lines: Lines[int], *items: int) -> None:
    task = asyncio.create_task(lines.run())
    await asyncio.sleep(0)
    for item in items:
        lines.offer(item)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def made(items: list[int]) -> bytes:
    return b"".join(b"%d\n" % item for item in items)


async def test_the_last_items_are_written_at_the_end() -> None:
    stream = io.BytesIO()
    lines = Lines(stream, made, 10, LOST)
    await written(lines, 1, 2, 3)
    assert (stream.getvalue(), lines.dropped) == (b"1\n2\n3\n", 0)


async def test_what_the_buffer_does_not_hold_is_dropped_and_counted() -> None:
    stream = io.BytesIO()
    lines = Lines(stream, made, 2, LOST)
    await written(lines, 1, 2, 3)
    assert (stream.getvalue(), lines.dropped) == (b"1\n2\n", 1)
    assert [(sample.metric, sample.value) for sample in lines.collect()] == [(LOST, 1)]


@pytest.mark.parametrize("error", [OSError, ValueError, TypeError])
async def test_what_cannot_be_written_or_made_is_counted(error: type[Exception]) -> None:
    def broken(_items: list[int]) -> bytes:
        raise error

    lines = Lines(io.BytesIO(), broken, 10, LOST)
    await written(lines, 1, 2)
    assert lines.dropped == 2


async def test_a_closed_stream_is_counted() -> None:
    stream = io.BytesIO()
    stream.close()
    lines = Lines(stream, made, 10, LOST)
    await written(lines, 1)
    assert lines.dropped == 1


async def test_what_is_dropped_while_the_stream_is_slow_is_counted() -> None:
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    class Slow(io.BytesIO):
        def write(self, data: Any) -> int:
            loop.call_soon_threadsafe(begun.set)
            go_on.wait(10)
            return super().write(data)

    stream = Slow()
    lines = Lines(stream, made, 2, LOST)
    task = asyncio.create_task(lines.run())
    lines.offer(1)
    await begun.wait()
    for item in (2, 3, 4):
        lines.offer(item)
    assert lines.dropped == 1
    go_on.set()
    while stream.getvalue() != b"1\n2\n3\n":
        await asyncio.sleep(0)
    assert lines.dropped == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
