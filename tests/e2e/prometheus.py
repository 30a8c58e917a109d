"""A real Prometheus that scrapes a gateway every second and evaluates our rules as often, without their `for`."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from ruamel.yaml import YAML

from tests.e2e.waiting import eventually, free_port

BINARY = os.environ.get("PENSTOCK_PROMETHEUS") or shutil.which("prometheus") or ""
RULES = Path(__file__).parents[2] / "dashboards" / "rules.prometheus.yaml"


class Prometheus:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url, self._session = url, session

    async def get(self, path: str, **params: str) -> Any:
        async with self._session.get(f"{self.url}{path}", params=params) as response:
            assert response.status == 200, await response.text()
            return json.loads(await response.read())["data"]

    async def value(self, promql: str) -> float:
        """Of the first series; 0 where there is none."""
        found = (await self.get("/api/v1/query", query=promql))["result"]
        return float(found[0]["value"][1]) if found else 0.0

    async def alerts(self) -> dict[str, dict[str, str]]:
        """Those that fire, with their labels."""
        found = (await self.get("/api/v1/alerts"))["alerts"]
        return {each["labels"].pop("alertname"): each["labels"] for each in found if each["state"] == "firing"}


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Once it has scraped `target` ("host:port")."""
    rules = YAML(typ="safe").load(RULES)
    for group in rules["groups"]:
        group["interval"] = "1s"
        for each in group["rules"]:
            each.pop("for", None)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [{"job_name": "penstock", "static_configs": [{"targets": [target]}]}],
    }
    for name, value in (("rules.yaml", rules), ("prometheus.yaml", config)):
        YAML().dump(value, folder / name)
    listen = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    log = (folder / "prometheus.log").open("wb")
    process = await asyncio.create_subprocess_exec(
        BINARY, *options, f"--web.listen-address={listen}", "--log.level=warn", stdout=log, stderr=log
    )
    try:
        async with aiohttp.ClientSession() as session:
            found = Prometheus(f"http://{listen}", session)

            async def scraped() -> bool:
                assert process.returncode is None, (folder / "prometheus.log").read_text()
                try:
                    async with session.get(f"{found.url}/-/ready") as ready:
                        return ready.status == 200 and bool(await found.value('up{job="penstock"}'))
                except aiohttp.ClientError:
                    return False

            await eventually(scraped, "Prometheus to scrape")
            yield found
    finally:
        process.terminate()
        await process.wait()
        log.close()
