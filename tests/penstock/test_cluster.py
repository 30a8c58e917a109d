"""A gateway in a cluster: its authority, its statuses with what proxies refuse, who may come in."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from observability.hub import Hub
from penstock.cluster import AUTHORITY, Joined, _admission, _Maker, _Pools, attachment, joined, stays
from penstock.process import UserError
from penstock.settings import Kubernetes
from tests.xds_server.kubernetes.fake_api import FakeApi
from tests.xds_server.kubernetes.helpers import Facts, running
from tests.xds_server.resolve_world import gateway, graph, http, our_class, pool, route, rule, thing
from tests.xds_server.tokens import token, vouched
from xds_server.facts import Nacked, Node, NodeStatus, TypeStatus
from xds_server.infrastructure import Infrastructure
from xds_server.kubernetes.held import Entry, Held
from xds_server.latest import Latest
from xds_server.model.graph import Graph
from xds_server.model.objects import ClusterState
from xds_server.reconcile import reconcile
from xds_server.resolve import resolve
from xds_server.resolve.context import IN_CLUSTER
from xds_server.snapshot import LDS
from xds_server.translate import DataPlane

CLASS = {"controllerName": "penstock.dev/gateway-controller"}
GATEWAY = {"gatewayClassName": "penstock", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}
SYSTEM = "penstock-system"
POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "p"}


def settings(api: Any, folder: Path) -> Kubernetes:
    config = folder / "kubeconfig"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], "
        f"clusters: [{{name: c, cluster: {{server: '{api._access.host}'}}}}], users: [{{name: u, user: {{}}}}]}}"
    )
    return Kubernetes(kubeconfig=str(config), identity="me", provision=False)


class World:
    @asynccontextmanager
    async def joined(self, folder: Path) -> AsyncIterator[Joined]:
        async with (
            self.fake.serve() as api,
            joined(settings(api, folder), self.states, self.graphs, self.facts) as found,
            running(*self.shells(found)),
        ):
            yield found

    def __init__(self) -> None:
        self.fake, self.facts = FakeApi(), Facts()
        self.states: Latest[ClusterState] = Latest()
        self.graphs: Latest[Graph] = Latest()
        self.fake.put("gatewayclasses", "penstock", spec=CLASS)
        self.fake.put("gateways", "web", spec=GATEWAY)

    def shells(self, found: Joined) -> list[Any]:
        control = reconcile(self.states, self.graphs, Latest(), DataPlane(), self.facts, setting=IN_CLUSTER)
        return [control, *(work() for work in found.work)]

    def condition(self, kind: str) -> Mapping[str, Any]:
        conditions = self.fake.get("gateways", "web").get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == kind), {})


async def test_statuses_are_written_by_whoever_leads(tmp_path: Path) -> None:
    here = World()
    async with here.joined(tmp_path):
        await here.fake.until(lambda: here.condition("Accepted").get("status") == "True")
    assert here.fake.get("leases", "penstock", SYSTEM)


async def test_what_a_proxy_refuses_is_in_the_status(tmp_path: Path) -> None:
    here = World()
    node, version = Node("envoy"), TypeStatus(LDS, "NACKED", "1", 1, {"tcp-80": "no such filter"})
    async with here.joined(tmp_path) as found:
        await here.fake.until(lambda: here.condition("Accepted"))
        found.proxies = [NodeStatus(node, delta=True, degraded=False, types=(version,), fleet="default/web")]
        found.listen(hub := Hub())
        hub.tell(Nacked(node, LDS, "1", {}, "no such filter", ("tcp-80",), 0.0))
        await here.fake.until(lambda: "1/1 proxies rejected" in here.condition("Programmed").get("message", ""))


async def test_replicas_and_restarts_share_one_authority(tmp_path: Path) -> None:
    here = World()
    async with here.fake.serve() as api:
        given = settings(api, tmp_path)
        trusts = []
        for _ in range(2):
            async with joined(given, here.states, here.graphs, here.facts) as found:
                trusts.append(found.trust)
    assert trusts[0] == trusts[1]
    assert trusts[0].server_name == "penstock.penstock-system.svc"
    assert here.fake.count("create", "secrets") == 1
    assert here.fake.get("secrets", AUTHORITY, SYSTEM)


async def test_envoys_of_somebody_else_get_an_account_and_a_bootstrap(tmp_path: Path) -> None:
    here = World()
    async with here.fake.serve() as api:
        given = settings(api, tmp_path)
        with pytest.raises(UserError, match="start `penstock controller` first"):
            await attachment(given, "default/web")
        async with joined(given, here.states, here.graphs, here.facts):
            account, config = (await attachment(given, "default/web"))["items"]
        with pytest.raises(UserError, match="NAMESPACE/NAME"):
            await attachment(given, "web")
    assert (account["kind"], account["metadata"]["name"]) == ("ServiceAccount", "web-penstock")
    assert "penstock.penstock-system.svc" in config["data"]["bootstrap.json"]


async def test_an_envoy_gets_the_fleet_of_its_account_and_no_other() -> None:
    class Reviews:
        async def create(self, path: str, body: Any) -> Any:
            assert path.endswith("/tokenreviews")
            said = body["spec"]["token"]
            return vouched(subject) if (subject := subjects.get(said)) else {"status": {"authenticated": False}}

    subjects = {token(each): each for each in ("system:serviceaccount:d:gw-penstock", "system:serviceaccount:d:other")}
    mine, other = subjects
    graphs: Latest[Graph] = Latest()
    kept: set[str] = set()
    admit = _admission(Reviews(), graphs, kept.__contains__)  # type: ignore[arg-type]
    assert await admit([("authorization", f"Bearer {mine}")]) is None  # no Gateway yet
    graphs.set(graph(gateway(), per_gateway=True))
    assert await admit([("authorization", f"Bearer {mine}")]) == "d/gw"
    assert await admit([("authorization", f"Bearer {other}")]) is None
    assert await admit([]) is None
    kept.add("d/gw")  # its class is gone, and its Envoys go on with what they have
    graphs.set(graph(per_gateway=True))
    assert await admit([("authorization", f"Bearer {mine}")]) == "d/gw"
    kept.clear()
    assert await admit([("authorization", f"Bearer {mine}")]) is None


async def test_a_gateway_whose_parameters_cannot_be_read_keeps_what_it_has() -> None:
    parameters = {"parametersRef": {"group": "", "kind": "ConfigMap", "name": "p"}}
    asking = gateway("gw", http(), spec={"infrastructure": parameters})
    service = "metadata: {annotations: {internal: 'true'}}"
    bare = ClusterState.of([our_class(), asking])
    whole = ClusterState.of([our_class(), asking, thing("ConfigMap", "p", None, data={"service": service})])
    states, graphs, source = Latest[ClusterState](), Latest[Graph](), SimpleNamespace(held=Held())
    make = _Maker(states, graphs, source, Infrastructure(xds="x:1", server_name="x", authority=""))  # type: ignore[arg-type]

    def made(state: ClusterState, uid: str) -> list[Any]:
        entry = Entry("path", uid, "1", b"")
        source.held.put(asking.meta.ref, entry) if uid else source.held.remove(asking.meta.ref, "path")
        states.set(state)
        graphs.set(resolve(state, IN_CLUSTER))
        assert graphs.value
        return make("d/gw", graphs.value.fleets["d/gw"])

    first = made(whole, "1")
    assert [each["metadata"]["annotations"].get("internal") for each in first if each["kind"] == "Service"] == ["true"]
    assert made(bare, "1") == first  # nobody asked for a Service without the annotation
    assert made(whole, "") == first  # and nothing is made that nobody owns
    assert made(bare, "2") == []  # another Gateway of that name


def test_a_class_that_goes_takes_no_envoys_along() -> None:
    theirs = thing("GatewayClass", "penstock", {"controllerName": "example.com/other"})
    for objects, kept in (
        ((our_class(), gateway()), True),
        ((gateway(),), True),
        ((theirs, gateway()), False),
        ((), False),
    ):
        assert stays(ClusterState.of(objects), "d/gw") is kept


def test_an_envoy_asks_for_the_pools_of_its_own_gateway_and_a_while_for_those_it_had() -> None:
    now = 0.0
    graphs: Latest[Graph] = Latest()
    pools = _Pools(graphs, lambda: now)
    assert "d/p" not in pools("d/gw")
    graphs.set(graph(gateway(), gateway("other"), pool("p"), route("r", rule(to=[POOL])), per_gateway=True))
    assert "d/p" in pools("d/gw")
    assert "d/p" not in pools("d/other")
    graphs.set(graph(gateway(), gateway("other"), pool("p"), per_gateway=True))
    assert "d/p" in pools("d/gw")
    now = 1000.0  # though nothing else has changed
    assert "d/p" not in pools("d/gw")
    graphs.set(graph(gateway(), pool("p"), per_gateway=True))
    assert "d/p" not in pools("d/gw")


def test_an_envoy_whose_class_is_gone_asks_for_the_pools_that_it_had() -> None:
    now, kept = 0.0, {"d/gw"}
    graphs: Latest[Graph] = Latest()
    pools = _Pools(graphs, lambda: now, kept.__contains__)
    for gone in (graph(per_gateway=True), graph(pool("p"), per_gateway=True)):
        graphs.set(graph(gateway(), pool("p"), route("r", rule(to=[POOL])), per_gateway=True))
        assert "d/p" in pools("d/gw")
        graphs.set(gone)
        now += 1000.0
        assert ("d/p" in pools("d/gw")) is bool(kept)
        kept.clear()
