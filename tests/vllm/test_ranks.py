"""Two data-parallel ranks behind one port: vLLM takes the header, and says of each rank what the picker believes of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.waiting import until
from tests.vllm.rig import POOL, before
from tests.vllm.server import Options, Server

pytestmark = pytest.mark.envoy
RANKS = Options(
    arguments=("--data-parallel-size=2", "--api-server-count=1"),  # several API servers refuse adapters at run time
    environment=(("VLLM_ENABLE_V1_MULTIPROCESSING", "1"),),  # an engine has a process of its own
)


@pytest.fixture
def server(vllm: Path, models: Path, tmp_path: Path) -> Iterator[Server]:
    found = Server(vllm, models, tmp_path / "ranks.log", RANKS)
    try:
        found.start()
        found.ready()
        yield found
    finally:
        found.stop()


async def test_prompts_stay_on_their_rank_and_are_cached_there(server: Server, tmp_path: Path) -> None:
    more = 'penstock.dev/data-parallel-ranks: "2"\n    penstock.dev/kv-events: auto'
    prompts = [f"{number} tells of another thing that nobody knew. " * 60 for number in range(12)]
    async with before([server], tmp_path / "m", more=more) as gateway:
        where: list[str] = []
        cached: list[int] = []
        for prompt in (*prompts, *prompts, *prompts):
            asked = {"model": "base", "prompt": prompt, "max_tokens": 2}
            answer = await gateway.post("/v1/completions", asked, x_data_parallel_rank="99")  # alone vLLM answers 400
            assert answer.status == 200
            outcome = await gateway.outcome_of(answer)
            where.append(outcome.endpoint)
            cached.append(outcome.cached_tokens or 0)
        assert set(where) == {f"{server.address}@0", f"{server.address}@1"}
        stayed = [i for i in range(12, 36) if where[i] == where[i % 12]]
        assert len(stayed) >= 18 and min(cached[i] for i in stayed) > 600
        hits = {
            rank: sum(found for found, name in zip(cached, where, strict=True) if name.endswith(rank)) for rank in "01"
        }
        page = server.metrics()
        for rank, found in hits.items():
            assert f'vllm:prefix_cache_hits_total{{engine="{rank}",model_name="base"}} {found}.0' in page
        known = gateway.gateway.picker.precise(POOL)
        assert known is not None
        await until(lambda: all(known[1].feeds[name].events for name in set(where)), "the KV events of both ranks")
        assert gateway.gateway.report.status()["pools"][POOL]["notes"] == []
