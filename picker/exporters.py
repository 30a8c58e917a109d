"""Scrapes the exporters of accelerators, beside the model servers or on their nodes. One exporter is asked once for all its pods.

They measure once a second at the most (DCGM's default is every 30 s), so that nothing is gained by asking as often as servers are.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp

from picker.accelerators import Busy, parse
from picker.reading import whole
from picker.signals import Signals
from picker.stage import Profile
from xds_server.model.exporter import Exporter
from xds_server.model.graph import Endpoint, Pool

_AT_ONCE = 32  # requests
_PATIENCE = 1.0  # seconds
_LOST = 3  # answers that did not come in a row: then nothing is known any more
_LARGEST = 4 << 20  # bytes of a page that nobody sends

Measured = tuple[str, Exporter, Iterable[Endpoint]]  # a pool's namespace, its exporters, its endpoints


@dataclass(slots=True, eq=False)
class _Target:
    url: str
    interval: float  # seconds
    endpoints: list[tuple[str, Endpoint]] = field(default_factory=list)  # with the namespace of their pool
    due: float = 0.0
    lost: int = 0


def measured(pools: Iterable[Pool], profile: Callable[[str], Profile | None]) -> list[Measured]:
    """The pools whose accelerators are measured: as the pool says, else as its profile does."""
    found: list[Measured] = []
    for pool in pools:
        configured = profile(pool.name)
        exporter = pool.exporter or (configured.exporter if configured else None)
        if exporter is not None:
            found.append((pool.ref.namespace, exporter, pool.endpoints))
    return found


class Exporters:
    """Keeps `signals` told of accelerators while `run` runs."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._targets: dict[str, _Target] = {}
        self._wake = asyncio.Event()

    def update(self, pools: Iterable[Measured]) -> None:
        """Of these pools from now on."""
        found: dict[str, _Target] = {}
        for namespace, exporter, endpoints in pools:
            for endpoint in endpoints:
                if url := exporter.url(endpoint.address, endpoint.port, endpoint.host):
                    target = found.setdefault(url, _Target(url, exporter.interval))
                    target.interval = min(target.interval, exporter.interval)
                    target.endpoints.append((namespace, endpoint))
        for url, target in found.items():
            if known := self._targets.get(url):
                target.due, target.lost = known.due, known.lost
        kept = {str(endpoint) for target in found.values() for _, endpoint in target.endpoints}
        for gone in {str(endpoint) for target in self._targets.values() for _, endpoint in target.endpoints} - kept:
            self._signals.accelerated(gone, None)
        self._targets = found
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        connector = aiohttp.TCPConnector(limit=_AT_ONCE)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_PATIENCE)) as session:
            while True:
                now = asyncio.get_running_loop().time()
                due = [target for target in self._targets.values() if target.due <= now]
                for target in due:
                    target.due = now + target.interval
                await asyncio.gather(*(self._ask(session, target) for target in due))
                await self._sleep()

    async def _sleep(self) -> None:
        """Until the next is due, or there are others."""
        self._wake.clear()
        soonest = min((target.due for target in self._targets.values()), default=None)
        pause = None if soonest is None else max(soonest - asyncio.get_running_loop().time(), 0.01)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _ask(self, session: aiohttp.ClientSession, target: _Target) -> None:
        try:
            async with session.get(target.url, allow_redirects=False) as answer:
                answer.raise_for_status()
                page = await whole(answer, _LARGEST)
        except (aiohttp.ClientError, TimeoutError, OSError):
            self._answered(target.url, None)
        else:
            self._answered(target.url, parse(page))

    def _answered(self, url: str, busy: Busy | None) -> None:
        target = self._targets.get(url)
        if target is None:
            return  # nobody's any more
        target.lost = target.lost + 1 if busy is None else 0
        if busy is None and target.lost < _LOST:
            return  # what it said last is good for a moment
        for namespace, endpoint in target.endpoints:
            self._signals.accelerated(str(endpoint), None if busy is None else busy.of(namespace, endpoint))
