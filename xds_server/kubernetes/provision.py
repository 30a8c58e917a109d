"""The provisioner: gives each Gateway the Envoys that serve it, as long as we lead.

Level-triggered, like the status writer: what counts is the newest Graph and what was last applied of it. Server-side apply with
one field manager leaves alone what others set (a HorizontalPodAutoscaler's replicas); everything is applied again from time to
time, for somebody may have deleted it. What a Gateway owns goes with it: ownerReferences; what it has no more need of, here.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import xxhash

from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.backoff import Backoff
from xds_server.kubernetes.facts import Provisioned, ProvisionFailed
from xds_server.latest import Latest
from xds_server.model.graph import Fleet, Graph

Json = dict[str, Any]
Manifests = Callable[[str, Fleet], list[Json]]  # what a fleet, by its name, needs in the cluster; raises nothing
MANAGER = "penstock"
_BACKOFF = Backoff(base=0.5, ceiling=30.0)
# Where the kinds that we make are served: their API is older than any cluster that has Gateway API.
_COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
}


class _NotLeading(Exception):
    """Another replica may have begun: what is left is its own to do."""


class Provisioner:
    """`run` applies; a fact for each Gateway served and each failure goes to `observe`."""

    def __init__(
        self,
        api: Api,
        graphs: Latest[Graph],
        leading: Latest[bool],
        manifests: Manifests,
        observe: Callable[[object], None],
        *,
        keeps: Callable[[str], bool] = lambda _: False,  # whether a fleet that nobody describes now is to stay
        again: float = 60.0,  # seconds until everything is applied again
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self._api, self._graphs, self._leading, self._manifests = api, graphs, leading, manifests
        self._observe, self._keeps, self._again, self._backoff = observe, keeps, again, backoff
        # fleet -> path of an object -> hash of what was applied; "" where nobody knows what is there
        self._applied: dict[str, dict[str, str]] = {}
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}  # fleet -> not before: after a failure
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(self._graphs))
            tasks.create_task(self._follow(self._leading))
            tasks.create_task(self._work())

    async def _follow(self, cell: Latest[Any]) -> None:
        async for _ in cell.values():
            self._wake.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        renew = loop.time() + self._again
        while True:
            try:
                async with asyncio.timeout_at(min([renew, *self._due.values()])):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if not self._leading.value or self._graphs.value is None:
                self._applied.clear()  # another replica may apply meanwhile
                self._due.clear()  # what is due and never done would wake us for ever
                renew = loop.time() + self._again
                continue
            if loop.time() >= renew:
                renew = loop.time() + self._again
                self._applied = {name: dict.fromkeys(paths, "") for name, paths in self._applied.items()}
            await self._pass(self._graphs.value, loop.time())

    async def _pass(self, graph: Graph, now: float) -> None:
        fleets = {name: fleet for name, fleet in graph.fleets.items() if fleet.gateway is not None}
        for name in [name for name in self._applied if name not in fleets]:
            if self._due.get(name, 0.0) > now:
                continue
            if self._keeps(name):
                self._due.pop(name, None)
            else:
                await self._guarded(name, self._abandon(name), now)
        for name, fleet in fleets.items():
            if self._due.get(name, 0.0) <= now:
                await self._guarded(name, self._apply(name, fleet), now)

    async def _guarded(self, name: str, work: Any, now: float) -> None:
        """A Gateway that cannot be provisioned harms no other."""
        try:
            await work
        except _NotLeading:
            pass
        except ApiError as error:
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            delay = self._backoff.delay(failures, lambda: 0.5, error.retry_after)
            self._due[name] = now + delay
            self._observe(ProvisionFailed(name, error.code, error.message, delay))
        else:
            self._failures.pop(name, None)
            self._due.pop(name, None)

    async def _apply(self, name: str, fleet: Fleet) -> None:
        wanted = {path_of(each): each for each in self._manifests(name, fleet)}
        before = self._applied.get(name, {})
        done = dict(before)
        self._applied[name] = done
        for path, manifest in wanted.items():
            digest = xxhash.xxh3_128_hexdigest(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS))
            if before.get(path) != digest:
                if path not in before:
                    await self._check(path, manifest)
                else:
                    done[path] = ""  # until it is answered: it may be done though no answer comes
                self._must_lead()
                await self._api.apply(path, manifest, MANAGER)
                done[path] = digest
        # A Gateway whose last listener goes keeps its Service, and so its address, for the listener that comes; one of another
        # class has another.
        renamed = any(map(_is_service, wanted))
        gone = [path for path in before if path not in wanted and (renamed or not _is_service(path))]
        await self._remove(gone, done)
        if done != before:
            self._observe(Provisioned(name, len(wanted)))

    async def _abandon(self, name: str) -> None:
        """Forgotten only once it is gone: what could not be removed is tried again."""
        known = self._applied[name]
        await self._remove(list(known), known)
        del self._applied[name]

    async def _check(self, path: str, manifest: Json) -> None:
        """What has our name but belongs to someone else is not ours to overwrite."""
        try:
            found = await self._api.get(path)
        except ApiError as error:
            if error.code == 404:
                return
            raise
        if _owner(found) != _owner(manifest):
            what = f"{manifest['kind']} {manifest['metadata']['namespace']}/{manifest['metadata']['name']}"
            raise ApiError(
                409, "AlreadyExists", f"{what} exists and belongs to someone else; delete it or rename the Gateway"
            )

    async def _remove(self, paths: list[str], known: dict[str, str]) -> None:
        """One by one, out of `known` too: should the fleet come back before all are gone, it needs anew what is."""
        for path in paths:
            self._must_lead()
            known[path] = ""
            try:
                await self._api.delete(path)
            except ApiError as error:
                if error.code != 404:
                    raise
            del known[path]

    def _must_lead(self) -> None:
        """Asked before each write: by the clock, for a process that was stopped for a while does not know yet. Raises _NotLeading."""
        if not self._leading.value:
            raise _NotLeading


def _owner(manifest: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(each["uid"] for each in manifest["metadata"].get("ownerReferences") or ())


def _is_service(path: str) -> bool:
    return "/services/" in path


def path_of(manifest: Mapping[str, Any]) -> str:
    """Where the API server has it."""
    meta = manifest["metadata"]
    return f"{_COLLECTIONS[manifest['kind']].format(meta['namespace'])}/{meta['name']}"
