"""What servers hold, as they say it themselves: evictions that no request tells of, and what happens when they fall silent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock.sim.server import SimServer
from picker.facts import Decision
from picker.precise import Feed
from tests.e2e.manifests import GATEWAY, pool, route, rule, to_pool
from tests.e2e.waiting import eventually, until
from tests.e2e.world import World, serving, sim, world

pytestmark = pytest.mark.envoy
CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
metadata: {name: prefix}
plugins:
- type: prefix-cache-scorer
- {type: max-score-picker, parameters: {maxNumOfEndpoints: 1}}
"""
BLOCKS = 64  # of the cache: 1024 tokens
PROMPT = "Once upon a time there was a gateway that knew what its servers had cached. " * 20  # about 380 tokens


class Rig:
    """Two servers that publish events, behind the gateway."""

    def __init__(self, found: World, servers: list[SimServer]) -> None:
        self.world, self.servers = found, servers

    async def ask(self, prompt: str = PROMPT) -> Decision:
        """Through the gateway; the decision, once the request has ended."""
        before = len(self.world.decisions)
        answer = await self.world.post("/v1/completions", {"model": "base", "prompt": prompt, "max_tokens": 1})
        assert answer.status == 200
        await self.world.outcome_of(answer)
        return self.world.decisions[before]

    async def warm(self) -> SimServer:
        """Until the prompt is linked; the server that has it."""
        heard = {each.address: self.feed(each.address).events for each in self.servers}
        address = (await self.ask()).endpoints[0]
        await until(lambda: self.feed(address).events > heard[address], "its events")
        await self.ask()  # it comes again: a tokenizer is asked
        await until(lambda: self.world.gateway.tokenizer.linked, "the tokenizer's answer")
        return next(each for each in self.servers if each.address == address)

    async def joined(self, server: SimServer) -> bool:
        """Whether what it publishes is heard: nobody tells a publisher's subscriber that it has been let in."""
        await self.direct(server, "/reset_prefix_cache")
        return self.feed(server.address).events > 0

    async def direct(self, server: SimServer, path: str, body: Any = None) -> None:
        """Past the gateway."""
        async with self.world.session.post(server.url + path, json=body) as response:
            assert response.status == 200

    async def evict(self, server: SimServer) -> None:
        """Others use the server until nothing of the prompt is left."""
        for number in range(3):
            text = f"{number} and other things that push out what was there before. " * 50
            await self.direct(server, "/v1/completions", {"model": "base", "prompt": text, "max_tokens": 1})

    def feed(self, address: str) -> Feed:
        known = self.world.gateway.picker.precise("default/models")
        assert known is not None
        return known[1].feeds.get(address, Feed())

    async def told(self, server: SimServer) -> None:
        """Until the gateway has heard all that the server said."""
        assert server.kv_events is not None
        await until(lambda: self.feed(server.address).sequence == server.kv_events._sequence - 1, "the last events")


@asynccontextmanager
async def rig(folder: Path, events: str = "auto") -> AsyncIterator[Rig]:
    settings = [sim(f"sim-{n}", "base", kv_blocks=BLOCKS, kv_events=0) for n in (1, 2)]
    async with serving(*settings) as servers:
        more = f'penstock.dev/kv-events: "{events}"'
        documents = {
            "gateway.yaml": GATEWAY,
            "pool.yaml": pool("models", servers, config="prefix", more=more),
            "route.yaml": route("all", rule("/", to_pool("models"))),
            "config.yaml": CONFIG,
        }
        async with world(folder, documents) as found:
            assert found.problems == []
            made = Rig(found, servers)
            listened = found.gateway.kv_events._subscriptions
            await until(lambda: len(listened) == 2 and all(one.port for one in listened.values()), "both ports")
            for each in servers:
                await eventually(partial(made.joined, each), "to be heard")
                await made.told(each)
            yield made


async def test_the_next_decision_knows_what_a_server_has_evicted(tmp_path: Path) -> None:
    async with rig(tmp_path / "m") as made:
        server = await made.warm()
        known = await made.ask()
        assert known.endpoints == (server.address,)
        assert known.matched_tokens > 300
        outcome = await made.world.outcome(lambda found: found.id == known.id)
        assert abs((outcome.cached_tokens or 0) - known.matched_tokens) <= 64
        await made.evict(server)
        await made.told(server)
        after = await made.ask()
        assert after.matched_tokens == 0  # although nothing that we sent could have pushed it out
        outcome = await made.world.outcome(lambda found: found.id == after.id)
        assert outcome.cached_tokens == 0


async def test_a_cache_that_is_emptied_is_empty_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path / "m") as made:
        server = await made.warm()
        assert (await made.ask()).matched_tokens > 300
        await made.direct(server, "/reset_prefix_cache")
        await made.told(server)
        assert (await made.ask()).matched_tokens == 0


async def test_a_server_whose_events_are_lost_falls_back_and_comes_back(tmp_path: Path) -> None:
    async with rig(tmp_path / "m") as made:
        server = await made.warm()
        await made.direct(server, "/sim", {"drop_kv_events": True})
        await made.evict(server)
        await made.direct(server, "/sim", {"drop_kv_events": False})
        again = "Something new, so that there is an event. " * 10
        await made.direct(server, "/v1/completions", {"model": "base", "prompt": again, "max_tokens": 1})
        await made.told(server)
        assert made.feed(server.address).gaps == 1
        status = made.world.gateway.report.status()["pools"]["default/models"]["endpoints"][server.address]
        assert status["prefixes"]["mode"] == "approximate"
        assert status["prefixes"]["gaps"] == 1
        assert (await made.ask()).matched_tokens > 300  # from where requests went, as without events
        page = await made.world.metrics()
        labels = f'{{pool="default/models",endpoint="{server.address}"}}'
        assert f"penstock_kv_event_gaps_total{labels} 1" in page
        assert f"penstock_prefix_trust_ratio{labels} 0" in page
        await made.direct(server, "/reset_prefix_cache")  # all that it holds from here on is told
        await made.told(server)
        assert made.feed(server.address).mode == "precise"
        assert (await made.ask()).matched_tokens == 0


async def test_a_pool_whose_servers_publish_nothing_is_served_as_before(tmp_path: Path) -> None:
    async with serving(sim("sim-1", "base")) as servers:
        documents = {
            "gateway.yaml": GATEWAY,
            "pool.yaml": pool("models", servers, config="prefix", more='penstock.dev/kv-events: "auto"'),
            "route.yaml": route("all", rule("/", to_pool("models"))),
            "config.yaml": CONFIG,
        }
        async with world(tmp_path / "m", documents) as found:
            made = Rig(found, servers)
            await made.ask()
            assert (await made.ask()).matched_tokens > 300
            assert found.gateway.tokenizer.linked == 0
