"""Store: what is announced, what keeps its identity, and what a mistake leaves in force."""

import copy
from typing import Any

import pytest

from xds_server.kubernetes import store as module
from xds_server.kubernetes.held import Held
from xds_server.kubernetes.resources import Query, Resource
from xds_server.kubernetes.store import KEPT, Store
from xds_server.model.objects import HTTPRoute, ObjectRef

ROUTES = Resource("gateway.networking.k8s.io", "HTTPRoute", "v1", "httproutes")
SERVICES = Resource("", "Service", "v1", "services")
REF = ObjectRef("gateway.networking.k8s.io", "HTTPRoute", "ns", "a")


class World:
    def __init__(self, resource: Resource = ROUTES) -> None:
        self.changes = 0
        self.held = Held()
        self.store = Store(Query(resource), self.held, self.changed)

    def changed(self) -> None:
        self.changes += 1

    @property
    def objects(self) -> dict[ObjectRef, Any]:
        return self.store.now.objects


def route(host: str = "a.example", generation: int = 1, version: int = 1, **meta: Any) -> dict[str, Any]:
    found = {"name": "a", "namespace": "ns", "uid": "u", "generation": generation, "resourceVersion": str(version)}
    return {"metadata": found | meta, "spec": {"hostnames": [host]}, "status": {"parents": []}}


def test_a_status_or_a_version_announces_nothing_and_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.store.put(route())
    before = world.objects[REF]
    monkeypatch.setattr(module, "parse", None)
    world.store.put(route(version=2) | {"status": {"parents": [{"controllerName": "x"}]}})
    assert world.objects[REF] is before and world.changes == 1
    assert world.held[REF] == {"parents": [{"controllerName": "x"}]}


@pytest.mark.parametrize(
    "change",
    [{"generation": 2}, {"uid": "v", "creationTimestamp": "x"}, {"labels": {"a": "b"}}, {"annotations": {"a": "b"}}],
)
def test_everything_else_is_parsed(change: dict[str, Any]) -> None:
    world = World()
    world.store.put(route())
    world.store.put(route(**change))
    assert world.changes == 2


def test_a_value_that_parses_to_the_same_keeps_its_identity() -> None:
    world = World(SERVICES)
    service = {"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "1"}, "spec": {"ports": [{"port": 80}]}}
    world.store.put(copy.deepcopy(service))
    (before,) = world.objects.values()
    world.store.put(copy.deepcopy(service) | {"status": {"loadBalancer": {}}})
    assert next(iter(world.objects.values())) is before and world.changes == 1
    assert not world.held  # a kind whose status is not ours


def test_a_mistake_keeps_the_last_good_version_and_names_the_object() -> None:
    world = World()
    world.store.put(route())
    world.store.put(route("not a host!", generation=2))
    assert world.objects[REF].hostnames == ("a.example",)
    (problem,) = world.store.now.problems.values()
    assert problem.ref == REF and problem.field == "spec.hostnames[0]" and problem.message.endswith(KEPT)
    world.store.put(route("not a host!", generation=2, version=3))
    assert world.changes == 2
    world.store.put(route("b.example", generation=3))
    assert world.objects[REF].hostnames == ("b.example",) and not world.store.now.problems


def test_a_mistake_from_the_start_has_no_version_and_its_status_is_held() -> None:
    world = World()
    world.store.put(route("not a host!"))
    assert not world.objects and len(world.store.now.problems) == 1 and REF in world.held
    world.store.remove(route())
    assert not world.store.now.problems and REF not in world.held and world.changes == 2


def test_a_list_replaces_at_its_end_and_one_that_breaks_off_changes_nothing() -> None:
    world = World()
    world.store.put(route())
    before = world.objects[REF]
    world.store.begin()
    world.store.put(route(name="b"))
    assert set(world.objects) == {REF} and world.changes == 1
    world.store.begin()
    world.store.put(route())
    world.store.commit()
    assert world.objects[REF] is before and world.changes == 1
    assert set(world.held) == {REF}  # b was only in the list that broke off
    world.store.replace([])
    assert not world.objects and not world.held and world.changes == 2


def test_the_copy_that_kubectl_apply_leaves_is_not_kept() -> None:
    world = World()
    world.store.put(route(annotations={"kubectl.kubernetes.io/last-applied-configuration": "{...}", "a": "b"}))
    found = world.objects[REF]
    assert isinstance(found, HTTPRoute) and found.meta.annotations == {"a": "b"}
    world.store.put(route(annotations={"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}))
    assert world.changes == 1
