"""The provisioner: what a fleet needs is applied when it changes, again when it failed, and removed with the fleet."""

from collections.abc import Callable
from typing import Any

from tests.xds_server.kubernetes.helpers import QUICK, Facts, running, soon
from tests.xds_server.resolve_world import gateway, graph
from xds_server.kubernetes.api import ApiError
from xds_server.kubernetes.facts import Provisioned, ProvisionFailed
from xds_server.kubernetes.provision import Provisioner, path_of
from xds_server.latest import Latest
from xds_server.model.graph import Fleet, Graph

Json = dict[str, Any]


class FakeApi:
    """What was applied and deleted; `failing` paths are refused as often as they say."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.calls: list[tuple[str, str]] = []
        self.failing: dict[str, int] = {}
        self.applied: Callable[[str], None] = lambda _: None

    async def apply(self, path: str, body: Json, manager: str) -> Json:
        assert manager == "penstock"
        self.calls.append(("apply", path))
        if self.failing.get(path, 0):
            self.failing[path] -= 1
            raise ApiError(403, "Forbidden", "no")
        self.objects[path] = body
        self.applied(path)
        return body

    async def get(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(404, "NotFound", "none")
        return self.objects[path]

    async def delete(self, path: str) -> Json:
        self.calls.append(("delete", path))
        if self.failing.get(path, 0):
            self.failing[path] -= 1
            raise ApiError(500, "InternalError", "no")
        if self.objects.pop(path, None) is None:
            raise ApiError(404, "NotFound", "gone")
        return {}


def world(*names: str) -> Graph:
    return graph(*(gateway(name) for name in names), per_gateway=True)


def config_map(name: str, fleet: Fleet) -> list[Json]:
    assert fleet.gateway
    meta = {"namespace": fleet.gateway.meta.namespace, "name": fleet.gateway.meta.ref.name}
    return [{"kind": "ConfigMap", "metadata": meta, "data": {"fleet": name, "ports": str(len(fleet.ports))}}]


class World:
    def __init__(self, *names: str, leads: bool = True, again: float = 1000.0) -> None:
        self.api, self.facts = FakeApi(), Facts()
        self.graphs: Latest[Graph] = Latest()
        self.leading: Latest[bool] = Latest()
        self.graphs.set(world(*names))
        self.leading.set(leads)
        self.provisioner = Provisioner(
            self.api,  # type: ignore[arg-type]
            self.graphs,
            self.leading,
            config_map,
            self.facts,
            again=again,
            backoff=QUICK,
        )


A, B = (f"/api/v1/namespaces/d/configmaps/{name}" for name in "ab")


async def test_each_gateway_gets_what_it_needs_once() -> None:
    here = World("a", "b")
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 2)
        here.graphs.set(world("a", "b", "c"))
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 3)
    assert here.api.objects[A]["data"]["fleet"] == "d/a"
    assert here.api.calls.count(("apply", A)) == 1


async def test_what_a_gone_gateway_had_goes() -> None:
    here = World("a", "b")
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 2)
        here.graphs.set(world("b"))
        await soon(lambda: A not in here.api.objects)
    assert B in here.api.objects


async def test_what_could_not_be_removed_is_tried_again() -> None:
    here = World("a", "b")
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 2)
        here.api.failing[A] = 3
        here.graphs.set(world("b"))
        await soon(lambda: A not in here.api.objects)
        await soon(lambda: not here.provisioner._due)
    assert len(here.facts.of(ProvisionFailed)) == 3


async def test_what_is_to_stay_stays_and_is_removed_later() -> None:
    here = World("a", "b")
    kept = {"d/a"}
    here.provisioner._keeps = kept.__contains__
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 2)
        here.graphs.set(world())
        await soon(lambda: B not in here.api.objects)
        assert A in here.api.objects
        kept.clear()
        here.graphs.set(world("c"))
        await soon(lambda: A not in here.api.objects)


async def test_who_leads_no_more_is_not_kept_awake_by_what_failed() -> None:
    here = World("a")
    here.api.failing[A] = 1_000_000
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: here.facts.of(ProvisionFailed))
        here.leading.set(False)
        await soon(lambda: not here.provisioner._due)


async def test_a_failure_is_tried_again_and_harms_no_other() -> None:
    here = World("a", "b")
    here.api.failing[A] = 3
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 2)
    assert [each.fleet for each in here.facts.of(Provisioned)] == ["d/b", "d/a"]
    assert len(here.facts.of(ProvisionFailed)) == 3


async def test_only_the_leader_applies() -> None:
    here = World("a", leads=False)
    async with running(here.provisioner.run()):
        here.graphs.set(world("a", "b"))
        await soon(lambda: True)
        assert here.api.calls == []
        here.leading.set(True)
        await here.facts.until(lambda: len(here.facts.of(Provisioned)) == 2)


async def test_who_leads_no_more_leaves_the_rest_to_the_next_leader() -> None:
    here = World("a", "b")

    def replaced(_: str) -> None:
        here.leading.set(False)

    here.api.applied = replaced
    async with running(here.provisioner.run()):
        await soon(lambda: here.api.calls)
        await soon(lambda: not here.provisioner._applied)
        here.graphs.set(world("a"))
        await soon(lambda: True)
        assert here.api.calls == [("apply", A)]


async def test_what_comes_back_while_it_is_removed_is_applied_again() -> None:
    here = World("a")
    more = f"{A}-more"

    def two(name: str, fleet: Fleet) -> list[Json]:
        (one,) = config_map(name, fleet)
        return [one, {**one, "metadata": {"namespace": "d", "name": "a-more"}}]

    here.provisioner._manifests = two
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: here.facts.of(Provisioned))
        here.api.failing[more] = 1_000_000
        here.graphs.set(world())
        await here.facts.until(lambda: here.facts.of(ProvisionFailed))
        assert here.api.objects.keys() == {more}
        here.graphs.set(world("a"))
        here.api.failing.clear()
        await soon(lambda: here.api.objects.keys() == {A, more})


async def test_what_an_answer_that_was_lost_has_changed_is_changed_back() -> None:
    here = World("a")
    value = "1"
    here.provisioner._manifests = lambda name, fleet: [{**config_map(name, fleet)[0], "data": {"value": value}}]

    def lost(_: str) -> None:
        nonlocal value
        value, here.api.applied = "1", lambda _: None
        raise ApiError(0, "Unreachable", "no answer in time")

    async with running(here.provisioner.run()):
        await here.facts.until(lambda: here.facts.of(Provisioned))
        value, here.api.applied = "2", lost
        here.graphs.set(world("a", "b"))
        await here.facts.until(lambda: here.facts.of(ProvisionFailed))
        await soon(lambda: here.api.objects[A]["data"]["value"] == "1")


async def test_everything_is_applied_again_from_time_to_time() -> None:
    here = World("a", again=0.0)
    async with running(here.provisioner.run()):
        await soon(lambda: here.api.calls.count(("apply", A)) >= 3)


async def test_what_belongs_to_someone_else_is_not_overwritten() -> None:
    here = World("a")
    here.api.objects[A] = {"metadata": {"ownerReferences": [{"uid": "theirs"}]}}
    async with running(here.provisioner.run()):
        await here.facts.until(lambda: here.facts.of(ProvisionFailed))
        assert "belongs to someone else" in here.facts.of(ProvisionFailed)[0].message
        del here.api.objects[A]
        await here.facts.until(lambda: here.facts.of(Provisioned))


async def test_a_service_outlives_its_last_port() -> None:
    here = World("a")
    service = "/api/v1/namespaces/d/services/a"
    here.provisioner._applied["d/a"] = {service: "hash", "/api/v1/namespaces/d/configmaps/old": "hash"}
    here.api.objects[service] = here.api.objects["/api/v1/namespaces/d/configmaps/old"] = {"metadata": {}}
    async with running(here.provisioner.run()):
        await soon(lambda: "/api/v1/namespaces/d/configmaps/old" not in here.api.objects)
    assert service in here.api.objects


async def test_a_gateway_of_another_class_leaves_no_service_behind() -> None:
    here = World("a")
    old, new = (f"/api/v1/namespaces/d/services/a-{name}" for name in ("old", "new"))
    here.provisioner._manifests = lambda *_: [{"kind": "Service", "metadata": {"namespace": "d", "name": "a-new"}}]
    here.provisioner._applied["d/a"] = {old: "hash"}
    here.api.objects[old] = {"metadata": {}}
    async with running(here.provisioner.run()):
        await soon(lambda: old not in here.api.objects)
    assert new in here.api.objects


def test_paths() -> None:
    deployment = {"kind": "Deployment", "metadata": {"namespace": "n", "name": "x"}}
    assert path_of(deployment) == "/apis/apps/v1/namespaces/n/deployments/x"
