"""Holds a Lease, so that one replica of all leads: the shell of `election`. Needs get, create and patch on Leases."""

import asyncio
import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.election import Candidate, Terms, release
from xds_server.kubernetes.facts import LeadershipChanged, LeaseFailed
from xds_server.latest import Latest

_API = "coordination.k8s.io/v1"
_TERMS = Terms()
_PARTING = 2.0  # seconds that giving the Lease back may take


class Leading(Latest[bool]):
    """Whether we lead. Also by the clock: a process that was stopped for a while acts before anybody tells it that it lost."""

    __slots__ = ("until",)

    def __init__(self) -> None:
        super().__init__()
        self.until = math.inf  # of time.monotonic(), which event loops count in

    @property
    def value(self) -> bool | None:
        found = super().value
        return found if not found else time.monotonic() < self.until


class Lease:
    """`run` campaigns and leads until cancelled, then gives the Lease back. `leading` is False before it is True."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        name: str,
        identity: str,  # of this process: the pod's name, and something that a restart changes
        leading: Leading,
        observe: Callable[[object], None],
        *,
        terms: Terms = _TERMS,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api, self._namespace, self._name, self._leading, self._observe = api, namespace, name, leading, observe
        self._terms, self._wall, self._chance = terms, wall, chance
        self._candidate = Candidate(identity, terms)
        self._collection = f"/apis/{_API}/namespaces/{namespace}/leases"
        self._renewed = 0.0  # when the last renewal that succeeded began

    async def run(self) -> NoReturn:
        self._leading.set(False)
        try:
            while True:
                await self._round()
                await asyncio.sleep(self._pause())
        finally:
            held = self._leading.value
            self._lead(False)
            if held:
                await self._release()

    async def _round(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if began >= self._limit():
            self._lead(False)  # we slept; if the Lease is still ours, that is a new start
        limit = self._limit() if self._leading.value else began + self._terms.deadline
        try:
            async with asyncio.timeout_at(limit):
                ours = await self._claim()
        except (ApiError, TimeoutError) as error:
            code, message = (error.code, error.message) if isinstance(error, ApiError) else (0, "no answer in time")
            if code != 409:  # a conflict: somebody was quicker, and the next look says who
                self._observe(LeaseFailed(f"{self._namespace}/{self._name}", code, message))
            if loop.time() >= self._limit():
                self._lead(False)
            return
        if ours:
            if not self._leading.value:
                # Over by the clock, and perhaps nobody was told: who asked meanwhile has to ask again.
                self._lead(False)
            self._renewed = began
            self._leading.until = self._limit()
        self._lead(ours)

    async def _claim(self) -> bool:
        """Read the Lease, and write what makes it ours. Whether it is."""
        try:
            lease: dict[str, Any] | None = await self._api.get(f"{self._collection}/{self._name}")
        except ApiError as error:
            if error.code != 404:
                raise
            lease = None
        spec = self._candidate.claim(lease, asyncio.get_running_loop().time(), self._wall())
        if spec is None:
            return False
        if lease is None:
            meta = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": _API, "kind": "Lease", "metadata": meta, "spec": spec}
            await self._api.create(self._collection, body)
        else:
            await self._patch(spec, lease["metadata"]["resourceVersion"])
        return True

    async def _patch(self, spec: dict[str, Any], version: str) -> None:
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        await self._api.patch(f"{self._collection}/{self._name}", body)

    async def _release(self) -> None:
        with suppress(ApiError, TimeoutError):  # then the others wait for it to expire
            async with asyncio.timeout(_PARTING):
                lease = await self._api.get(f"{self._collection}/{self._name}")  # a renewal cut off may have arrived
                if lease["spec"].get("holderIdentity") == self._candidate.identity:
                    await self._patch(release(self._wall()), lease["metadata"]["resourceVersion"])

    def _limit(self) -> float:
        return self._renewed + self._terms.deadline

    def _pause(self) -> float:
        if not self._leading.value:
            return self._terms.retry * (1.0 + 1.2 * self._chance())  # client-go's JitterFactor
        return max(0.0, min(self._terms.retry, self._limit() - asyncio.get_running_loop().time()))

    def _lead(self, leading: bool) -> None:
        if self._leading.set(leading):
            lease = f"{self._namespace}/{self._name}"
            self._observe(LeadershipChanged(lease, self._candidate.identity, leading))
