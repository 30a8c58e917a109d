"""The status writer: makes the statuses that objects hold equal to the Graph's, as long as we lead.

Level-triggered: what counts is the newest Graph and the newest status, not the events between. Every patch names the
resourceVersion that it was computed from, because a merge patch replaces whole lists: an entry that somebody else has just
added is then a conflict, is read, and is kept. Source: Kubernetes API conventions; Gateway API, GatewayPreserveForeignConditions.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import is_
from typing import Any, NoReturn

from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.backoff import Backoff
from xds_server.kubernetes.facts import StatusFailed, StatusWritten
from xds_server.kubernetes.held import Entry, Held
from xds_server.kubernetes.pacing import Pacing
from xds_server.latest import Latest
from xds_server.model.graph import CONTROLLER, Graph, ObjectStatus
from xds_server.model.objects import ObjectRef
from xds_server.status import FIELDS, patches

MANAGER = "penstock"
_STRIDE = 256  # objects compared (5 us each) before others may run
_OURS = CONTROLLER.encode()
_LISTED = frozenset({"parents", "ancestors"})  # fields that several controllers write


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds, and how many requests at a time."""

    workers: int = 16
    grace: float = 5.0  # an object that the Graph lacks may just be newer than the Graph
    backoff: Backoff = Backoff(base=0.25, ceiling=30.0)


