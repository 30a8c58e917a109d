"""Pickers: the co-located one, foreign ones, and the pools that stand in for a pool."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import gateway, graph, parent, pod, pool, reasons, route, rule, service, status
from tests.xds_server.test_resolve_policies import policy
from tests.xds_server.test_resolve_tls import authority, config_map
from xds_server.model.graph import Backend, Graph
from xds_server.model.objects import Object

GROUP = "inference.networking.k8s.io"
TO_POOL = [{"group": GROUP, "kind": "InferencePool", "name": "p"}]
PICKER = {"endpointPickerRef": {"name": "epp", "port": {"number": 9002}}}
OK = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


def epp(**port: Any) -> Object:
    return service("epp", service_ports=[{"port": 9002, **port}], spec={"selector": {"app": "epp"}})


def foreign(*objects: Object, annotations: Any = None, spec: Any = None) -> Graph:
    named = pool(spec=PICKER if spec is None else spec, annotations=annotations or {})
    return graph(gateway(), route("r", rule(to=TO_POOL)), named, *objects, foreign_pickers=True)


def picker_of(found: Graph, name: str = "d/p") -> Backend:
    held = found.pools[name].backend.picker
    assert held is not None
    return held


class TestForeign:
    def test_it_is_asked_by_grpc_over_tls_that_nobody_vouches_for(self) -> None:
        found = foreign(epp(), pod("e", "10.0.0.9", app="epp"))
        picker = picker_of(found)
        assert picker.cluster.startswith("picker/d/epp/9002~")
        assert picker.protocol == "h2c"
        assert picker.tls is not None
        assert (picker.tls.verify, picker.tls.authorities) == (False, None)
        assert found.backends == {each.cluster: each for each in (picker, found.pools["d/p"].backend)}
        assert [str(each) for each in found.endpoints[picker.cluster]] == ["10.0.0.9:9002"]
        assert parent(found, "p", kind="InferencePool") == OK

    def test_plaintext_is_said_by_the_port(self) -> None:
        picker = picker_of(foreign(epp(appProtocol="kubernetes.io/h2c")))
        assert (picker.cluster, picker.tls) == ("picker/d/epp/9002", None)

    def test_a_policy_says_whom_to_trust(self) -> None:
        found = foreign(epp(), authority(), policy(to="epp"))
        tls = picker_of(found).tls
        assert tls is not None
        assert (tls.verify, tls.hostname) == (True, "s.example.com")
        entry = status(found, "BackendTLSPolicy", "p").ancestors[0]
        assert (entry.parent.ref.name, reasons(entry.conditions)) == ("gw", OK)

    @pytest.mark.parametrize(
        "objects",
        [
            [],
            [service("epp")],
            [service("epp", spec={"type": "ExternalName", "externalName": "x.example.com"})],
            [epp(), policy("p", config_map("none"), to="epp")],
        ],
    )
    def test_one_that_cannot_be_asked(self, objects: Any) -> None:
        found = foreign(*objects)
        assert parent(found, "p", kind="InferencePool")["ResolvedRefs"] == ("False", "InvalidExtensionRef")
        assert parent(found, "r")["Accepted"] == ("True", "Accepted")
        assert not found.backends

    def test_without_a_reference_the_co_located_one_serves(self) -> None:
        found = foreign(spec={})
        assert found.pools["d/p"].backend.picker is None
        assert parent(found, "p", kind="InferencePool") == OK

    @pytest.mark.parametrize("mode", ["FailOpen", "FailClose"])
    def test_the_co_located_one_may_be_named_to_say_how_it_fails(self, mode: str) -> None:
        ref = {"group": "penstock.dev", "kind": "EndpointPicker", "name": "penstock", "failureMode": mode}
        found = foreign(spec={"endpointPickerRef": ref})
        backend = found.pools["d/p"].backend
        assert (backend.picker, backend.fail_open) == (None, mode == "FailOpen")
        assert parent(found, "p", kind="InferencePool") == OK

    def test_where_foreign_ones_are_not_honoured(self) -> None:
        assert graph(pool(spec=PICKER), epp()).pools["d/p"].backend.picker is None


class TestFailover:
    def test_the_pools_of_the_annotation_in_its_order(self) -> None:
        found = foreign(epp(), pool("b", spec=PICKER), pool("a"), annotations={"penstock.dev/failover": "b, a"})
        stand_ins = found.pools["d/p"].backend.failover
        assert [each.cluster for each in stand_ins] == ["pool/d/b", "pool/d/a"]
        assert [each.picker for each in stand_ins] == [picker_of(found), None]
        assert sorted(found.backends) == [picker_of(found).cluster, "pool/d/a", "pool/d/b", "pool/d/p"]

    def test_names_that_lead_nowhere_are_said_and_skipped(self) -> None:
        refused = pool("refused", spec={"endpointPickerRef": {"name": "none", "port": {"number": 1}}})
        found = foreign(epp(), refused, pool("a"), annotations={"penstock.dev/failover": "none,p,refused,a"})
        assert [each.cluster for each in found.pools["d/p"].backend.failover] == ["pool/d/a"]
        assert len([each for each in found.problems if "penstock.dev/failover" in each.field]) == 3
        assert parent(found, "p", kind="InferencePool") == OK

    def test_two_pools_may_stand_in_for_each_other(self) -> None:
        other = pool("a", annotations={"penstock.dev/failover": "p"})
        found = foreign(other, spec={}, annotations={"penstock.dev/failover": "a"})
        assert [each.failover for each in found.pools["d/p"].backend.failover] == [()]
