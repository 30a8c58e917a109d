"""Manifests that change while requests run: good edits take effect and break nothing, wrong ones harm nothing else."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from penstock.sim.server import SimServer
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import eventually, until
from tests.e2e.world import World, serving, sim, world

pytestmark = pytest.mark.envoy


@pytest.fixture
async def servers() -> AsyncIterator[list[SimServer]]:
    async with serving(sim("a"), sim("b"), sim("c")) as found:
        yield found


def shared(of_a: int, of_b: int) -> str:
    return route("main", rule("/v1", to_pool("a", of_a), to_pool("b", of_b)))


@pytest.fixture
async def gateway(tmp_path: Path, servers: list[SimServer]) -> AsyncIterator[World]:
    pools = documents(pool("a", servers[:1]), pool("b", servers[1:2]))
    files = {"gateway.yaml": GATEWAY, "pools.yaml": pools, "main.yaml": shared(100, 0)}
    async with world(tmp_path, files) as found:
        yield found


async def served_by(gateway: World, path: str = "/v1/completions") -> str:
    """The server that answers, or what is wrong."""
    answer = await gateway.post(path, {"model": "base", "prompt": "hello", "max_tokens": 2})
    return answer.server if answer.status == 200 else f"{answer.status}: {answer.body!r}"


@asynccontextmanager
async def load(gateway: World, clients: int = 8) -> AsyncIterator[Counter[str]]:
    """Requests one after the other from several clients, while the block lasts; who answered them."""
    found: Counter[str] = Counter()
    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            found[await served_by(gateway)] += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(clients):
            tasks.create_task(ask())
        try:
            yield found
        finally:
            over.set()


async def takes_over(found: Counter[str], name: str) -> None:
    """Until `name` has answered 100 requests in a row."""
    while True:
        others = await more(found, 0) - found[name]
        total = await more(found, 100)
        if total - found[name] == others:
            return


async def more(found: Counter[str], count: int) -> int:
    """How many answers there are, once there are `count` more."""
    wanted = found.total() + count
    await until(lambda: found.total() >= wanted, "more answers")
    return found.total()


async def test_edits_under_load_fail_no_request(gateway: World, servers: list[SimServer]) -> None:
    async with load(gateway) as found:
        await takes_over(found, "a")
        gateway.write("main.yaml", shared(0, 100))  # weights
        await takes_over(found, "b")
        gateway.write("main.yaml", route("main", rule("/v1", to_pool("a"))))  # another rule
        await takes_over(found, "a")
        gateway.write("pools.yaml", documents(pool("a", servers[2:]), pool("b", servers[1:2])))  # endpoints
        await takes_over(found, "c")
        gateway.write(
            "pools.yaml", documents(pool("a", servers[2:]), pool("new", servers[:1]))
        )  # a pool comes, one goes
        gateway.write("main.yaml", route("main", rule("/v1", to_pool("new"))))
        await takes_over(found, "a")
        for number in range(20):  # and a flood of edits
            gateway.write(
                "main.yaml", route("main", rule("/v1", to_pool("new")), rule(f"/extra-{number}", to_pool("a")))
            )
            await more(found, 1)
    assert set(found) == {"a", "b", "c"}
    await gateway.settled()
    assert {outcome.reason for outcome in gateway.outcomes} == {""}
    assert gateway.problems == []


STRIP = "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /v1/completions}}}]"


def mistaken(line: Callable[[str], str]) -> str:
    """The route that a test breaks, at /other: `line` changes it."""
    return line(route("other", rule("/other", to_pool("a"), more=STRIP)))


GRANTLESS = to_pool("a").replace("}", ", namespace: elsewhere}")
MISTAKES = {
    "bad-yaml": (
        mistaken(lambda text: text.replace("rules:", "rules: [")),
        ("other.yaml:", "not YAML"),
    ),
    "invalid-regex": (
        mistaken(
            lambda text: text.replace("type: PathPrefix, value: /other", "type: RegularExpression, value: '/other('")
        ),
        ("other.yaml:", "HTTPRoute", "default/other", "spec.rules[0].matches[0].path.value"),
    ),
    "unknown-field": (
        mistaken(lambda text: text.replace("matches:", "matchez:")),
        ("other.yaml:", "HTTPRoute", "default/other", "spec.rules[0].matchez"),
    ),
    "unknown-backend": (
        mistaken(lambda text: text.replace("name: a}", "name: nobody}")),
        ("other.yaml:", "HTTPRoute", "default/other", "spec.rules[0].backendRefs[0]", "nobody"),
    ),
    "no-grant": (
        mistaken(lambda text: text.replace(to_pool("a"), GRANTLESS)),
        ("other.yaml:", "HTTPRoute", "default/other", "spec.rules[0].backendRefs[0]", "ReferenceGrant"),
    ),
}


# What the route itself answers: Gateway API wants 500, and a rule to be dropped; of what cannot be read, the last good
# version stays in effect.
MEANWHILE = {"unknown-backend": "500", "no-grant": "500", "invalid-regex": "404"}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_named_and_harms_nothing_else(gateway: World, mistake: str) -> None:
    text, words = MISTAKES[mistake]
    meanwhile = MEANWHILE.get(mistake, "a")
    gateway.write(
        "elsewhere.yaml", pool("a", ["127.0.0.1:9"]).replace("name: a\n", "name: a\n  namespace: elsewhere\n")
    )
    gateway.write("other.yaml", mistaken(str))

    async def serves_other() -> bool:
        return await served_by(gateway, "/other") == "a"

    await eventually(serves_other, "the route at /other")
    assert gateway.problems == []
    async with load(gateway, clients=4) as found:
        gateway.write("other.yaml", text)
        problems = await until(lambda: gateway.problems, "a problem")
        assert all(word in problems[0] for word in words), problems
        assert problems[0].partition(":")[2].split(":")[0].isdigit(), problems  # the line
        await takes_over(found, "a")
        assert (await served_by(gateway, "/other")).startswith(meanwhile)
        gateway.write("other.yaml", mistaken(str))
        await until(lambda: not gateway.problems, "no problem any more")
        await eventually(serves_other, "the route at /other again")
        await takes_over(found, "a")
    assert set(found) == {"a"}
