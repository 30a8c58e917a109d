"""Annotations of an InferencePool that say how long its requests may wait."""

import pytest

from tests.xds_server.test_parse import POOL, refused
from xds_server.parse import parse
from xds_server.parse.annotations import pool_waiting


@pytest.mark.parametrize("name", ["penstock.dev/queue-ttl", "penstock.dev/ttft-objective"])
def test_times_of_a_pool_are_durations(name: str) -> None:
    problem = refused({**POOL, "metadata": {"name": "p", "annotations": {name: "soon"}}})
    assert problem.field == f"metadata.annotations[{name}]"
    parse({**POOL, "metadata": {"name": "p", "annotations": {name: "1m30s"}}})


def test_how_long_requests_of_a_pool_may_wait() -> None:
    def waiting(**annotations: str) -> tuple[float | None, float | None]:
        named = {f"penstock.dev/{name.replace('_', '-')}": text for name, text in annotations.items()}
        return pool_waiting(parse({**POOL, "metadata": {"name": "p", "annotations": named}}).meta)

    assert waiting() == (None, None)
    assert waiting(queue_ttl="0s", ttft_objective="500ms") == (0.0, 0.5)
    assert waiting(ttft_objective="0s") == (None, None)
