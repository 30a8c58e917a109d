"""Endpoints: from EndpointSlices, from Pods, from an annotation; of Services and of InferencePools."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import ask, clusters, gateway, graph, parent, pod, pool, route, rule, service, thing
from xds_server.model.graph import Endpoint, Graph


def slice_(name: str, *endpoints: dict[str, Any], port: int = 8000, port_name: str = "", **more: Any) -> Any:
    ports = [{"port": port, **({"name": port_name} if port_name else {})}]
    labels = more.pop("labels", {"kubernetes.io/service-name": "s"})
    family = more.pop("family", "IPv4")
    return thing(
        "EndpointSlice", name, None, ports=ports, endpoints=list(endpoints), addressType=family, labels=labels, **more
    )


def at(*addresses: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": list(addresses), "conditions": conditions}


def serve(*objects: Any) -> Graph:
    return graph(gateway(), route("r"), *objects)


def addresses(found: Graph, cluster: str = "service/d/s/80") -> list[str]:
    return [str(each) + (" draining" if each.draining else "") for each in found.endpoints[cluster]]


class TestServices:
    def test_slices_win_over_pods(self) -> None:
        found = serve(service(spec={"selector": {"app": "s"}}), pod("x", "10.0.0.9", "s"), slice_("a", at("10.0.0.1")))
        assert addresses(found) == ["10.0.0.1:8000"]

    def test_pods_where_there_are_no_slices(self) -> None:
        objects = [pod("a", "10.0.0.2", "s"), pod("b", "10.0.0.1", "s", ready=False), pod("c", "10.0.0.3", "other")]
        assert addresses(serve(service(spec={"selector": {"app": "s"}}), *objects)) == ["10.0.0.2:8000"]

    def test_a_named_target_port(self) -> None:
        spec = {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 9000}]}]}
        named = service(service_ports=[{"port": 80, "targetPort": "web"}], spec={"selector": {"app": "s"}})
        objects = [pod("a", "10.0.0.2", "s", spec=spec), pod("b", "10.0.0.3", "s")]
        assert addresses(serve(named, *objects)) == ["10.0.0.2:9000"]

    def test_ready_draining_and_gone(self) -> None:
        found = slice_(
            "a",
            at("10.0.0.1", ready=True),
            at("10.0.0.2", ready=False),
            at("10.0.0.3", ready=False, serving=True, terminating=True),
            at("10.0.0.4", ready=False, serving=False, terminating=True),
        )
        assert addresses(serve(service(), found)) == ["10.0.0.1:8000", "10.0.0.3:8000 draining"]

    def test_ports_go_by_name(self) -> None:
        ports = [{"name": "a", "port": 80, "targetPort": 1}, {"name": "b", "port": 81, "targetPort": 2}]
        slices = [
            slice_("a", at("10.0.0.1"), port=1, port_name="a"),
            slice_("b", at("10.0.0.2"), port=2, port_name="b"),
        ]
        assert addresses(serve(service(service_ports=ports), *slices)) == ["10.0.0.1:1"]

    def test_both_families_sorted_and_once(self) -> None:
        slices = [
            slice_("six", at("fd00::1"), family="IPv6"),
            slice_("a", at("10.0.0.2"), at("10.0.0.1")),
            slice_("b", at("10.0.0.1", ready=False, serving=True, terminating=True)),
        ]
        assert addresses(serve(service(), *slices)) == ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"]

    def test_headless(self) -> None:
        assert addresses(serve(service(spec={"clusterIP": "None"}), slice_("a", at("10.0.0.1")))) == ["10.0.0.1:8000"]

    def test_no_endpoint_is_an_empty_cluster(self) -> None:
        assert addresses(serve(service())) == []

    def test_external_name_is_refused(self) -> None:
        external = thing("Service", "s", {"type": "ExternalName", "externalName": "x.com", "ports": [{"port": 80}]})
        assert parent(serve(external), "r")["ResolvedRefs"] == ("False", "InvalidKind")

    @pytest.mark.parametrize(
        ("app_protocol", "expected"), [("", "http"), ("kubernetes.io/h2c", "h2c"), ("kubernetes.io/ws", "http")]
    )
    def test_app_protocol(self, app_protocol: str, expected: str) -> None:
        ports = [{"port": 80, **({"appProtocol": app_protocol} if app_protocol else {})}]
        assert serve(service(service_ports=ports)).backends["service/d/s/80"].protocol == expected

    def test_an_app_protocol_that_we_cannot_speak(self) -> None:
        found = serve(service(service_ports=[{"port": 80, "appProtocol": "kubernetes.io/wss"}]))
        assert parent(found, "r")["ResolvedRefs"] == ("False", "UnsupportedProtocol")

    def test_only_what_a_served_route_uses(self) -> None:
        found = serve(service(), service("other"))
        assert list(found.endpoints) == list(found.backends) == clusters(ask(found, "a"))


class TestPools:
    def test_a_pod_and_a_port_are_an_endpoint(self) -> None:
        spec = {"targetPorts": [{"number": 8001}, {"number": 8000}]}
        found = graph(
            pool(spec=spec), pod("a", "10.0.0.1"), pod("b", "10.0.0.2", ready=False), pod("c", "10.0.0.3", ns="x")
        )
        assert found.pools["d/p"].endpoints == (
            Endpoint("10.0.0.1", 8000, "a", rank=1, labels=(("app", "p"),)),
            Endpoint("10.0.0.1", 8001, "a", rank=0, labels=(("app", "p"),)),
        )

    def test_an_exporter_on_the_node_is_found_by_the_pod_s_host(self) -> None:
        status = {"podIP": "10.0.0.1", "hostIP": "192.0.2.7"}
        served = pool("p", annotations={"penstock.dev/accelerator-metrics": "node:9400"})
        found = graph(served, thing("Pod", "a", {"containers": [{"name": "c"}]}, status=status, labels={"app": "p"}))
        (endpoint,), exporter = found.pools["d/p"].endpoints, found.pools["d/p"].exporter
        assert endpoint.host == "192.0.2.7"
        assert (
            exporter and exporter.url(endpoint.address, endpoint.port, endpoint.host) == "http://192.0.2.7:9400/metrics"
        )

    def test_pods_that_do_not_serve_yet_are_counted(self) -> None:
        there = [pod("a", "10.0.0.1", "p"), pod("b", "10.0.0.2", "p", ready=False), pod("c", "", "p", ready=False)]
        assert graph(pool("p"), *there, pod("d", "10.0.0.4", "other", ready=False)).pools["d/p"].unready == 2

    def test_a_terminating_pod_drains(self) -> None:
        found = graph(pool(), pod("a", "10.0.0.1", deletionTimestamp="2026-01-01T00:00:00Z"))
        assert [each.draining for each in found.pools["d/p"].endpoints] == [True]

    @pytest.mark.parametrize("annotation", ["llm-d.ai/active-ports", "inference.networking.k8s.io/active-ports"])
    def test_a_pod_may_serve_some_ports_only(self, annotation: str) -> None:
        spec = {"targetPorts": [{"number": 8000}, {"number": 8001}]}
        found = graph(pool(spec=spec), pod("a", "10.0.0.1", annotations={annotation: "8001, 9999"}))
        assert [(each.port, each.rank) for each in found.pools["d/p"].endpoints] == [(8001, 1)]

    def test_the_annotation_adds_endpoints(self) -> None:
        annotations = {"penstock.dev/endpoints": "localhost:8001,[::1]:8000,10.0.0.1:8000"}
        found = graph(pool(annotations=annotations), pod("a", "10.0.0.1"))
        assert [str(each) for each in found.pools["d/p"].endpoints] == ["10.0.0.1:8000", "127.0.0.1:8001", "[::1]:8000"]
        assert found.pools["d/p"].endpoints[0].pod == "a"  # the pod knows more than the annotation

    def test_slices_stand_in_for_pods(self) -> None:
        slices = [
            slice_("a", at("127.0.0.1"), port=8001, labels={"app": "p"}),
            slice_("b", at("127.0.0.1"), port=8000, labels={"app": "p"}),
        ]
        assert [str(each) for each in graph(pool(), *slices).pools["d/p"].endpoints] == [
            "127.0.0.1:8000",
            "127.0.0.1:8001",
        ]
        with_pods = graph(pool(), pod("a", "10.0.0.1"), *slices)
        assert [str(each) for each in with_pods.pools["d/p"].endpoints] == ["10.0.0.1:8000"]

    def test_a_routed_pool_has_the_same_endpoints_in_its_cluster(self) -> None:
        to = [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}]
        found = graph(
            gateway(), route("r", rule(to=to)), pool(spec={"appProtocol": "kubernetes.io/h2c"}), pod("a", "10.0.0.1")
        )
        assert found.endpoints["pool/d/p"] == found.pools["d/p"].endpoints
        assert found.backends["pool/d/p"].pool
        assert found.backends["pool/d/p"].protocol == "h2c"
