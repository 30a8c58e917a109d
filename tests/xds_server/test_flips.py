"""A real Envoy under load loses no request while its route moves to brand-new clusters."""

import pytest

from benchmarks.flips import measure


@pytest.mark.envoy
@pytest.mark.parametrize(("eds_delay_ms", "workers"), [(0, 1), (20, 2)])
async def test_no_request_fails(eds_delay_ms: int, workers: int) -> None:
    row = await measure(5, eds_delay_ms, workers)
    assert row.requests > 0
    assert (row.failed, row.nacks, row.overdue) == (0, 0, 0)


@pytest.mark.envoy
@pytest.mark.parametrize("grace", [0.021, 0.025])
async def test_no_request_fails_where_clusters_come_back_as_they_are_about_to_go(grace: float) -> None:
    """A flip takes 0.02 s and what the ACKs need: the grace ends just when its cluster is wanted again."""
    row = await measure(40, 0, 1, clusters=2, grace=grace)
    assert row.requests > 0
    assert (row.failed, row.nacks, row.overdue) == (0, 0, 0)
