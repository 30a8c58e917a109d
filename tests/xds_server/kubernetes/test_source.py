"""Source: nothing before everything has been read, one state for a burst, and only what is referred to."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.xds_server.kubernetes.fake_api import KINDS, Asked, FakeApi, Refused
from tests.xds_server.kubernetes.helpers import GROUP, TIMING, Facts, certain, running
from xds_server.kubernetes.api import Api
from xds_server.kubernetes.facts import KindsChanged, WatchFailed
from xds_server.kubernetes.source import Pace, Source
from xds_server.latest import Latest
from xds_server.model.objects import ClusterState, Gateway, HTTPRoute, ObjectRef, Pod, Secret

PACE = Pace(settle=0.0, discover=0.005, patience=20.0, absent=0.001, present=0.001)
LISTENERS = [{"name": "http", "port": 80, "protocol": "HTTP"}]


def certificates(state: ClusterState) -> frozenset[ObjectRef]:
    """A `wanted`: what listeners name."""
    listeners = (listener for gateway in state.all(Gateway) for listener in gateway.listeners)
    return frozenset(ref for listener in listeners if listener.tls for ref in listener.tls.certificates)


class World:
    def __init__(self, fake: FakeApi, pace: Pace = PACE, namespaces: tuple[str, ...] = ()) -> None:
        self.fake, self.pace, self.namespaces = fake, pace, namespaces
        self.states: Latest[ClusterState] = Latest()
        self.facts = Facts()
        self.history: list[ClusterState] = []
        self.source: Source

    def run(self, api: Api) -> Any:
        self.source = Source(
            api, self.states, certificates, self.facts,
            namespaces=self.namespaces, pace=self.pace, timing=TIMING, chance=certain,
        )  # fmt: skip
        return self.source.run()

    async def until(self, condition: Callable[[ClusterState], object]) -> ClusterState:
        seen = 0
        while True:
            seen, state = await self.states.next(seen)
            self.history.append(state)
            if condition(state):
                return state


def names(state: ClusterState, kind: type[Any]) -> list[str]:
    return sorted(found.meta.ref.name for found in state.all(kind))


def gateway(fake: FakeApi, *secrets: str, name: str = "gw") -> None:
    listeners = [
        {"name": each, "port": 443, "protocol": "HTTPS", "hostname": f"{each}.example",
         "tls": {"certificateRefs": [{"name": each}]}}
        for each in secrets
    ]  # fmt: skip
    fake.put("gateways", name, spec={"gatewayClassName": "penstock", "listeners": listeners or LISTENERS})


def route(fake: FakeApi, name: str, namespace: str = "default", host: str = "a.example") -> None:
    fake.put("httproutes", name, namespace, spec={"hostnames": [host]})


def pod(fake: FakeApi, name: str, app: str, namespace: str = "default") -> None:
    status = {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    fake.put("pods", name, namespace, metadata={"labels": {"app": app}}, spec={}, status=status)


def pool(fake: FakeApi, name: str, app: str, namespace: str = "default") -> None:
    spec = {"selector": {"matchLabels": {"app": app}}, "targetPorts": [{"number": 8000}]}
    picker = {"endpointPickerRef": {"name": "picker", "port": {"number": 9002}}}
    fake.put("inferencepools", name, namespace, spec=spec | picker)


def secret(fake: FakeApi, name: str) -> None:
    fake.put("secrets", name, type="kubernetes.io/tls", data={"tls.crt": "YQ==", "tls.key": "YQ=="})


@pytest.fixture
def fake() -> FakeApi:
    found = FakeApi()
    found.put("namespaces", "default")
    return found


async def test_nothing_is_published_before_everything_has_been_read(fake: FakeApi) -> None:
    gateway(fake)
    route(fake, "a")
    released = fake.hang("list", "watch", plural="services")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        await fake.until(lambda: fake.count("watch", "services") and fake.count("watch", "httproutes"))
        for _ in range(3):  # routes have been read; services are being waited for
            await fake.until(lambda: len(fake.watchers) >= len(KINDS) - 5)
        assert world.states.version == 0
        released.set()
        state = await world.until(lambda _: True)
        assert names(state, Gateway) == ["gw"] and names(state, HTTPRoute) == ["a"] and not state.problems
    assert "HTTPRoute" in str(KINDS) and world.facts.of(KindsChanged)


async def test_a_burst_is_one_state_and_the_rest_keeps_its_identity(fake: FakeApi) -> None:
    route(fake, "kept")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        before = await world.until(lambda _: True)
        for number in range(300):
            route(fake, f"r{number}")
        after = await world.until(lambda state: len(state.all(HTTPRoute)) == 301)
        assert world.states.version < 50
        ref = ObjectRef(GROUP, "HTTPRoute", "default", "kept")
        assert after.objects[ref] is before.objects[ref]


async def test_a_status_is_held_and_makes_no_state(fake: FakeApi) -> None:
    route(fake, "a")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        await world.until(lambda _: True)
        ref = ObjectRef(GROUP, "HTTPRoute", "default", "a")
        version, held = world.states.version, world.source.held
        fake.status("httproutes", "a", {"parents": [{"controllerName": "other"}]})
        while held[ref] != {"parents": [{"controllerName": "other"}]}:
            await held.changes()
        route(fake, "b")
        await world.until(lambda state: len(state.all(HTTPRoute)) == 2)
        assert world.states.version == version + 1


async def test_only_the_pods_that_a_pool_selects_are_read(fake: FakeApi) -> None:
    pool(fake, "one", "a")
    pod(fake, "a1", "a")
    pod(fake, "b1", "b")
    pod(fake, "a2", "a", "elsewhere")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert names(state, Pod) == ["a1"]  # in the first state already
        pool(fake, "one", "b")
        await world.until(lambda state: names(state, Pod) == ["b1"])
        assert all(names(state, Pod) for state in world.history)  # the new was read before the old was let go
        fake.remove("inferencepools", "one")
        await world.until(lambda state: not names(state, Pod))
    assert {each.query.get("labelSelector") for each in fake.asked if each.plural == "pods"} == {"app=a", "app=b"}


@pytest.mark.parametrize("denied", [(), ("list", "watch")], ids=["watched", "get only"])
async def test_only_the_secrets_that_are_named_are_read(fake: FakeApi, denied: tuple[str, ...]) -> None:
    gateway(fake, "one")
    for name in ("one", "two", "other"):
        secret(fake, name)
    if denied:
        fake.deny(*denied, plural="secrets")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert names(state, Secret) == ["one"]
        gateway(fake, "two", "three")
        await world.until(lambda state: names(state, Secret) == ["two"])
        two = ObjectRef("", "Secret", "default", "two")  # no state names it without having it
        assert all(two in state.objects for state in world.history if two in certificates(state))
        secret(fake, "three")
        await world.until(lambda state: names(state, Secret) == ["three", "two"])
        fake.put("secrets", "two", data={"tls.crt": "Yg=="})
        await world.until(lambda state: b"b" in [found.data["tls.crt"] for found in state.all(Secret)])
        fake.remove("secrets", "two")
        await world.until(lambda state: names(state, Secret) == ["three"])
    asked = [each for each in fake.asked if each.plural == "secrets"]
    assert all(each.namespace == "default" and (each.name or each.query["fieldSelector"]) for each in asked)
    assert not any("other" in (each.name, each.query.get("fieldSelector", "")[14:]) for each in asked)


async def test_a_secret_that_may_not_be_read_is_a_problem_and_holds_nothing_up(fake: FakeApi) -> None:
    gateway(fake, "one")
    secret(fake, "one")
    fake.deny("list", "watch", plural="secrets")
    allow = fake.deny("get", plural="secrets")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        (problem,) = state.problems
        assert problem.reason == "Forbidden" and "grant get" in problem.message
        assert problem.ref == ObjectRef("", "Secret", "default", "one")
        fake.before.remove(allow)
        state = await world.until(lambda state: names(state, Secret))
        assert not state.problems


async def test_a_server_that_has_not_read_its_roles_yet_takes_no_secret_away(fake: FakeApi) -> None:
    gateway(fake, "one")
    secret(fake, "one")
    fake.deny("list", "watch", plural="secrets")
    fake.fail(2, Refused(403, "Forbidden"), "get", plural="secrets")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
    assert names(state, Secret) == ["one"]
    assert not state.problems


async def test_an_object_that_cannot_be_asked_about_is_not_waited_for_for_ever(fake: FakeApi) -> None:
    gateway(fake, "one")
    released = fake.hang("list", "watch", plural="secrets")
    world = World(fake, Pace(settle=0.0, patience=0.01))
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert names(state, Gateway) == ["gw"] and not state.all(Secret)
        released.set()


async def test_one_that_is_not_waited_for_any_more_takes_no_other_s_time(fake: FakeApi) -> None:
    """One that is never answered would else make every new certificate, of any Gateway, be named before it is read."""
    gateway(fake, "one")
    gateway(fake, "mute", name="stuck")
    for name in ("one", "two"):
        secret(fake, name)
    released = asyncio.Event()

    async def wait(asked: Asked) -> None:
        if "mute" in (asked.name, asked.query.get("fieldSelector", "").removeprefix("metadata.name=")):
            await released.wait()

    fake.before.append(wait)
    world = World(fake, Pace(settle=0.0, patience=1.0))
    async with fake.serve() as api, running(world.run(api)):
        assert names(await world.until(lambda _: True), Secret) == ["one"]
        gateway(fake, "two")
        two = ObjectRef("", "Secret", "default", "two")
        state = await world.until(lambda state: two in certificates(state))
        released.set()
    assert two in state.objects


async def test_beyond_the_limit_of_watches_objects_are_read_by_name(fake: FakeApi) -> None:
    certificates_ = [f"s{number}" for number in range(5)]
    gateway(fake, *certificates_)
    for name in certificates_:
        secret(fake, name)
    world = World(fake, Pace(settle=0.0, watches=2, absent=0.001, present=0.001))
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert names(state, Secret) == certificates_
        assert len([each for each in fake.watchers.values() if each[0] == "secrets"]) == 2


async def test_a_crd_comes_and_goes(fake: FakeApi) -> None:
    del fake.kinds["httproutes"]
    route(fake, "a")
    gateway(fake)
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert names(state, Gateway) == ["gw"] and not state.all(HTTPRoute)
        fake.kinds["httproutes"] = KINDS["httproutes"]
        await world.until(lambda state: names(state, HTTPRoute) == ["a"])
        assert ObjectRef(GROUP, "HTTPRoute", "default", "a") in world.source.held
        del fake.kinds["httproutes"]
        fake.drop()
        state = await world.until(lambda state: not state.all(HTTPRoute))
        assert names(state, Gateway) == ["gw"]
        assert ObjectRef(GROUP, "HTTPRoute", "default", "a") not in world.source.held


async def test_a_server_that_does_not_know_its_crds_yet_takes_nothing_away(fake: FakeApi) -> None:
    """All watches end at once with it, and each 404 asks for another look: many of these in a row are one."""
    gateway(fake)
    route(fake, "a")
    world = World(fake, replace(PACE, discover=20.0))
    async with fake.serve() as api, running(world.run(api)):
        await world.until(lambda _: True)
        known = {plural: fake.kinds.pop(plural) for plural in ("gateways", "httproutes", "gatewayclasses")}
        fake.drop()
        await world.facts.until(lambda: len([each for each in world.facts.of(WatchFailed) if each.code == 404]) > 20)
        fake.kinds |= known
        route(fake, "b")
        state = await world.until(lambda state: names(state, HTTPRoute) == ["a", "b"])
    assert all(names(each, Gateway) == ["gw"] for each in world.history) and names(state, Gateway) == ["gw"]


async def test_only_the_given_namespaces_are_asked_for(fake: FakeApi) -> None:
    for namespace in ("red", "blue", "green"):
        fake.put("namespaces", namespace)
        route(fake, "r", namespace)
    world = World(fake, namespaces=("red", "blue"))
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert sorted(found.meta.namespace for found in state.all(HTTPRoute)) == ["blue", "red"]
    asked = {each.namespace for each in fake.asked if each.plural == "httproutes"}
    assert asked == {"red", "blue"}
    assert {each.namespace for each in fake.asked if each.plural in ("namespaces", "gatewayclasses")} == {""}


async def test_a_mistake_is_a_problem_and_the_last_good_version_stays(fake: FakeApi) -> None:
    route(fake, "a")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        await world.until(lambda state: not state.problems)
        route(fake, "a", host="not a host!")
        state = await world.until(lambda state: state.problems)
        assert state.all(HTTPRoute)[0].hostnames == ("a.example",)


async def test_a_kind_that_may_not_be_listed_is_waited_for_and_said(fake: FakeApi) -> None:
    allow = fake.deny("list", "watch", plural="httproutes")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        await world.facts.until(lambda: [each for each in world.facts.of(WatchFailed) if each.code == 403])
        assert world.states.version == 0  # a gateway without its routes is worse than none
        fake.before.remove(allow)
        await world.until(lambda state: not state.problems)


async def test_what_was_read_stays_when_it_may_not_be_read_any_more(fake: FakeApi) -> None:
    route(fake, "a")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        await world.until(lambda _: True)
        fake.deny("list", "watch", plural="httproutes")
        fake.drop()
        state = await world.until(lambda state: state.problems)
        assert names(state, HTTPRoute) == ["a"] and "grant list and watch" in state.problems[0].message


async def test_a_server_that_is_starting_is_waited_for(fake: FakeApi) -> None:
    fake.fail(3, Refused(503, "ServiceUnavailable"), "discover", plural=f"{GROUP}/v1")
    route(fake, "a")
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        state = await world.until(lambda _: True)
        assert names(state, HTTPRoute) == ["a"]


async def test_the_right_to_watch_one_object_is_tried_again(fake: FakeApi) -> None:
    """An API server that starts refuses everything for a moment."""
    gateway(fake, "one")
    secret(fake, "one")
    allow = fake.deny("list", "watch", plural="secrets")
    world = World(fake, replace(PACE, again=0.01))
    async with fake.serve() as api, running(world.run(api)):
        await world.until(lambda state: names(state, Secret))
        fake.before.remove(allow)
        watched = fake.count("watch", "secrets")
        await fake.until(lambda: fake.count("watch", "secrets") > watched)


async def test_a_refusal_long_ago_makes_the_next_one_no_longer(fake: FakeApi) -> None:
    world = World(fake)
    async with fake.serve() as api, running(world.run(api)):
        for _ in range(2):
            await world.until(lambda state: not state.problems)
            await asyncio.sleep(2 * TIMING.backoff.ceiling)
            allow = fake.deny("list", "watch", plural="httproutes")
            fake.drop()
            await world.until(lambda state: state.problems)
            fake.before.remove(allow)
    delays = [each.delay for each in world.facts.of(WatchFailed) if each.code == 403]
    assert delays.count(TIMING.backoff.delay(1, certain)) >= 2
