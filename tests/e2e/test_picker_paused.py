"""A picker that hangs: the pool's failure mode decides after --picker-timeout, and a client reads 503, not a server's 504."""

import signal
from pathlib import Path

import pytest

from tests.e2e.test_picker_gone import Site, fleet_envoy
from tests.e2e.world import serving, sim

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio]


async def test_a_hung_picker_fails_open_or_closed(tmp_path: Path) -> None:
    async with serving(sim("a")) as (server,):
        site = Site(tmp_path, server)
        process = await site.start()
        async with fleet_envoy(site):
            assert await site.post("closed") == (200, "")
            process.send_signal(signal.SIGSTOP)
            try:
                assert await site.post("open") == (200, "")
                assert await site.post("closed") == (503, "picker_unavailable")
            finally:
                process.send_signal(signal.SIGCONT)
            assert await site.post("closed") == (200, "")
            process.terminate()
            assert await process.wait() == 0
