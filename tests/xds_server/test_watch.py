"""The watch of a directory that loses its manifests, or has none: the fleet keeps what it has, and is told why."""

import asyncio
from pathlib import Path

from xds_server.latest import Latest
from xds_server.model.objects import ClusterState
from xds_server.sources.files import watch

OBJECT = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"


async def states_of(directory: Path, *edits: object) -> list[ClusterState]:
    """The state at the start and after each edit."""
    states: Latest[ClusterState] = Latest()
    found = []
    task = asyncio.create_task(watch(directory, states, poll=0.001))
    try:
        seen, state = await states.next(0)
        found.append(state)
        for edit in edits:
            assert callable(edit)
            edit()
            seen, state = await states.next(seen)
            found.append(state)
    finally:
        task.cancel()
    return found


async def test_a_directory_that_becomes_empty_takes_nothing_away(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(OBJECT)
    before, empty, again = await states_of(tmp_path, file.unlink, lambda: file.write_text(OBJECT))
    assert empty.objects == before.objects == again.objects
    assert [problem.message for problem in empty.problems] == [
        "holds no manifest any more; restore them; the last state stays in effect"
    ]
    assert not again.problems


async def test_a_directory_without_manifests_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (state,) = await states_of(tmp_path)
    assert not state.objects
    assert [problem.message for problem in state.problems] == ["holds no manifest (.yaml, .yml, .json)"]
