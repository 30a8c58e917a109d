"""The Kubernetes API -> Latest[ClusterState]: a reflector for each resource, joined into one state at a time.

Nothing is published before everything that is served has been read. What is read depends on what was found: the Pods that an
InferencePool selects, the Secrets and ConfigMaps that something refers to; a change that needs new ones waits for them a moment,
so that no state names a certificate that we are just about to read.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from xds_server.facts import Observe
from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.discovery import Discovery, ask
from xds_server.kubernetes.facts import KindsChanged, WatchFailed
from xds_server.kubernetes.held import Held
from xds_server.kubernetes.reflector import Timing, reflect
from xds_server.kubernetes.resources import REFERENCED, SELECTED, Query, selector
from xds_server.kubernetes.store import Store
from xds_server.latest import Latest
from xds_server.model.objects import (
    GATEWAY_X_GROUP,
    INFERENCE_X_GROUP,
    LLM_D_GROUP,
    ClusterState,
    InferencePool,
    Object,
    ObjectRef,
    Problem,
    XBackend,
)
from xds_server.parse import KINDS

Wanted = Callable[[ClusterState], frozenset[ObjectRef]]
_TIMING = Timing()
_REFUSALS = 3  # in a row, until "forbidden" is believed
_CHOOSING = frozenset({"InferencePool", "XBackend"})  # kinds that select Pods themselves
_OPTIONAL = frozenset(
    {GATEWAY_X_GROUP, INFERENCE_X_GROUP, LLM_D_GROUP}
)  # groups without which the gateway serves, if it may not read them


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, and how many objects are watched one by one."""

    settle: float = 0.005  # a burst of events becomes one state
    discover: float = 10.0  # between two looks at which kinds are served
    patience: float = 5.0  # what a state waits for objects that it is the first to refer to
    absent: float = 2.0  # where an object may only be read by name: between two looks for one that is not there
    present: float = 10.0  # and for changes to one that is
    again: float = 600.0  # until the right to watch one is tried again: an API server that starts refuses everything
    watches: int = 64  # beyond that many referenced objects, the others are read by name: a watch holds a connection


