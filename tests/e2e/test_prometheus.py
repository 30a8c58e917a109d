"""A mix of traffic through the real gateway, seen by a real Prometheus: every panel has data, and alerts are silent until there is reason."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from observability import catalogue as c
from observability.dashboards.alerts import alerts
from observability.dashboards.files import boards
from observability.verify import prometheus as asking, verify
from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.prometheus import BINARY, Prometheus, prometheus
from tests.e2e.waiting import eventually
from tests.e2e.world import QUICK, World, serving, sim, world
from tests.observability.test_record import total

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(
        not BINARY, reason="Prometheus is not installed (PENSTOCK_PROMETHEUS; Debian: apt install prometheus)"
    ),
]
OBJECTIVES = """
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec: {priority: -1, poolRef: {name: narrow}}
"""
PROMPT = "The same long beginning of every prompt, cached after the first. " * 40
# What cannot be seen in this world: it is no cluster, no object has a mistake, nothing leaves by itself, no
# accelerators tell, servers send no KV events.
UNSEEN = {
    *("control-plane / Time to write", "PenstockExportFails", "PenstockAutoscalerBlind"),
    *("endpoints / Accelerators in use", "endpoints / Belief in the events", "PenstockEventsDisbelieved"),
    *("control-plane / Objects with a mistake", "control-plane / Replicas that lead"),
    *("PenstockNoLeader", "PenstockObjectsInvalid"),
}
PATIENCE = 120.0  # seconds: a verification asks 300 queries
# How fast a busy test machine is, is nothing to be asserted.
OF_THE_MACHINE = {"PenstockLoopLag", "PenstockDecisionsSlow", "PenstockConfigSlow"}


def manifests(wide: list[SimServer], narrow: list[SimServer], *more: str) -> str:
    to = route("all", rule("/narrow", to_pool("narrow"), more=STRIPPED), rule("/v1", to_pool("wide")))
    return documents(GATEWAY, pool("wide", wide), pool("narrow", narrow), OBJECTIVES, to, *more)


STRIPPED = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}]"


async def stream(gateway: World) -> None:
    body = {"model": "base", "prompt": PROMPT, "max_tokens": 20, "stream": True}
    await gateway.post("/v1/completions", body | {"stream_options": {"include_usage": True}})


async def adapter(gateway: World) -> None:
    await gateway.post("/v1/completions", {"model": "bot", "prompt": PROMPT, "max_tokens": 5})


async def narrow(gateway: World) -> None:
    """More at once than its server has slots."""
    await gateway.post("/narrow/completions", {"model": "narrow", "prompt": PROMPT, "max_tokens": 20})


async def impatient(gateway: World) -> None:
    """Batch work that is turned away rather than wait."""
    headers = {"x_gateway_inference_objective": "batch", "x_llm_d_inference_ttl": "50ms"}
    await gateway.post("/narrow/completions", {"model": "narrow", "prompt": PROMPT, "max_tokens": 20}, **headers)


async def wrong(gateway: World) -> None:
    await gateway.post("/v1/completions", b"this is no JSON")


def served(gateway: World) -> float:
    """The seconds of all requests that ended well."""
    return sum(each.duration or 0.0 for each in gateway.outcomes if not each.reason)


@asynccontextmanager
async def traffic(gateway: World, *kinds: Callable[[World], Awaitable[None]]) -> AsyncIterator[None]:
    """Each kind over and over, one after the other, while the block lasts."""

    async def repeat(kind: Callable[[World], Awaitable[None]]) -> None:
        while True:
            await kind(gateway)
            await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(repeat(kind)) for kind in kinds]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in ended} <= {asyncio.CancelledError}, ended


async def empty(found: Prometheus) -> set[str]:
    """The panels and alerts without data; what may be empty in a gateway that is well counts here, too."""
    return {
        str(each)
        for each in await asyncio.to_thread(lambda: list(verify(asking(found.url), boards(), alerts(), "10s")))
    }


async def test_every_panel_has_data_and_alerts_are_silent_until_there_is_reason(tmp_path: Path) -> None:
    slow = replace(QUICK, decode_ms=10)
    wide = [sim(name, "base", loras=("bot",), max_loras=1) for name in ("a", "b")]
    folders = tmp_path / "manifests", tmp_path / "prometheus"
    folders[1].mkdir()
    async with (
        serving(*wide, sim("c", "narrow", latency=slow, max_num_seqs=2)) as servers,
        world(
            folders[0], {"all.yaml": manifests(servers[:2], servers[2:])}, request_log=str(tmp_path / "log")
        ) as gateway,
        prometheus(folders[1], gateway.gateway.settings.telemetry) as found,
    ):
        number = itertools.count()

        async def edit(gateway: World) -> None:
            """A change of the configuration."""
            extra = route("extra", rule(f"/extra/{next(number)}", to_pool("wide")))
            gateway.write("all.yaml", manifests(servers[:2], servers[2:], extra))
            await asyncio.sleep(0.5)

        async with traffic(gateway, stream, stream, adapter, wrong, impatient, edit, *[narrow] * 5):

            async def all_seen() -> bool:
                rest = await empty(found)
                missing.clear()
                missing.update(each for each in rest if each.split(": ")[0] not in UNSEEN)
                return not missing

            missing: set[str] = set()
            try:
                await eventually(all_seen, "data in every panel", PATIENCE)
            except AssertionError:
                raise AssertionError("\n".join(sorted(missing))) from None
            fires = await found.alerts()
            assert fires.keys() <= OF_THE_MACHINE, fires

        await gateway.settled()
        stages = total(gateway.gateway.registry, c.STAGE_SECONDS_TOTAL)
        assert stages == pytest.approx(served(gateway)), "stages do not add up to the durations"
        server = total(gateway.gateway.registry, c.STAGE_SECONDS_TOTAL, stage="upstream")
        assert 0 < server < stages

        # The servers of one pool go, another fails, and somebody writes a route to nowhere.
        servers[0].faults.change({"kind": "503", "rate": 1.0})
        servers[1].faults.change({"kind": "503", "rate": 1.0})
        nowhere = route("nowhere", rule("/nowhere", to_pool("nobody")))
        gateway.write("all.yaml", manifests(servers[:2], [], nowhere))
        reasons = {
            *("PenstockNoReadyEndpoints", "PenstockObjectsInvalid", "PenstockEndpointFails"),
            *(f"PenstockAvailability{name}Burn" for name in ("Fast", "Quick")),
        }
        async with traffic(gateway, *[stream] * 4):

            async def all_fire() -> bool:
                return reasons <= (await found.alerts()).keys()

            await eventually(all_fire, f"{sorted(reasons)} to fire", PATIENCE)
        labels = (await found.alerts())["PenstockNoReadyEndpoints"]
        assert labels == {"pool": "default/narrow", "severity": "page"}
