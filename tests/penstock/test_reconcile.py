"""The pace of reconciling, in virtual time: at once when it was quiet, bursts joined, never longer than the ceiling."""

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from xds_server.facts import Reconciled, ReconcileFailed
from xds_server.latest import Latest
from xds_server.model.graph import EVERYTHING, Graph
from xds_server.model.objects import ClusterState
from xds_server.reconcile import Pace, paced, reconcile, whole
from xds_server.snapshot import LDS, Snapshot
from xds_server.sources import files
from xds_server.translate import DataPlane

PACE = Pace(settle=0.05, ceiling=1.0)
EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when everybody waits for it, and then at once."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            due = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
            self.now = max(self.now, min(due, default=self.now))
        super()._run_once()  # type: ignore[misc]


def run(sets: Iterable[tuple[float, int]], until: float) -> list[tuple[float, int]]:
    """(time, value) of what `paced` gives when the cell is set at these times; the clock is virtual."""

    async def main() -> list[tuple[float, int]]:
        cell: Latest[int] = Latest()
        loop = asyncio.get_running_loop()
        start, found = loop.time(), []
        for at, value in sets:
            loop.call_at(start + at, cell.set, value)
        try:
            async with asyncio.timeout(until):
                async for value in paced(cell, PACE):
                    found += [(round(loop.time() - start, 3), value)]
        except TimeoutError:
            return found
        raise AssertionError("it never ends by itself")

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


def test_nothing_comes_before_the_first_value() -> None:
    assert run([], until=100) == []


def test_a_change_after_a_quiet_time_comes_at_once() -> None:
    assert run([(1.0, 1), (5.0, 2)], until=10) == [(1.0, 1), (5.0, 2)]


def test_a_burst_is_two_values_the_first_and_the_last() -> None:
    burst = [(1.0 + step / 100, step) for step in range(11)]
    assert run(burst, until=10) == [(1.0, 0), (1.15, 10)]


def test_changes_that_never_settle_come_at_least_once_a_ceiling() -> None:
    flood = [(step / 100, step + 1) for step in range(500)]
    times = [time for time, _ in run(flood, until=5)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= PACE.ceiling + PACE.settle
    assert len(times) < 12


def test_an_equal_value_is_no_change() -> None:
    assert run([(1.0, 7), (2.0, 7)], until=10) == [(1.0, 7)]


async def first(state: ClusterState) -> tuple[Graph, Mapping[str, Snapshot], list[object]]:
    """What one state becomes."""
    states: Latest[ClusterState] = Latest(state)
    graphs: Latest[Graph] = Latest()
    snapshots: Latest[Mapping[str, Snapshot]] = Latest()
    facts: list[object] = []
    task = asyncio.create_task(reconcile(states, graphs, snapshots, DataPlane(), facts.append))
    try:
        found = await snapshots.get()
        while not facts:
            await asyncio.sleep(0)
        return await graphs.get(), found, facts
    finally:
        task.cancel()


async def test_a_state_becomes_a_graph_a_snapshot_and_a_fact() -> None:
    state = files.read(EXAMPLE).state
    graph, snapshots, facts = await first(state)
    assert set(graph.pools) == {"default/gemma", "default/llm-base"}
    assert set(snapshots[EVERYTHING].of_type(LDS)) == {"tcp-8080"}
    [fact] = facts
    assert isinstance(fact, Reconciled)
    assert (fact.objects, fact.problems) == (len(state.objects), 0)
    assert fact.resources == sum(map(len, snapshots[EVERYTHING].resources.values()))


async def test_many_objects_are_resolved_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    to_thread = asyncio.to_thread

    async def noted(work: object, *given: object) -> object:
        asked.append(work)
        return await to_thread(work, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "to_thread", noted)
    monkeypatch.setattr("xds_server.reconcile._LARGE", 3)
    await first(replace(files.read(EXAMPLE).state))
    assert len(asked) == 1


async def test_our_own_mistake_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [True]

    def sometimes(*given: object) -> object:
        if broken:
            raise RuntimeError("a stage is not total")
        return whole(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("xds_server.reconcile.whole", sometimes)
    states, graphs, facts = Latest[ClusterState](), Latest[Graph](), []
    failed = asyncio.Event()

    def observe(fact: object) -> None:
        facts.append(fact)
        failed.set()

    task = asyncio.create_task(reconcile(states, graphs, Latest(), DataPlane(), observe))
    try:
        states.set(files.read(EXAMPLE).state)
        await failed.wait()
        assert isinstance(facts[0], ReconcileFailed) and "a stage is not total" in facts[0].traceback
        assert graphs.value is None
        broken.clear()
        states.set(ClusterState())
        assert await graphs.get() == whole(ClusterState(), DataPlane()).resolved.graph
    finally:
        task.cancel()
