"""Writer: what differs is written, once, by the leader, without taking anything of anybody else away."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.xds_server.kubernetes.fake_api import Asked, FakeApi, Refused
from tests.xds_server.kubernetes.helpers import GROUP, QUICK, Facts, certain, running, soon
from xds_server.kubernetes.api import Api
from xds_server.kubernetes.facts import StatusFailed, StatusWritten
from xds_server.kubernetes.held import Entry, Held
from xds_server.kubernetes.pacing import Pacing
from xds_server.kubernetes.resources import Resource
from xds_server.kubernetes.writer import Effort, Writer
from xds_server.latest import Latest
from xds_server.model.graph import CONTROLLER, Condition, Graph, ObjectStatus, ParentStatus
from xds_server.model.objects import ObjectRef, ParentRef

ROUTES = Resource(GROUP, "HTTPRoute", "v1", "httproutes")
PARENT = ParentRef(ObjectRef(GROUP, "Gateway", "default", "gw"))
EFFORT = Effort(workers=4, grace=0.0, backoff=QUICK)
FOREIGN = {"controllerName": "somebody.else/controller", "parentRef": {"name": "x"}, "conditions": []}


def ref(name: str) -> ObjectRef:
    return ROUTES.ref("default", name)


def status(name: str, message: str = "") -> ObjectStatus:
    condition = Condition("Accepted", "True", "Accepted", message, 1)
    return ObjectStatus(ref(name), parents=(ParentStatus(PARENT, (condition,)),))


def graph(*statuses: ObjectStatus) -> Graph:
    return Graph(statuses={each.ref: each for each in statuses})


class World:
    def __init__(self, fake: FakeApi, *names: str, leading: bool = True) -> None:
        self.fake, self.held, self.facts = fake, Held(), Facts()
        self.graphs: Latest[Graph] = Latest()
        self.leading: Latest[bool] = Latest(leading)
        for name in names:
            self.hold(fake.put("httproutes", name, spec={}))

    def run(self, api: Api, effort: Effort = EFFORT, pacing: Pacing | None = None) -> Any:
        writer = Writer(
            api, self.graphs, self.held, self.leading, self.facts,
            effort=effort, pacing=pacing, wall=lambda: datetime(2026, 1, 1, tzinfo=UTC), chance=certain,
        )  # fmt: skip
        return writer.run()

    def hold(self, found: dict[str, Any]) -> None:
        """What a watch would do."""
        name = found["metadata"]["name"]
        self.held.put(ref(name), Entry.of(ROUTES.path("default", name), found))

    def parents(self, name: str) -> list[Any]:
        return list((self.fake.get("httproutes", name).get("status") or {}).get("parents", []))

    def message(self, name: str) -> str:
        ours = [each for each in self.parents(name) if each["controllerName"] == CONTROLLER]
        return str(ours[0]["conditions"][0]["message"]) if ours else "-"

    async def written(self, number: int) -> None:
        await self.facts.until(lambda: len(self.facts.of(StatusWritten)) >= number)

    @property
    def patches(self) -> int:
        return self.fake.count("patch", "httproutes")


async def test_what_differs_is_written_and_an_equal_graph_writes_nothing() -> None:
    fake = FakeApi()
    world = World(fake, "a", "b")
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a"), status("b")))
        await world.written(2)
        assert world.message("a") == world.message("b") == ""
        world.graphs.set(graph(status("a", "new"), status("b")))
        await world.written(3)
        assert world.message("a") == "new"
    assert world.patches == 3 and {each.body["_sub"] for each in fake.asked} == {"status"}


async def test_the_answer_is_held_at_once_and_the_late_watch_event_changes_nothing() -> None:
    fake = FakeApi()
    world = World(fake, "a")
    old = dict(fake.get("httproutes", "a"))
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a")))
        await world.written(1)
        assert world.held[ref("a")]["parents"]
        world.hold(old)
        world.hold(fake.get("httproutes", "a"))
        world.graphs.set(graph(status("a", "new")))
        await world.written(2)
    assert world.patches == 2


@pytest.mark.parametrize("back", [False, True])
async def test_an_answer_that_outlives_its_object_is_not_held(back: bool) -> None:
    """The watch has told meanwhile that it is gone, and perhaps that there is another of its name."""
    fake = FakeApi()
    world = World(fake, "a")
    other = {"metadata": {**fake.get("httproutes", "a")["metadata"], "uid": "another"}}

    def overtaken(asked: Asked) -> None:
        if asked.verb == "patch":
            fake.before.clear()
            world.held.remove(ref("a"), ROUTES.path("default", "a"))
            if back:
                world.hold(other)

    fake.before.append(overtaken)
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a")))
        await world.written(1)
        found = world.held.entry(ref("a"))
    assert (found and found.uid) == ("another" if back else None)


async def test_an_entry_that_somebody_adds_meanwhile_is_kept() -> None:
    fake = FakeApi()
    world = World(fake, "a")
    fake.status("httproutes", "a", {"parents": [FOREIGN]})  # we have not heard of it yet
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a")))
        await world.written(1)
    assert [each["controllerName"] for each in world.parents("a")] == [FOREIGN["controllerName"], CONTROLLER]
    assert world.patches == 2 and not world.facts.of(StatusFailed)


async def test_only_the_leader_writes_and_a_new_leader_writes_everything() -> None:
    fake = FakeApi()
    world = World(fake, "a", "b", leading=False)
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a"), status("b")))
        await soon(lambda: not world.held._dirty)
        world.graphs.set(graph(status("a", "1"), status("b", "1")))
        world.leading.set(True)
        await world.written(2)
        assert world.message("a") == world.message("b") == "1"
        world.leading.set(False)
        world.graphs.set(graph(status("a", "2"), status("b", "2")))
        world.leading.set(True)
        await world.written(4)
    assert world.patches == 4


async def test_only_the_last_wish_counts() -> None:
    fake = FakeApi()
    world = World(fake, "a")
    released = fake.hang("patch", plural="httproutes")
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a", "0")))
        await fake.until(lambda: world.patches == 1)
        for number in range(1, 20):
            world.graphs.set(graph(status("a", str(number))))
            await asyncio.sleep(0)
        released.set()
        await soon(lambda: world.message("a") == "19")
    assert world.patches <= 3


async def test_failures_are_tried_again_and_said() -> None:
    fake = FakeApi()
    world = World(fake, "a", "b")
    for code in (429, 500, 503, 422, 403):
        fake.fail(1, Refused(code, "No", "for a reason"), "patch", plural="httproutes")
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a"), status("b")))
        await world.written(2)
    assert sorted(each.code for each in world.facts.of(StatusFailed)) == [403, 422, 429, 500, 503]


async def test_an_object_that_is_gone_is_forgotten() -> None:
    fake = FakeApi()
    world = World(fake, "a", "b")
    fake.remove("httproutes", "a")
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a"), status("b"), status("never was")))
        await world.written(1)
        await soon(lambda: fake.count("get", "httproutes") == 1 and ref("a") not in world.held)
    assert not world.facts.of(StatusFailed)


async def test_a_connection_that_drops_costs_nothing() -> None:
    fake = FakeApi()
    world = World(fake, "a")

    def cut(asked: Asked) -> None:
        if asked.verb == "patch":
            fake.before.clear()
            fake.drop()

    fake.before.append(cut)
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a", "x")))
        await soon(lambda: world.message("a") == "x" and world.held[ref("a")].get("parents"))


async def test_who_writes_back_is_fought_ever_more_slowly() -> None:
    fake = FakeApi()
    world = World(fake, "a")
    pacing = Pacing(burst=3, base=1000.0)
    async with fake.serve() as api, running(world.run(api, pacing=pacing)):
        world.graphs.set(graph(status("a")))
        for number in range(1, 4):
            await world.written(number)
            world.hold(fake.status("httproutes", "a", {"parents": [FOREIGN]}))
        world.hold(fake.put("httproutes", "b", spec={}))
        world.graphs.set(graph(status("a"), status("b")))
        await world.written(4)
        assert world.message("a") == "-" and world.message("b") == ""
        world.graphs.set(graph(status("a", "a new wish"), status("b")))
        await world.written(5)
        assert world.message("a") == "a new wish"
    assert world.patches == 5


async def test_an_object_that_leaves_our_gateways_loses_our_entries_and_no_others() -> None:
    fake = FakeApi()
    world = World(fake, "a")
    world.hold(fake.status("httproutes", "a", {"parents": [FOREIGN]}))
    async with fake.serve() as api, running(world.run(api)):
        world.graphs.set(graph(status("a")))
        await world.written(1)
        assert len(world.parents("a")) == 2
        world.graphs.set(graph())
        await world.written(2)
    assert world.parents("a") == [FOREIGN]


async def test_an_object_that_the_graph_does_not_know_yet_keeps_its_entries_for_a_while() -> None:
    fake = FakeApi()
    world = World(fake, "a", "b")
    ours = {"controllerName": CONTROLLER, "parentRef": {"name": "gw"}, "conditions": []}
    world.hold(fake.status("httproutes", "a", {"parents": [ours]}))
    patient = Effort(workers=1, grace=1000.0, backoff=QUICK)
    async with fake.serve() as api, running(world.run(api, patient)):
        world.graphs.set(graph(status("b")))
        await world.written(1)
        assert world.parents("a") == [ours]
    assert world.patches == 1
