"""Pools: status per Gateway, who picks, objectives, rewrites, configuration."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import (
    ask,
    gateway,
    graph,
    http,
    parent,
    pool,
    reasons,
    route,
    rule,
    service,
    status,
    thing,
)
from xds_server.model.graph import Objective, Reply

TO_POOL = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}]
PICKER = {"endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}
OK = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


def to_pool(name: str = "r", **more: Any) -> Any:
    return route(name, rule(to=TO_POOL), **more)


def about_pool(name: str, to: dict[str, Any] | None = None, kind: str = "InferenceObjective", **spec: Any) -> Any:
    return thing(kind, name, {"poolRef": to or {"name": "p"}, **spec})


class TestParents:
    def test_none_without_a_route(self) -> None:
        assert status(graph(gateway(), pool()), "InferencePool", "p").parents == ()

    def test_one_for_each_gateway(self) -> None:
        routes = [to_pool("a", parents=[{"name": "gw"}, {"name": "gw2"}]), to_pool("b", parents=[{"name": "gw"}])]
        found = graph(gateway(), gateway("gw2", http(port=81)), *routes, pool())
        parents = status(found, "InferencePool", "p").parents
        assert [each.parent.ref.name for each in parents] == ["gw", "gw2"]
        assert [reasons(each.conditions) for each in parents] == [OK, OK]

    def test_a_route_that_is_not_accepted(self) -> None:
        found = graph(gateway("gw", http(hostname="a.com")), to_pool(hostnames=["b.com"]), pool())
        assert parent(found, "p", kind="InferencePool")["Accepted"] == ("False", "HTTPRouteNotAccepted")
        both = graph(gateway("gw", http(hostname="a.com")), to_pool(hostnames=["b.com"]), to_pool("good"), pool())
        assert parent(both, "p", kind="InferencePool") == OK


class TestPicker:
    @pytest.mark.parametrize("spec", [{}, PICKER])
    def test_the_co_located_one_serves_every_pool(self, spec: Any) -> None:
        found = graph(gateway(), to_pool(), pool(spec=spec))
        assert parent(found, "p", kind="InferencePool") == OK
        assert "co-located" in status(found, "InferencePool", "p").parents[0].conditions[1].message

    def test_the_picker_chooses_among_ranks_of_which_envoy_knows_nothing(self) -> None:
        annotations = {
            "penstock.dev/endpoints": "10.0.0.1:8000,[fd00::1]:8000",
            "penstock.dev/data-parallel-ranks": "2",
        }
        found = graph(gateway(), to_pool(), pool(annotations=annotations))
        names = ["10.0.0.1:8000@0", "10.0.0.1:8000@1", "[fd00::1]:8000@0", "[fd00::1]:8000@1"]
        assert [str(each) for each in found.pools["d/p"].endpoints] == names
        assert [each.rank for each in found.pools["d/p"].endpoints] == [0, 1, 0, 1]
        assert [str(each) for each in found.endpoints["pool/d/p"]] == ["10.0.0.1:8000", "[fd00::1]:8000"]

    def test_without_it_a_pool_needs_its_own(self) -> None:
        objects = [gateway(), to_pool()]
        missing = graph(*objects, pool(), colocated_picker=False)
        assert parent(missing, "p", kind="InferencePool")["Accepted"] == ("False", "EndpointPickerRefMissing")
        wrong = graph(*objects, pool(spec=PICKER), colocated_picker=False)
        assert parent(wrong, "p", kind="InferencePool")["ResolvedRefs"] == ("False", "InvalidExtensionRef")
        assert parent(wrong, "r")["ResolvedRefs"] == ("False", "BackendNotFound")
        assert ask(wrong, "a").action == Reply(500)  # type: ignore[union-attr]
        assert not wrong.backends
        epp = service("epp", service_ports=[{"port": 9002}])
        right = graph(*objects, pool(spec=PICKER), epp, colocated_picker=False)
        assert parent(right, "p", kind="InferencePool") == OK
        assert [each.partition("~")[0] for each in right.backends] == ["picker/d/epp/9002", "pool/d/p"]

    def test_failure_mode(self) -> None:
        opened = {"endpointPickerRef": {**PICKER["endpointPickerRef"], "failureMode": "FailOpen"}}
        assert graph(pool(spec=opened)).pools["d/p"].backend.fail_open
        assert not graph(pool(spec=PICKER)).pools["d/p"].backend.fail_open


class TestObjectives:
    def test_they_come_by_name(self) -> None:
        second = thing(
            "InferenceObjective", "a", {"poolRef": {"name": "p"}}, annotations={"penstock.dev/models": "m1,m2"}
        )
        found = graph(pool(), about_pool("b", priority=-1), second)
        assert found.pools["d/p"].objectives == (Objective("a", 0, ("m1", "m2")), Objective("b", -1))
        assert reasons(status(found, "InferenceObjective", "a").conditions) == {"Accepted": ("True", "Accepted")}

    def test_one_for_a_pool_that_does_not_exist(self) -> None:
        found = graph(pool(), about_pool("a", {"name": "none"}))
        assert reasons(status(found, "InferenceObjective", "a").conditions) == {"Accepted": ("False", "TargetNotFound")}
        assert [each.field for each in found.problems] == ["spec.poolRef"]

    def test_rewrites_come_oldest_first(self) -> None:
        rules = {"rules": [{"targets": [{"modelRewrite": "m"}]}]}
        made = [
            thing(
                "InferenceModelRewrite",
                name,
                {"poolRef": {"name": "p"}, **rules},
                created=f"2026-0{month}-01T00:00:00Z",
            )
            for name, month in (("a", 3), ("b", 1), ("c", 2))
        ]
        found = graph(pool(), *made)
        assert [each.meta.ref.name for each in found.pools["d/p"].rewrites] == ["b", "c", "a"]
        assert reasons(status(found, "InferenceModelRewrite", "b").conditions) == {"Accepted": ("True", "Accepted")}


class TestConfig:
    NAMED = pool(annotations={"penstock.dev/endpoint-picker-config": "mine"})

    @staticmethod
    def document(name: str, ns: str = "d") -> Any:
        return thing("EndpointPickerConfig", name, None, ns, content={"plugins": [{"type": name}]})

    @staticmethod
    def config_map(text: str, key: str = "c.yaml") -> Any:
        return thing("ConfigMap", "mine", None, data={key: text})

    def test_none_is_the_default(self) -> None:
        assert graph(pool()).pools["d/p"].config is None

    def test_the_one_called_default(self) -> None:
        config = graph(pool(), self.document("default"), self.document("other")).pools["d/p"].config
        assert config is not None
        assert config["plugins"] == [{"type": "default"}]

    def test_the_one_that_the_pool_names(self) -> None:
        config = graph(self.NAMED, self.document("default"), self.document("mine")).pools["d/p"].config
        assert config is not None
        assert config["plugins"] == [{"type": "mine"}]

    def test_not_one_of_a_strange_namespace(self) -> None:
        assert graph(pool(), self.document("default", "strange")).pools["d/p"].config is None

    def test_not_the_default_namespace_of_a_cluster_which_is_somebody_s(self) -> None:
        document, own = self.document("default", "default"), self.document("default")
        assert graph(pool(), document).pools["d/p"].config
        assert graph(pool(), document, per_gateway=True).pools["d/p"].config is None
        assert graph(pool(), own, per_gateway=True).pools["d/p"].config

    def test_a_config_map(self) -> None:
        assert graph(self.NAMED, self.config_map("plugins: []")).pools["d/p"].config == {"plugins": []}

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            *(("a: [", "c.yaml"), ("- a", "c.yaml"), ("a: b", "c.txt"), ("a: 1\na: 2", "c.yaml")),
            *(("a: !!int x", "c.yaml"), ("a: &a [*a]", "c.yaml"), ("a: " + "[" * 3000 + "]" * 3000, "c.yaml")),
        ],
        ids=lambda bad: str(bad)[:20],
    )
    def test_what_cannot_be_read_is_a_problem_and_the_default(self, bad: Any) -> None:
        found = graph(self.NAMED, *([self.config_map(*bad)] if bad else []))
        assert found.pools["d/p"].config is None
        (problem,) = found.problems
        assert problem.field == "metadata.annotations[penstock.dev/endpoint-picker-config]"


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "[fe80::1]", "0.0.0.0"])
def test_in_a_cluster_no_pool_leads_to_the_gateway_s_own_host(address: str) -> None:
    asking = pool(annotations={"penstock.dev/endpoints": f"{address}:80, 10.0.0.1:80"})
    assert len(graph(asking).pools["d/p"].endpoints) == 2
    found = graph(asking, per_gateway=True)
    assert [each.address for each in found.pools["d/p"].endpoints] == ["10.0.0.1"]
    (problem,) = (each for each in found.problems if "own host" in each.message)
    assert problem.field == "metadata.annotations[penstock.dev/endpoints]"
