"""Foreign pickers: which of them are asked, and how often."""

from pathlib import Path

import pytest

from tests.xds_server.fleet_envoy import HOME, answering, at, backend, graph, on_port_80, to
from tests.xds_server.test_translate_pools import Models, Picker, client, picking, pool
from xds_server.translate.picker import foreign


def test_a_picker_that_left_its_service_is_not_asked_while_it_still_accepts_connections() -> None:
    assert foreign(backend("epp", protocol="h2c")).ignore_health_on_host_removal


@pytest.mark.envoy
@pytest.mark.parametrize(("do", "times"), [("hang", 1), ("abort", 2)])
async def test_the_only_picker_is_asked_again_after_an_abort_but_not_after_silence(
    tmp_path: Path, do: str, times: int
) -> None:
    closed = pool("closed")
    async with answering(Models().answer) as where:
        picker = Picker(f"{HOME}:{where}")
        async with picking(picker) as asked:
            endpoints = {closed.cluster: at(where), closed.picker.cluster: at(asked)}
            found = graph(on_port_80(to("/", closed)), backends=[closed], endpoints=endpoints)
            async with client(found, tmp_path) as c:
                assert (await c.post("/v1", do))[0] == 503
        assert picker.asked == times
