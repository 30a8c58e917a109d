"""The wiring without an Envoy: what starts ends."""

from pathlib import Path

import pytest

from penstock.run import running
from penstock.settings import Proxy, Settings
from picker.facts import Outcome


@pytest.mark.asyncio
async def test_the_request_log_is_complete_at_the_end(tmp_path: Path) -> None:
    manifests, file = tmp_path / "manifests", tmp_path / "requests.jsonl"
    manifests.mkdir()
    settings = Settings(manifests, proxy=Proxy(start=False), telemetry="", request_log=str(file))
    async with running(settings) as gateway:
        gateway.observe(Outcome("1", 0.0, "ns/p", "m", "m", "", 0, "", False, 200, "", "a:1"))
    assert file.read_text().count("\n") == 1
