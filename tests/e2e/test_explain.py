"""Why a request was decided as it was: asked for by header, served, logged, and decided again, through the real Envoy."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from penstock import cli
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import QUICK, Answer, World, serving, sim, world

pytestmark = pytest.mark.envoy
CANARY = "canary-77b0"
BODY = {"model": "base", "prompt": f"{CANARY} " * 60, "max_tokens": 2}
ROUTE = route("all", rule("/v1", to_pool("base")))
SECRETS = {"authorization": f"Bearer {CANARY}", "cookie": f"a={CANARY}", "x_session_token": CANARY}


async def telemetry(gateway: World, path: str) -> tuple[int, str]:
    async with gateway.session.get(f"http://{gateway.gateway.settings.telemetry}{path}") as response:
        return response.status, await response.text()


async def asked(gateway: World, **headers: str) -> Answer:
    return await gateway.post("/v1/completions", BODY, penstock_explain="1", **headers)


async def test_a_client_that_asks_is_told_the_id_and_the_record_is_served(tmp_path: Path) -> None:
    async with serving(sim("a"), sim("b")) as servers:
        text = documents(GATEWAY, pool("base", servers), ROUTE)
        async with world(tmp_path, {"all.yaml": text}, explain=True, decisions_rate=0.0) as gateway:
            assert (await gateway.post("/v1/completions", BODY)).header("penstock-decision") == ""
            answer = await asked(gateway, **SECRETS)
            id_ = answer.header("penstock-decision")
            assert (answer.status, (await gateway.outcome_of(answer)).id) == (200, id_)
            status, page = await telemetry(gateway, f"/decisions/{id_}")
            found = json.loads(page)
            assert (status, found["why"], found["picked"]["endpoints"]) == (200, "asked", _endpoints(gateway, id_))
            assert found["explanation"]["same"]
            (row,) = json.loads((await telemetry(gateway, "/decisions"))[1])["decisions"]
            assert (row["id"], row["status"], row["candidates"]) == (id_, None, 2)
            assert (await telemetry(gateway, "/decisions/none"))[0] == 404
            assert CANARY not in page


def _endpoints(gateway: World, id_: str) -> list[str]:
    return next(list(one.endpoints) for one in gateway.decisions if one.id == id_)


async def test_nobody_is_told_unless_the_operator_allows_it(tmp_path: Path) -> None:
    async with serving(sim("a")) as servers:
        text = documents(GATEWAY, pool("base", servers), ROUTE)
        async with world(tmp_path, {"all.yaml": text}) as gateway:
            answer = await asked(gateway)
            assert (answer.status, answer.header("penstock-decision")) == (200, "")
            rows = json.loads((await telemetry(gateway, "/decisions"))[1])["decisions"]
            assert [row["why"] for row in rows] == ["sampled"]  # the first of its second


async def test_a_refusal_is_told_too(tmp_path: Path) -> None:
    text = documents(GATEWAY, pool("base", []), ROUTE)
    async with world(tmp_path, {"all.yaml": text}, explain=True) as gateway:
        refused = await asked(gateway, x_llm_d_inference_ttl="50ms")
        assert refused.status == 503
        page = (await telemetry(gateway, f"/decisions/{refused.header('penstock-decision')}"))[1]
        found = json.loads(page)
        assert (found["refused"]["reason"], found["held"], found["candidates"]) == ("no_endpoints", "full", [])


async def test_a_pool_that_stands_in_is_told_too(tmp_path: Path) -> None:
    """It is asked behind a listener of its own, whose metadata no other listener sees."""
    first = pool("base", []).replace("annotations:", "annotations:\n    penstock.dev/failover: second", 1)
    async with serving(sim("a")) as servers:
        text = documents(GATEWAY, first, pool("second", servers), ROUTE)
        async with world(tmp_path, {"all.yaml": text}, explain=True) as gateway:
            served = await asked(gateway)
            page = (await telemetry(gateway, f"/decisions/{served.header('penstock-decision')}"))[1]
            assert (served.status, json.loads(page)["pool"]) == (200, "default/second")


async def test_what_was_served_is_decided_again_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server of two slots, as soon as that is known: the others wait here."""
    log = tmp_path / "decisions.jsonl"
    async with serving(sim("a", latency=replace(QUICK, decode_ms=10), max_num_seqs=2)) as (server,):
        text = documents(GATEWAY, pool("base", [server]), ROUTE)
        settings = {"explain": True, "decisions": str(log), "decisions_rate": 1.0}
        async with world(tmp_path / "manifests", {"all.yaml": text}, **settings) as gateway:
            long = BODY | {"max_tokens": 40}
            first = [asyncio.ensure_future(gateway.post("/v1/completions", long)) for _ in range(6)]
            speed = gateway.gateway.signals.latency.speed
            await until(lambda: speed(server.address).slots == 2.0, "its slots to be known")
            more = (asked(gateway, x_gateway_inference_fairness_id=str(n % 3), **SECRETS) for n in range(30))
            answers = await asyncio.gather(*first, *more)
            assert {answer.status for answer in answers} == {200}
            await gateway.settled()
            assert sum(one.queue > 0 for one in gateway.decisions) > 5
    written = log.read_text()
    assert CANARY not in written
    assert written.count('"penstock_config"') == 1
    assert cli.main(["replay", str(log)]) == 0
    assert f"{len(answers)} decisions are the same, 0 differ, 0 lines cannot be read" in capsys.readouterr().out
