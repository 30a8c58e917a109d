"""A mix of traffic through the real gateway, seen by a real Prometheus: every panel has data, and alerts are silent until there is reason."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from observability import catalogue as c
from observability.asking import Prometheus as Asked
from observability.dashboards.alerts import alerts
from observability.dashboards.files import boards
from observability.verify import verify
from penstock.cli import main as penstock
from tests.e2e.manifests import route, rule, to_pool
from tests.e2e.mix import REASONS, manifests, mix, stream, traffic
from tests.e2e.prometheus import BINARY, Prometheus, prometheus
from tests.e2e.waiting import eventually
from tests.e2e.world import World
from tests.observability.test_record import total

pytestmark = [
    pytest.mark.envoy,
    pytest.mark.skipif(
        not BINARY, reason="Prometheus is not installed (PENSTOCK_PROMETHEUS; Debian: apt install prometheus)"
    ),
]
PATIENCE = 120.0  # seconds: a verification asks 300 queries
# How fast a busy test machine is, is nothing to be asserted.
OF_THE_MACHINE = {"PenstockLoopLag", "PenstockDecisionsSlow", "PenstockConfigSlow"}


def served(gateway: World) -> float:
    """The seconds of all requests that ended well."""
    return sum(each.duration or 0.0 for each in gateway.outcomes if not each.reason)


async def empty(found: Prometheus) -> set[str]:
    """The panels and alerts without data; what may be empty in a gateway that is well counts here, too."""
    return {
        str(each)
        for each in await asyncio.to_thread(lambda: list(verify(Asked(found.url).values, boards(), alerts(), "10s")))
    }


async def test_every_panel_has_data_and_alerts_are_silent_until_there_is_reason(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    folder.mkdir()
    async with (
        mix(tmp_path / "manifests") as (gateway, servers, acts),
        prometheus(folder, gateway.gateway.settings.telemetry) as found,
    ):
        async with traffic(gateway, *acts):

            async def all_seen() -> bool:
                rest = await empty(found)
                missing.clear()
                missing.update(rest)
                return not missing

            missing: set[str] = set()
            try:
                await eventually(all_seen, "data in every panel", PATIENCE)
            except AssertionError:
                raise AssertionError("\n".join(sorted(missing))) from None
            page = tmp_path / "boards.html"
            await asyncio.to_thread(
                penstock, ["verify", "--prometheus", found.url, "--window", "10s", "--since", "2m", "--draw", str(page)]
            )
            drawn, kinds = (
                page.read_text(),
                Counter(panel.kind == "card" for board in boards() for panel in board.panels),
            )
            assert "No data" not in drawn
            assert drawn.count('<p class="figure') == kinds[True]  # its line wants two values, which take some seconds
            assert drawn.count('role="img"') == kinds[False]
            fires = await found.alerts()
            assert {"PenstockObjectsInvalid"} <= fires.keys() <= REASONS | OF_THE_MACHINE, fires

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
            *("PenstockNoReadyEndpoints", "PenstockEndpointFails"),
            *(f"PenstockAvailability{name}Burn" for name in ("Fast", "Quick")),
        }
        async with traffic(gateway, *[stream] * 4):

            async def all_fire() -> bool:
                return reasons <= (await found.alerts()).keys()

            await eventually(all_fire, f"{sorted(reasons)} to fire", PATIENCE)
        labels = (await found.alerts())["PenstockNoReadyEndpoints"]
        assert labels == {"pool": "default/narrow", "severity": "page"}