class Writer:
    """`run` writes; a fact for each write and each failure goes to `observe`."""

    def __init__(
        self,
        api: Api,
        graphs: Latest[Graph],
        held: Held,
        leading: Latest[bool],
        observe: Callable[[object], None],
        *,
        effort: Effort = Effort(),
        pacing: Pacing | None = None,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api, self._graphs, self._held, self._leading, self._observe = api, graphs, held, leading, observe
        self._effort, self._pacing, self._wall, self._chance = effort, pacing or Pacing(), wall, chance
        self._graph: Graph | None = None
        self._queue: asyncio.Queue[ObjectRef] = asyncio.Queue()
        self._queued: set[ObjectRef] = set()
        self._busy: dict[ObjectRef, bool] = {}  # being written; True: look again afterwards
        self._timers: dict[ObjectRef, asyncio.TimerHandle] = {}
        self._failures: dict[ObjectRef, int] = {}
        self._missing: dict[ObjectRef, float] = {}  # ours, but not in the Graph since

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._effort.workers):
                    tasks.create_task(self._work())
                tasks.create_task(self._follow_graphs())
                tasks.create_task(self._follow_held())
                tasks.create_task(self._follow_leading())
        finally:
            for timer in self._timers.values():
                timer.cancel()

    # --- what to look at ----------------------------------------------------------------------------------------------

    async def _follow_graphs(self) -> None:
        async for graph in self._graphs.values():
            before, self._graph = self._graph, graph
            if before is None:
                await self._look_at(self._held)
                continue
            changed: list[ObjectRef] = []
            if not all(map(is_, before.statuses, graph.statuses)) or len(before.statuses) != len(graph.statuses):
                changed += [ref for ref in before.statuses if ref not in graph.statuses]
            for count, (ref, status) in enumerate(graph.statuses.items()):
                was = before.statuses.get(ref)
                if was is not status and was != status:
                    changed.append(ref)
                if count % _STRIDE == _STRIDE - 1:
                    await asyncio.sleep(0)
            await self._look_at(changed)

    async def _follow_held(self) -> NoReturn:
        while True:
            await self._look_at(await self._held.changes())

    async def _follow_leading(self) -> None:
        async for leads in self._leading.values():
            if leads:
                await self._look_at(list(self._held))

    async def _look_at(self, refs: Iterable[ObjectRef]) -> None:
        if self._leading.value and self._graph is not None:
            for ref in list(refs):
                self._enqueue(ref)

    def _enqueue(self, ref: ObjectRef) -> None:
        if ref in self._busy:
            self._busy[ref] = True
        elif ref not in self._queued:
            self._queued.add(ref)
            self._queue.put_nowait(ref)

    def _later(self, ref: ObjectRef, delay: float) -> None:
        if timer := self._timers.pop(ref, None):
            timer.cancel()

        def due() -> None:
            self._timers.pop(ref, None)
            self._enqueue(ref)

        self._timers[ref] = asyncio.get_running_loop().call_later(delay, due)

    # --- one object ---------------------------------------------------------------------------------------------------

    async def _work(self) -> NoReturn:
        while True:
            ref = await self._queue.get()
            self._queued.discard(ref)
            self._busy[ref] = False
            await self._settle(ref)
            await asyncio.sleep(0)  # most need nothing: others may run between them
            if self._busy.pop(ref):
                self._enqueue(ref)

    async def _settle(self, ref: ObjectRef) -> None:
        """Write what differs, if anything does and if we may now."""
        entry, now = self._held.entry(ref), asyncio.get_running_loop().time()
        if entry is None:
            self._forget(ref)
            return
        wish = self._wish(ref, entry, now)
        if wish is None or not self._leading.value:
            return
        status = differing(wish, self._held[ref], self._wall())
        if not status:
            self._failures.pop(ref, None)
            return
        if wait := self._pacing.wait(ref, wish, now):
            self._later(ref, wait)
            return
        try:
            await self._write(ref, entry, wish, status)
        except ApiError as error:
            await self._recover(ref, entry, error)

    def _wish(self, ref: ObjectRef, entry: Entry, now: float) -> ObjectStatus | None:
        """What the status should say; None where it is not our business, or may be in a moment."""
        wish = self._graph.statuses.get(ref) if self._graph else None
        if wish is not None:
            self._missing.pop(ref, None)
            return wish
        if not _LISTED.intersection(FIELDS.get(ref.kind, ())) or _OURS not in entry.status:
            return None
        since = self._missing.setdefault(ref, now)
        if now - since < self._effort.grace:
            self._later(ref, since + self._effort.grace - now)
            return None
        return ObjectStatus(ref)  # it has left our Gateways: so do our entries

    async def _write(self, ref: ObjectRef, entry: Entry, wish: ObjectStatus, status: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        body = {"metadata": {"resourceVersion": entry.version}, "status": status}
        found = await self._api.patch(f"{entry.path}/status", body, MANAGER)
        self._pacing.wrote(ref, wish, loop.time())
        self._failures.pop(ref, None)
        self._answered(ref, entry, found)
        self._observe(StatusWritten(ref, loop.time() - began))

    async def _recover(self, ref: ObjectRef, entry: Entry, error: ApiError) -> None:
        """Conflict: read the object and try again. Gone: forget it. Else: try again, later and later."""
        failures = self._failures[ref] = self._failures.get(ref, 0) + 1
        delay = self._effort.backoff.delay(failures, self._chance, error.retry_after)
        if error.code in (404, 409):
            try:
                self._answered(ref, entry, await self._api.get(entry.path))
            except ApiError as again:
                if again.code == 404:
                    self._held.remove(ref, entry.path)
                    self._forget(ref)
                    return
                error = again
            else:
                if error.code == 409:  # ordinary, where others write too
                    self._later(ref, 0.0 if failures == 1 else delay)
                    return
        self._observe(StatusFailed(ref, error.code, error.message, delay))
        self._later(ref, delay)

    def _answered(self, ref: ObjectRef, entry: Entry, found: dict[str, Any]) -> None:
        """Held, unless the object that it was asked of is gone by now: a watch may tell that before the answer comes."""
        now = self._held.entry(ref)
        if now is not None and now.uid == entry.uid:
            self._held.put(ref, Entry.of(entry.path, found))

    def _forget(self, ref: ObjectRef) -> None:
        self._pacing.forget(ref)
        self._failures.pop(ref, None)
        self._missing.pop(ref, None)


def differing(wish: ObjectStatus, held: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The fields of the status to write, or none."""
    found = patches(Graph(statuses={wish.ref: wish}), {wish.ref: held}, now)
    status: dict[str, Any] = found[0][1]["status"] if found else {}
    return status
