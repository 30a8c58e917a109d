"""Annotations of an InferencePool: how long its requests may wait, where its accelerators are measured, how many ranks it has, who asks
for usage.
"""

from typing import Any

import pytest

from tests.xds_server.test_parse import POOL, refused
from xds_server.model.exporter import Exporter
from xds_server.parse import parse
from xds_server.parse.annotations import pool_exporter, pool_model_lists, pool_ranks, pool_usage, pool_waiting


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


ACCELERATORS = "penstock.dev/accelerator-metrics"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("9400", Exporter(9400)),
        ("9400/gpu/metrics", Exporter(9400, "/gpu/metrics")),
        ("/dcgm", Exporter(0, "/dcgm")),
        ("node:9400", Exporter(9400, on_node=True)),
        (" node:2112/metrics ", Exporter(2112, on_node=True)),
    ],
)
def test_where_accelerators_are_measured(text: str, found: Exporter) -> None:
    meta = parse({**POOL, "metadata": {"name": "p", "annotations": {ACCELERATORS: text}}}).meta
    assert pool_exporter(meta) == found


@pytest.mark.parametrize("text", ["", "0", "70000", "node:", "node:/metrics", "dcgm:9400", "http://dcgm:9400", "/a b"])
def test_an_exporter_that_cannot_be_is_refused(text: str) -> None:
    problem = refused({**POOL, "metadata": {"name": "p", "annotations": {ACCELERATORS: text}}})
    assert problem.field == f"metadata.annotations[{ACCELERATORS}]" and "DCGM" in str(problem)


RANKS = "penstock.dev/data-parallel-ranks"


def of_ranks(text: str) -> dict[str, Any]:
    return {**POOL, "metadata": {"name": "p", "annotations": {RANKS: text}}}


@pytest.mark.parametrize("text", ["", "0", "65", "100", "-1", "two", "1.5", "08", "\u0664"])
def test_ranks_are_counted(text: str) -> None:
    problem = refused(of_ranks(text))
    assert problem.field == f"metadata.annotations[{RANKS}]"
    assert "from 1 to 64" in problem.message and "--data-parallel-size" in problem.message


def test_how_many_ranks_a_port_has() -> None:
    assert pool_ranks(parse(POOL).meta) == 1
    assert [pool_ranks(parse(of_ranks(text)).meta) for text in ("1", "8", "64")] == [1, 8, 64]


USAGE = "penstock.dev/stream-usage"


def of_usage(text: str) -> dict[str, Any]:
    return {**POOL, "metadata": {"name": "p", "annotations": {USAGE: text}}}


def test_who_asks_streams_for_their_usage() -> None:
    assert pool_usage(parse(POOL).meta)
    assert [pool_usage(parse(of_usage(text)).meta) for text in ("ask", " client ")] == [True, False]


@pytest.mark.parametrize("text", ["", "false", "Ask"])
def test_nobody_else_does(text: str) -> None:
    problem = refused(of_usage(text))
    assert problem.field == f"metadata.annotations[{USAGE}]"
    assert "write `client`" in problem.message


LISTS = "penstock.dev/model-lists"


def test_what_servers_list_may_be_ignored() -> None:
    def lists(**annotations: str) -> bool:
        return pool_model_lists(parse({**POOL, "metadata": {"name": "p", "annotations": annotations}}).meta)

    assert lists()
    assert not lists(**{LISTS: "ignore"})
    problem = refused({**POOL, "metadata": {"name": "p", "annotations": {LISTS: "yes"}}})
    assert problem.field == f"metadata.annotations[{LISTS}]" and "`ignore`" in str(problem)
