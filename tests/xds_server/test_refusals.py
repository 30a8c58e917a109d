"""Refusals: a NACK reaches the status of the Gateway, and of the routes that use what was refused; and leaves it again."""

from tests.xds_server.resolve_world import gateway, graph, reasons, ref, route, rule, service, status
from xds_server.facts import Node, NodeStatus, TypeStatus
from xds_server.model.graph import Graph
from xds_server.refusals import refusals, with_refusals
from xds_server.snapshot import CDS, RDS

CLUSTER = "service/d/s/80"


def proxy(name: str, errors: dict[str, str], url: str = RDS, fleet: str = "") -> NodeStatus:
    kind = TypeStatus(url, "NACKED" if errors else "ACKED", "1", 1, errors)
    return NodeStatus(Node(name), delta=True, degraded=False, types=(kind,), fleet=fleet)


def world(**options: bool) -> Graph:
    return graph(
        gateway(), route("r", rule(to="s")), route("other", rule(to="t")), service("s"), service("t"), **options
    )


def told(found: Graph, *proxies: NodeStatus) -> Graph:
    return with_refusals(found, refusals(proxies, found))


def test_the_gateway_says_how_many_proxies_refuse_what_and_why() -> None:
    found = told(world(), proxy("a", {}), proxy("b", {"http-80": "missing ]"}), proxy("c", {"http-80": "missing ]"}))
    (programmed,) = [each for each in status(found, "Gateway", "gw").conditions if each.type == "Programmed"]
    assert (programmed.status, programmed.reason) == ("False", "Invalid")
    assert programmed.message == "2/3 proxies rejected RouteConfiguration http-80: missing ]"
    assert reasons(status(found, "Gateway", "gw").conditions)["Accepted"][0] == "True"


def test_only_the_routes_of_a_refused_cluster_are_told() -> None:
    clusters = sorted(world().backends)
    found = told(world(), proxy("a", {clusters[0]: "no such option"}, CDS))
    mine, other = (status(found, "HTTPRoute", name).parents[0].conditions for name in ("r", "other"))
    assert reasons(mine)["penstock.dev/Programmed"] == ("False", "Rejected")
    assert "1/1 proxies rejected Cluster" in mine[-1].message
    assert "penstock.dev/Programmed" not in reasons(other)


def test_without_refusals_nothing_is_said() -> None:
    before = world()
    assert told(before, proxy("a", {}), proxy("b", {})) is before


def test_a_fleet_speaks_for_its_own_gateway_only() -> None:
    objects = [gateway(), gateway("gw2"), route("r", rule(to="s")), service("s")]
    before = graph(*objects, per_gateway=True)
    after = told(before, proxy("a", {"tcp-80": "bad"}, fleet="d/gw"), proxy("b", {}, fleet="d/gw2"))
    changed = [name for name in before.statuses if before.statuses[name] != after.statuses[name]]
    assert changed == [ref("Gateway", "gw")]
