"""The console in a real browser, before a gateway with traffic through the real Envoy."""

import asyncio
import re
from html import unescape
from pathlib import Path

import pytest

from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import until
from tests.e2e.world import serving, sim, world
from tests.observability.console.browser import browser, rendered

pytestmark = pytest.mark.envoy
EVIL = "<img src=x onerror=alert(1)>"


def text_of(page: str, id_: str) -> str:
    """What a person reads in the element of this id (a section or table: to its end tag)."""
    tag, rest = re.search(rf'<(\w+)[^>]*\bid="{id_}"[^>]*>(.*)', page, re.DOTALL).groups()  # type: ignore[union-attr]
    return unescape(re.sub(r"<[^>]+>", " ", rest.partition(f"</{tag}>")[0]))


async def test_the_page_says_what_the_gateway_does(tmp_path: Path) -> None:
    browser()
    async with serving(sim("a", "base", EVIL), sim("b", "base", EVIL)) as servers:
        found = documents(GATEWAY, pool("base", servers), route("all", rule("/v1", to_pool("base"))))
        async with world(tmp_path, {"all.yaml": found}, decisions_rate=1.0) as gateway:
            for model in ("base", "base", EVIL, "nobody-has-it"):
                await gateway.post("/v1/completions", {"model": model, "prompt": "hello " * 40, "max_tokens": 2})
            await gateway.settled()
            url = f"http://{gateway.gateway.settings.telemetry}/"
            page = await asyncio.to_thread(rendered, url)
            state = text_of(page, "state")
            assert state == "1 of 1 Envoys in sync"
            name = next(iter(gateway.gateway.graphs.value.pools))
            assert name in text_of(page, "pools")
            assert "2 of 2" in text_of(page, "pools")
            for server in servers:
                assert server.address in page  # the topology
            assert "penstock-standalone" in text_of(page, "proxies")
            assert "<img" not in page
            assert EVIL in unescape(page.partition('id="decisions"')[2])  # a decision names it, as text
            gateway.write("broken.yaml", BROKEN)
            await until(lambda: gateway.problems, "the problem of a broken route")
            page = await asyncio.to_thread(rendered, url)
            assert "1 problem" in text_of(page, "state")
            assert "HTTPRoute default/broken" in text_of(page, "problems")


BROKEN = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: broken}
spec: {parentRefs: 7}
"""
