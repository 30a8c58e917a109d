"""Reconcile: the shell that turns each new ClusterState into a Graph and the snapshot of each fleet.

A change after a quiet time is served at once; a burst is let settle, but never longer than the ceiling. Nothing is published
before the first state: `Latest` holds none. Compare Contour's event handler (holdoff) and Istio's debounce.
"""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from xds_server import resolve, translate
from xds_server.facts import Observe, Reconciled, ReconcileFailed
from xds_server.latest import Latest
from xds_server.model.graph import Graph
from xds_server.model.objects import ClusterState, HTTPRoute
from xds_server.resolve import MERGED, Resolved, Setting
from xds_server.snapshot import Snapshot
from xds_server.translate import DataPlane, Translated

T = TypeVar("T")
_LARGE = 100  # objects and matches of routes: more would hold the event loop, which also serves picks (0.2 ms each)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds."""

    settle: float = 0.05  # after a change, wait for more
    ceiling: float = 1.0  # but no longer than this


async def reconcile(
    states: Latest[ClusterState],
    graphs: Latest[Graph],
    snapshots: Latest[Mapping[str, Snapshot]],
    plane: DataPlane,
    observe: Observe,
    pace: Pace = Pace(),
    setting: Setting = MERGED,
) -> None:
    """Publish until cancelled. Stages are total; where one is not, that is our mistake, but one tenant's object must not end what
    serves all the others: what was published stays, the fact says so, and the next state is tried.
    """
    found: Stages | None = None
    async for state in paced(states, pace):
        began = time.perf_counter()
        try:
            newer = narrow(found, state, plane) if found else None
            if newer is None and _size(state) > _LARGE:
                newer = await asyncio.to_thread(whole, state, plane, setting)
            found = newer or whole(state, plane, setting)
        except Exception as error:  # noqa: BLE001  the last guard
            found = None
            observe(ReconcileFailed("".join(traceback.format_exception(error))))
            continue
        graph, fleets = found.resolved.graph, found.translated.snapshots
        graphs.set(graph)  # the picker knows a pool before Envoy asks for it
        snapshots.set(fleets)
        resources = sum(len(each) for snapshot in fleets.values() for each in snapshot.resources.values())
        observe(Reconciled(time.perf_counter() - began, len(state.objects), len(graph.problems), resources))


@dataclass(frozen=True, slots=True)
class Stages:
    """A state, and everything that it became."""

    resolved: Resolved
    translated: Translated


def whole(state: ClusterState, plane: DataPlane, setting: Setting = MERGED) -> Stages:
    """From nothing but the state: the reference for `narrow`."""
    found = resolve.resolved(state, setting)
    return Stages(found, translate.translated(found.graph, plane))


def narrow(before: Stages, state: ClusterState, plane: DataPlane) -> Stages | None:
    """The same from the stages of an older state, in a few ms whatever its size; None where that cannot be."""
    found = resolve.advance(before.resolved, state)
    if found is None:
        return None
    translated = translate.advance(before.translated, found.graph, plane)
    return Stages(found, translated) if translated else None


def _size(state: ClusterState) -> int:
    """What a state costs: its objects, and its Envoy routes, of which one HTTPRoute may have 128."""
    rules = (rule for route in state.all(HTTPRoute) for rule in route.rules)
    return len(state.objects) + sum(len(rule.matches) for rule in rules)


async def paced(values: Latest[T], pace: Pace) -> AsyncIterator[T]:
    """The values of a cell, bursts joined: at once when it was quiet, else the newest once it settles."""
    loop = asyncio.get_running_loop()
    seen, quiet_from = 0, float("-inf")
    while True:
        seen, value = await values.next(seen)
        now = loop.time()
        if now < quiet_from:
            seen, value = await _settled(values, seen, value, pace)
        yield value
        quiet_from = loop.time() + pace.settle


async def _settled(values: Latest[T], seen: int, value: T, pace: Pace) -> tuple[int, T]:
    loop = asyncio.get_running_loop()
    latest = loop.time() + pace.ceiling
    while True:
        try:
            async with asyncio.timeout_at(min(loop.time() + pace.settle, latest)):
                seen, value = await values.next(seen)
        except TimeoutError:
            return seen, value
