"""Latest: the newest value wins, slow readers skip, equal values wake nobody."""

import asyncio

import pytest

from xds_server.latest import Latest


def test_an_equal_value_is_no_news() -> None:
    cell = Latest[list[int]]()
    assert cell.value is None
    assert [cell.set([1]), cell.set([1]), cell.set([2])] == [True, False, True]
    assert (cell.value, cell.version) == ([2], 2)


async def test_a_slow_reader_sees_only_the_newest() -> None:
    cell, seen = Latest[int](), []
    cell.set(1)
    async for value in cell.values():
        seen.append(value)
        if value == 9:
            break
        for later in (7, 8, 9):
            cell.set(later)
    assert seen == [1, 9]


async def test_readers_wait_for_the_first_value() -> None:
    cell = Latest[str]()
    async with asyncio.TaskGroup() as tasks:
        first, following = tasks.create_task(cell.get()), tasks.create_task(cell.next(0))
        await asyncio.sleep(0)
        assert not first.done()
        cell.set("x")
    assert (first.result(), following.result()) == ("x", (1, "x"))


async def test_an_equal_value_wakes_nobody() -> None:
    cell = Latest(1)
    waiting = asyncio.ensure_future(cell.next(1))
    await asyncio.sleep(0)
    cell.set(1)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
