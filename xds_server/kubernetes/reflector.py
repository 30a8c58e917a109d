"""Keep a sink equal to what a query selects: list, watch, resume, start again. The shell of `cursor`. Never returns."""

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import NoReturn

from xds_server.facts import Observe
from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.backoff import Backoff
from xds_server.kubernetes.cursor import Cursor, Phase, Sink
from xds_server.kubernetes.facts import Listed, WatchFailed
from xds_server.kubernetes.resources import Query

_STRIDE = 16  # objects parsed (0.1-0.3 ms each) before others may run


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    watch: float = 290.0  # what a watch is asked to last; less than most proxies' limits
    grace: float = 15.0  # more silence than this after that: the connection hangs
    initial: float = 60.0  # a streamed list that takes longer is read in pages instead
    backoff: Backoff = Backoff()


async def reflect(
    api: Api,
    query: Query,
    sink: Sink,
    synced: Callable[[], None],
    observe: Observe,
    timing: Timing = Timing(),
    chance: Callable[[], float] = random.random,
) -> NoReturn:
    """`synced` is called after each whole list. Raises ApiError 403 and 404: not ours to wait for."""
    loop = asyncio.get_running_loop()
    cursor = Cursor(sink)
    attempt, failure = 0, 0
    while True:
        phase, heard, began = cursor.phase, cursor.events, loop.time()
        error = await _turn(api, query, cursor, timing, chance, synced, observe)
        if error and error.code in (403, 404):
            raise error
        if cursor.events != heard or loop.time() - began > timing.watch / 2:
            attempt = 0
        if cursor.phase is not phase and phase is not Phase.WATCH:
            continue  # the list is complete, or pages are asked for instead of a stream
        if error is None and phase is Phase.LIST:
            continue  # the next page
        code = error.code if error else 200
        attempt, failure = (
            (attempt + 1 if code == failure else 1),
            code,
        )  # a server that is back is not made to wait for
        delay = timing.backoff.delay(attempt, chance, error.retry_after if error else 0.0)
        if error:
            observe(WatchFailed(str(query), error.code, error.message, delay))
        elif cursor.events != heard:
            continue  # an ordinary end of a watch
        await asyncio.sleep(delay)


async def _turn(
    api: Api, query: Query, cursor: Cursor, timing: Timing, chance: Callable[[], float],
    synced: Callable[[], None], observe: Observe,
) -> ApiError | None:  # fmt: skip
    """One request, from end to end."""
    loop = asyncio.get_running_loop()
    began, relist = loop.time(), cursor.synced

    def complete() -> None:
        observe(Listed(str(query), cursor.objects, loop.time() - began, relist))
        synced()

    try:
        if cursor.phase is Phase.LIST:
            await _page(api, query, cursor)
            if cursor.watching():
                complete()
        else:
            await _watch(api, query, cursor, timing, chance, complete)
    except ApiError as error:
        cursor.failed(error)
        return error
    return None


async def _page(api: Api, query: Query, cursor: Cursor) -> None:
    body = await api.get(query.path, cursor.request(0) | query.selectors)
    for count, _ in enumerate(cursor.page(body)):
        if count % _STRIDE == _STRIDE - 1:
            await asyncio.sleep(0)


async def _watch(
    api: Api, query: Query, cursor: Cursor, timing: Timing, chance: Callable[[], float], complete: Callable[[], None]
) -> None:
    seconds = max(1, int(timing.watch * (0.9 + 0.2 * chance())))  # replicas' watches do not end together
    streaming = cursor.phase is Phase.STREAM
    parameters = cursor.request(seconds) | query.selectors
    try:
        async with asyncio.timeout(timing.initial if streaming else None) as patience:
            async with aclosing(api.watch(query.path, parameters, seconds + timing.grace)) as events:
                count = 0
                async for event in events:
                    cursor.event(event)
                    if streaming and cursor.watching():
                        streaming = False
                        patience.reschedule(None)
                        complete()
                    count += 1
                    if count % _STRIDE == 0:
                        await asyncio.sleep(0)
    except TimeoutError as error:
        message = f"{query}: no end of the initial events within {timing.initial:g} s"
        raise ApiError(0, "NoEnd", message) from error
    cursor.ended()
