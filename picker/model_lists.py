"""Asks the model servers which models they have, `GET /v1/models`: now and then, and at once where an answer tells of a change.

An address is asked once for all ranks behind it, in plain text as for its metrics. Lists of thousands of adapters cost time to read:
the longer that takes, the seldomer they are read. Source: OpenAI's API, "List models"; vLLM 0.32, SGLang 0.5.23.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import inf

import aiohttp

from picker.ranks import host_port
from picker.reading import whole
from picker.served import NoList, Served, parse
from xds_server.model.graph import Endpoint

USER_AGENT = "penstock"  # in the servers' logs
_AT_ONCE = 16  # requests
_LARGEST = 8 << 20  # bytes: 10 000 adapters of vLLM are 5 MB
_SHARE = 50  # one part in so many of the event loop's time is for reading lists
_BELIEVED = 3.0  # intervals
_HEADERS = {"user-agent": USER_AGENT, "accept-encoding": "identity"}


@dataclass(frozen=True, slots=True)
class ModelListSettings:
    """Seconds."""

    interval: float = 10.0  # between two questions to a server
    soonest: float = 1.0  # the same, where something tells of a change
    lasting: float = 60.0  # after an answer that is no list, such as 401 or 404
    timeout: float = 2.0
    path: str = "/v1/models"


@dataclass(slots=True, eq=False)
class _Target:
    address: str
    due: float = -inf
    asked: float = -inf
    asking: bool = False
    again: bool = False  # it may have changed since it was asked
    silent: bool = False  # its last answer was no list
    errors: int = 0  # in a row
    cost: float = 0.0  # seconds of the event loop that reading its list took


class ModelLists:
    """Keeps `served` told while `run` runs."""

    def __init__(
        self,
        served: Served,
        settings: ModelListSettings = ModelListSettings(),
        clock: Callable[[], float] = time.monotonic,
        seed: int | None = None,
    ) -> None:
        self._served, self._settings, self._clock = served, settings, clock
        self._random = random.Random(seed)  # noqa: S311  # jitter
        self._targets: dict[str, _Target] = {}
        self._wake = asyncio.Event()
        self._answered = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def update(self, endpoints: Iterable[Endpoint]) -> None:
        """All endpoints of all pools; new ones are asked at once."""
        wanted = {endpoint.host_port for endpoint in endpoints}
        for gone in self._targets.keys() - wanted:
            del self._targets[gone]
        for new in wanted - self._targets.keys():
            self._targets[new] = _Target(new)
        self._wake.set()

    def hurry(self, names: Iterable[str]) -> None:
        """These endpoints may have other models than they said."""
        soonest = self._soonest()
        for address in set(map(host_port, names)):
            target = self._targets.get(address)
            if target is None or target.silent:
                continue
            if target.asking:
                target.again = True
            elif (due := target.asked + soonest) < target.due:
                target.due = due
                self._wake.set()

    async def all_asked(self) -> None:
        """Until every server has been asked once, and has answered or not."""
        while any(target.asked == -inf or target.asking for target in self._targets.values()):
            self._answered.clear()
            await self._answered.wait()

    async def run(self) -> None:
        """Until cancelled."""
        timeout = aiohttp.ClientTimeout(self._settings.timeout)
        connector = aiohttp.TCPConnector(
            force_close=True
        )  # servers close idle connections sooner than we would use them
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            while True:
                self._wake.clear()
                now = self._clock()
                soonest = inf
                for target in self._targets.values():
                    if target.asking:
                        continue
                    if target.due <= now:
                        target.asking = True
                        tasks.create_task(self._ask(session, target))
                    else:
                        soonest = min(soonest, target.due)
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if soonest == inf else max(soonest - now, 0.01)):
                        await self._wake.wait()

    async def _ask(self, session: aiohttp.ClientSession, target: _Target) -> None:
        async with self._slots:
            target.asked, target.again = self._clock(), False
            page = await self._page(session, target)
        if page is not None:
            self._read(target, page)
        target.asking = False
        target.due = self._clock() + self._pause(target) * self._random.uniform(0.9, 1.1)
        self._answered.set()
        self._wake.set()

    async def _page(self, session: aiohttp.ClientSession, target: _Target) -> bytes | None:
        """The answer; None where there was none, and b"" where it is no list."""
        url = f"http://{target.address}{self._settings.path}"
        try:
            async with session.get(url, headers=_HEADERS, allow_redirects=False) as answer:
                if answer.status == 200:
                    return await whole(answer, _LARGEST)
                if answer.status < 500 and answer.status != 429:
                    return b""
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            pass
        target.errors += 1
        self._served.unanswered(target.address)
        return None

    def _read(self, target: _Target, page: bytes) -> None:
        began, target.errors = self._clock(), 0
        try:
            names, strict = parse(page)
        except NoList:
            target.silent, target.cost = True, 0.0
            self._served.unknown(target.address)
            return
        until = target.asked + _BELIEVED * self._interval() + self._settings.timeout
        self._served.listed(target.address, names, target.asked, until, strict=strict)
        target.silent, target.cost = False, self._clock() - began

    def _pause(self, target: _Target) -> float:
        if target.errors:
            return min(self._soonest() * 2.0 ** min(target.errors - 1, 10), self._interval())
        if target.silent:
            return self._settings.lasting
        return self._soonest() if target.again else self._interval()

    def _soonest(self) -> float:
        return self._settings.soonest * self._interval() / self._settings.interval

    def _interval(self) -> float:
        return max(self._settings.interval, _SHARE * sum(target.cost for target in self._targets.values()))
