"""What the tests of the Kubernetes shells share: running a shell for the length of a test, and waiting for facts."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from xds_server.kubernetes.backoff import Backoff
from xds_server.kubernetes.reflector import Timing

GROUP = "gateway.networking.k8s.io"
QUICK = Backoff(base=0.001, ceiling=0.002)
TIMING = Timing(backoff=QUICK)


def certain() -> float:
    return 0.0


class Facts:
    """An `observe` that can be waited for."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self._more = asyncio.Event()

    def __call__(self, fact: object) -> None:
        self.seen.append(fact)
        self._more.set()

    def of(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.seen if isinstance(each, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._more.clear()
            await self._more.wait()


async def soon(condition: Callable[[], object]) -> None:
    """For what nobody announces."""
    while not condition():
        await asyncio.sleep(0)


@asynccontextmanager
async def running(*shells: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """The shells run while the block does; what they raise, the test raises; no test waits for ever."""
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(each) for each in shells]
        yield found
        for each in found:
            each.cancel()