@dataclass(slots=True)
class Running:
    """A query, and the task that keeps its store."""

    query: Query
    store: Store
    answered: bool = False  # found, absent or forbidden: known
    problem: Problem | None = None
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Source:
    """`run` publishes to `states`. `held` has the statuses of the kinds whose status we write."""

    def __init__(
        self,
        api: Api,
        states: Latest[ClusterState],
        wanted: Wanted,
        observe: Observe,
        *,
        namespaces: tuple[str, ...] = (),  # empty: all
        pace: Pace = Pace(),
        timing: Timing = _TIMING,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.held = Held()
        self._api, self._states, self._wanted, self._observe = api, states, wanted, observe
        self._namespaces, self._pace, self._timing, self._chance = tuple(sorted(set(namespaces))), pace, timing, chance
        self._discovery = Discovery()
        self._running: dict[Query, Running] = {}
        self._watches = 0
        self._dirty, self._rediscover = asyncio.Event(), asyncio.Event()
        self._waiting: dict[Query, float] = {}  # not answered, and since when a state refers to it
        self._held_back: float | None = None  # since when no state was published for that
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._tasks:
            self._tasks.create_task(self._discover())
            self._tasks.create_task(self._publish())

    # --- which kinds --------------------------------------------------------------------------------------------------

    async def _discover(self) -> NoReturn:
        while True:
            before = self._discovery.kinds
            self._discovery.update(await ask(self._api))
            kinds = self._discovery.kinds
            if kinds is None:
                await asyncio.sleep(self._timing.backoff.delay(1, self._chance))
                continue
            if kinds != before:
                self._observe(KindsChanged(tuple(sorted(str(each) for each in kinds.values()))))
                self._dirty.set()
            if self._discovery.missing:  # all queries fail at once with 404, and that must not be the second look
                await asyncio.sleep(self._pace.discover)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.discover):
                        await self._rediscover.wait()
            self._rediscover.clear()

    # --- which queries ------------------------------------------------------------------------------------------------

    def _everything(self) -> list[Query]:
        """The queries that do not depend on what is found, the preferred of two groups last."""
        kinds = self._discovery.kinds or {}
        found = []
        for kind in reversed(list(KINDS)):
            resource = kinds.get(kind)
            if resource and kind not in REFERENCED | SELECTED:
                scope = self._namespaces if resource.namespaced else ()
                found += [Query(resource, namespace) for namespace in scope or ("",)]
        return found

    def _dependent(self, base: list[Query]) -> Iterator[Query]:
        """What the objects found so far make us read besides."""
        kinds = self._discovery.kinds or {}
        pods = kinds.get(("", "Pod"))
        choosing = [self._running[query].store for query in base if query.resource.kind in _CHOOSING]
        for store in choosing:
            for each in store.now.objects.values():
                if pods and isinstance(each, InferencePool | XBackend) and each.selector:
                    yield Query(pods, each.meta.namespace, labels=selector(each.selector))
        known = [*base, *(query for query in self._running if query not in base)]
        for ref in sorted(self._wanted(self._state(known))):
            resource = kinds.get((ref.group, ref.kind))
            inside = not self._namespaces or not ref.namespace or ref.namespace in self._namespaces
            if resource and inside and (ref.group, ref.kind) in REFERENCED:
                yield Query(resource, ref.namespace, name=ref.name)

    def _start(self, queries: list[Query]) -> None:
        for query in queries:
            if query not in self._running:
                running = Running(query, Store(query, self.held, self._dirty.set))
                self._running[query] = running
                keep = self._keep_one(running) if query.name else self._keep_all(running)
                running.task = self._tasks.create_task(keep, name=str(query))

    def _stop(self, query: Query) -> None:
        running = self._running.pop(query)
        if running.task:
            running.task.cancel()
        running.store.replace([])

    # --- one state at a time ------------------------------------------------------------------------------------------

    async def _publish(self) -> NoReturn:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(self._pace.settle)
            self._dirty.clear()
            self._consider()

    def _consider(self) -> None:
        """Publish, if what there is makes a whole state."""
        if self._discovery.kinds is None:
            return
        base = self._everything()
        self._start(base)
        unread = [query for query in base if not self._running[query].answered]
        if unread and not self._states.version:
            return
        needed = [*base, *dict.fromkeys(self._dependent(base))]
        self._start(needed)
        unanswered = [query for query in needed if not self._running[query].answered]
        if self._patient(unanswered):
            return
        if unanswered:
            needed = list(dict.fromkeys([*self._running, *needed]))  # the old stays until the new has been read
        else:
            for query in self._running.keys() - needed:
                self._stop(query)
            self._dirty.clear()  # set by what was just let go
        self._states.set(self._state(needed))

    def _patient(self, unanswered: list[Query]) -> bool:
        """Whether to wait for these. Each has its own time, and then takes none of the others'; no state waits longer than one has."""
        loop, patience = asyncio.get_running_loop(), self._pace.patience
        now = loop.time()
        for query in unanswered:
            if query not in self._waiting:
                loop.call_later(patience, self._dirty.set)
        self._waiting = {query: self._waiting.get(query, now) for query in unanswered}
        if any(now - since < patience for since in self._waiting.values()):
            self._held_back = now if self._held_back is None else self._held_back
            if now - self._held_back < patience:
                return True
        self._held_back = None
        return False

    def _state(self, queries: list[Query]) -> ClusterState:
        objects: dict[ObjectRef, Object] = {}
        problems: dict[ObjectRef, Problem] = {}
        denied = []
        for query in queries:
            running = self._running[query]
            objects.update(running.store.now.objects)
            problems.update(running.store.now.problems)
            if running.problem:
                denied.append(running.problem)
        return ClusterState(objects, (*denied, *(problems[ref] for ref in sorted(problems))))

    # --- one query ----------------------------------------------------------------------------------------------------

    def _answered(self, running: Running, problem: Problem | None = None, *, known: bool = True) -> None:
        if (running.answered, running.problem) != (known or running.answered, problem):
            running.answered, running.problem = known or running.answered, problem
            self._dirty.set()

    async def _reflect(self, running: Running) -> NoReturn:
        def synced() -> None:
            self._answered(running)

        await reflect(self._api, running.query, running.store, synced, self._observe, self._timing, self._chance)

    async def _keep_all(self, running: Running) -> NoReturn:
        """Reflect; where that is refused, or the kind is gone, keep what there is and try again."""
        resource, attempt, backoff = running.query.resource, 0, self._timing.backoff
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._reflect(running)
            except ApiError as error:  # an API server that starts refuses, too, until it has read its roles
                attempt = 1 if loop.time() - began > backoff.ceiling else attempt + 1
                delay = backoff.delay(attempt, self._chance)
                self._observe(WatchFailed(str(running.query), error.code, error.message, delay))
                if error.code == 404:
                    self._rediscover.set()
                else:
                    self._answered(
                        running, forbidden(running.query, "list and watch"), known=resource.group in _OPTIONAL
                    )
            await asyncio.sleep(delay)

    async def _keep_one(self, running: Running) -> NoReturn:
        """Watch one object by its name, or read it again and again where only that is allowed."""
        loop = asyncio.get_running_loop()
        while True:
            if self._watches < self._pace.watches:
                self._watches += 1
                try:
                    await self._reflect(running)
                except ApiError:
                    pass  # a role may grant `get` alone
                finally:
                    self._watches -= 1
            attempt, again = 0, loop.time() + self._pace.again
            while loop.time() < again:
                attempt, delay = await self._look(running, attempt)
                await asyncio.sleep(delay)

    async def _look(self, running: Running, attempt: int) -> tuple[int, float]:
        """One GET; the failures in a row, and how long to wait."""
        query = running.query
        try:
            found = await self._api.get(query.resource.path(query.namespace, query.name))
        except ApiError as error:
            if error.code == 404:
                running.store.replace([])
                self._answered(running)
                return 0, self._pace.absent
            if error.code == 403 and attempt + 1 >= _REFUSALS:
                self._answered(running, forbidden(query, "get"))
                return attempt + 1, self._pace.present
            if (
                error.code == 403
            ):  # said too by an API server that has not read its roles yet: no listener must go for that
                return attempt + 1, self._pace.absent
            delay = self._timing.backoff.delay(attempt + 1, self._chance, error.retry_after)
            self._observe(WatchFailed(str(query), error.code, error.message, delay))
            return attempt + 1, delay
        running.store.replace([found])
        self._answered(running)
        return 0, self._pace.present * (0.9 + 0.2 * self._chance())


def forbidden(query: Query, verbs: str) -> Problem:
    ref = query.resource.ref(query.namespace, query.name) if query.name else None
    where = f" in namespace {query.namespace}" if query.namespace else ""
    message = f"{query.resource} may not be read{where}; grant {verbs} on it to the gateway's service account"
    return Problem(ref, "", "Forbidden", message)
