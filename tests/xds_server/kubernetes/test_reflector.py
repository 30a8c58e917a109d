"""Reflector: a sink stays equal to the server, whatever the server and the network do."""

import asyncio
from typing import Any

import pytest

from tests.xds_server.kubernetes.fake_api import Asked, FakeApi, Refused
from tests.xds_server.kubernetes.helpers import QUICK, TIMING, Facts, certain, running
from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.backoff import Backoff
from xds_server.kubernetes.facts import Listed, WatchFailed
from xds_server.kubernetes.held import Held
from xds_server.kubernetes.reflector import Timing, reflect
from xds_server.kubernetes.resources import Query, Resource
from xds_server.kubernetes.store import Store

SERVICES = Resource("", "Service", "v1", "services")


class World:
    """A store, and the ways to wait for what it holds."""

    def __init__(self, fake: FakeApi, query: Query | None = None) -> None:
        self.fake, self.query, self.facts, self.syncs = fake, query or Query(SERVICES), Facts(), 0
        self._changed = asyncio.Event()
        self.store = Store(self.query, Held(), self._changed.set)
        self.history: list[set[str]] = []

    def reflect(self, api: Api, timing: Timing = TIMING) -> Any:
        def synced() -> None:
            self.syncs += 1
            self._changed.set()

        return reflect(api, self.query, self.store, synced, self.facts, timing, certain)

    @property
    def names(self) -> set[str]:
        return {ref.name for ref in self.store.now.objects}

    async def until(self, *names: str, syncs: int = 1) -> None:
        while self.names != set(names) or self.syncs < syncs:
            await self._changed.wait()
            self._changed.clear()
            self.history.append(self.names)


@pytest.fixture(params=[True, False], ids=["streamed", "paged"])
def fake(request: pytest.FixtureRequest) -> FakeApi:
    return FakeApi(streaming=request.param)


async def test_what_is_there_and_what_happens_then(fake: FakeApi) -> None:
    fake.put("services", "a")
    world = World(fake)
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until("a")
        fake.put("services", "b", "elsewhere")
        await world.until("a", "b")
        fake.remove("services", "a")
        await world.until("b")
    assert not world.facts.of(WatchFailed) and len(world.facts.of(Listed)) == 1


async def test_a_list_of_many_pages_is_one_list() -> None:
    fake = FakeApi(streaming=False)
    fake.page = 3
    names = [f"s{number}" for number in range(10)]
    for name in names:
        fake.put("services", name)
    world = World(fake)
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until(*names)
    assert fake.count("list", "services") == 4
    assert world.history == [set(names)]
    assert world.facts.of(Listed)[0].objects == 10


async def test_a_page_that_has_expired_starts_the_list_again() -> None:
    fake = FakeApi(streaming=False)
    fake.page = 1
    world = World(fake)
    for name in "abc":
        fake.put("services", name)
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until("a", "b", "c")
        await fake.until(lambda: fake.watchers)

        def expire(asked: Asked) -> None:
            if asked.verb == "list" and asked.query.get("continue", "").startswith("2@"):
                fake.before.remove(expire)
                fake.expire()

        fake.before.append(expire)
        fake.error(410, "Expired")
        await world.until("a", "b", "c", syncs=2)
    assert all(names == {"a", "b", "c"} for names in world.history)  # no partial list took anything away


async def test_an_expired_watch_lists_again_and_sees_what_it_missed(fake: FakeApi) -> None:
    world = World(fake)
    for name in "ab":
        fake.put("services", name)
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until("a", "b")
        await fake.until(lambda: fake.watchers)
        fake.watchers.clear()  # events go nowhere
        fake.remove("services", "a")
        fake.put("services", "c")
        fake.expire()
        fake.drop()
        await world.until("b", "c", syncs=2)
    assert world.facts.of(Listed)[-1].relist
    assert {"b"} not in world.history and {"c"} not in world.history


async def test_a_dropped_connection_resumes_where_it_was(fake: FakeApi) -> None:
    world = World(fake)
    fake.put("services", "a")
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until("a")
        for round_ in range(3):
            await fake.until(lambda: fake.watchers)
            fake.drop()
            fake.put("services", f"b{round_}")
            await world.until("a", *(f"b{number}" for number in range(round_ + 1)))
    assert world.syncs == 1
    assert {each.code for each in world.facts.of(WatchFailed)} == {0}


async def test_an_ordinary_end_is_no_failure_and_bookmarks_move_the_place(fake: FakeApi) -> None:
    world = World(fake)
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until()
        await fake.until(lambda: fake.watchers)
        fake.now += 50
        fake.bookmark()
        fake.end()
        place = str(fake.now)
        await fake.until(lambda: any(each.query.get("resourceVersion") == place for each in fake.asked))
    assert not world.facts.of(WatchFailed) and world.syncs == 1


async def test_a_watch_that_says_nothing_for_too_long_is_given_up(fake: FakeApi) -> None:
    world = World(fake)
    short = Timing(watch=1.0, grace=-0.95, backoff=QUICK)  # asks for 1 s and hears nothing for 50 ms
    async with fake.serve() as api, running(world.reflect(api, short)):
        await world.until()
        await fake.until(lambda: fake.count("watch", "services") >= 4)
    assert world.facts.of(WatchFailed)[0].code == 0


async def test_a_stream_without_an_end_is_read_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeApi()
    fake.put("services", "a")
    monkeypatch.setattr(FakeApi, "_bookmark", lambda *_: {"type": "BOOKMARK", "object": {"metadata": {}}})
    world = World(fake)
    async with fake.serve() as api, running(world.reflect(api, Timing(initial=0.05, backoff=QUICK))):
        await world.until("a")
        fake.put("services", "b")
        await world.until("a", "b")
    assert fake.count("list", "services") == 1


async def test_an_overloaded_server_is_asked_again(fake: FakeApi) -> None:
    world = World(fake)
    fake.put("services", "a")
    fake.fail(2, Refused(429, "TooManyRequests"), "list", "watch", plural="services")
    fake.fail(2, Refused(500, "InternalError"), "list", "watch", plural="services")
    async with fake.serve() as api, running(world.reflect(api)):
        await world.until("a")
    assert [each.code for each in world.facts.of(WatchFailed)] == [429, 429, 500, 500]


async def test_another_answer_starts_the_waiting_anew(fake: FakeApi) -> None:
    world = World(fake)
    for code, times in ((503, 3), (429, 2)):
        fake.fail(times, Refused(code, "No"), "list", "watch", plural="services")
    timing = Timing(backoff=Backoff(base=0.001, ceiling=1.0))
    async with fake.serve() as api, running(world.reflect(api, timing)):
        await world.until()
    delays = [round(each.delay * 2000) for each in world.facts.of(WatchFailed)]
    assert delays == [1, 2, 4, 1, 2]


@pytest.mark.parametrize("code", [403, 404])
async def test_what_is_refused_is_the_caller_s_matter(fake: FakeApi, code: int) -> None:
    world = World(fake)
    fake.fail(9, Refused(code, "No", "for a reason"), "list", "watch", plural="services")
    async with fake.serve() as api:
        with pytest.raises(ApiError, match="for a reason"):
            await world.reflect(api)


async def test_one_object_by_name_and_a_selection(fake: FakeApi) -> None:
    for name in "ab":
        fake.put("services", name, metadata={"labels": {"app": name}})
    one, some = World(fake, Query(SERVICES, "default", name="a")), World(fake, Query(SERVICES, labels="app=b"))
    async with fake.serve() as api, running(one.reflect(api), some.reflect(api)):
        await one.until("a")
        await some.until("b")
