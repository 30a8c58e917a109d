"""Waiting for a condition, with a deadline: what the tests do instead of sleeping."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 30.0  # seconds: long, since only a failing test waits for its end


async def until(condition: Callable[[], T], what: str = "", patience: float = PATIENCE) -> T:
    """The first true value of `condition`; fails with `what` was waited for."""
    try:
        async with asyncio.timeout(patience):
            while not (found := condition()):
                await asyncio.sleep(0.005)
            return found
    except TimeoutError:
        raise AssertionError(f"waited {patience:g} s for {what or 'a condition'}") from None


async def eventually(attempt: Callable[[], Awaitable[T]], what: str = "", patience: float = PATIENCE) -> T:
    """The first true value that an attempt gives."""
    try:
        async with asyncio.timeout(patience):
            while not (found := await attempt()):
                await asyncio.sleep(0.005)
            return found
    except TimeoutError:
        raise AssertionError(f"waited {patience:g} s for {what or 'an attempt to succeed'}") from None


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


async def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@asynccontextmanager
async def in_own_task(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave `context` in one task: fixtures are set up and torn down in two, which a TaskGroup does not survive."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def stay() -> None:
        try:
            async with context as value:
                entered.set_result(value)
                await over.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task = asyncio.create_task(stay())
    try:
        yield await entered
    finally:
        over.set()
        await task
