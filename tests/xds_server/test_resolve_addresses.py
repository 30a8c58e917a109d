"""Addresses: where a Gateway with Envoys of its own is reached, and whether that is what it asks for."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import gateway, graph, reasons, service, status
from xds_server.infrastructure import NAME_LABEL, label_value
from xds_server.model.graph import Graph
from xds_server.model.objects import Object

LONG = "gw-" + "a" * 200


def fleet_service(name: str = "gw", kind: str = "LoadBalancer", *ips: str, **more: Any) -> Object:
    spec = {"type": kind, "clusterIP": "10.0.0.1", "ports": [{"port": 80}], **more}
    held = {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}}
    return service("own", spec=spec, labels={NAME_LABEL: label_value(name)}, status=held)


def told(found: Graph, name: str = "gw") -> tuple[Any, Any]:
    held = status(found, "Gateway", name)
    return held.addresses, reasons(held.conditions)["Programmed"]


def asking(*addresses: dict[str, str]) -> Object:
    return gateway(spec={"addresses": list(addresses)})


IP, CLUSTER_IP = ("IPAddress", "1.2.3.4"), ("IPAddress", "10.0.0.1")
FINE, NONE, UNUSABLE = ("True", "Programmed"), ("False", "AddressNotAssigned"), ("False", "AddressNotUsable")


@pytest.mark.parametrize(
    ("made", "held", "expected"),
    [
        (gateway(), [fleet_service("gw", "LoadBalancer", "1.2.3.4")], ((IP,), FINE)),
        (gateway(), [fleet_service("gw", "LoadBalancer")], ((), NONE)),
        (gateway(), [], ((), NONE)),
        (gateway(), [fleet_service("other", "LoadBalancer", "1.2.3.4")], ((), NONE)),
        (gateway(), [fleet_service("gw", "ClusterIP")], ((CLUSTER_IP,), FINE)),
        (gateway(), [fleet_service("gw", "ClusterIP", externalIPs=["1.2.3.4"])], ((IP,), FINE)),
        (asking({"type": "IPAddress"}), [fleet_service("gw", "LoadBalancer", "1.2.3.4")], ((IP,), FINE)),
        (asking({"type": "Hostname"}), [fleet_service("gw", "LoadBalancer", "1.2.3.4")], ((), NONE)),
        (asking({"value": "1.2.3.4"}), [fleet_service("gw", "LoadBalancer", "1.2.3.4", "5.6.7.8")], ((IP,), FINE)),
        (
            asking({"value": "1.2.3.4"}, {"value": "9.9.9.9"}),
            [fleet_service("gw", "LoadBalancer", "1.2.3.4")],
            ((IP,), UNUSABLE),
        ),
        (
            asking({"type": "IPAddress", "routability": "Cluster"}),
            [fleet_service("gw", "LoadBalancer", "1.2.3.4")],
            ((CLUSTER_IP,), FINE),
        ),
    ],
)
def test_of_a_service(made: Object, held: list[Object], expected: Any) -> None:
    assert told(graph(made, *held, per_gateway=True)) == expected


def test_a_long_name_is_shortened_in_the_label() -> None:
    found = graph(gateway(LONG), fleet_service(LONG, "LoadBalancer", "1.2.3.4"), per_gateway=True)
    assert told(found, LONG) == ((IP,), FINE)


def test_a_service_of_another_namespace_says_nothing() -> None:
    found = graph(gateway(ns="e"), fleet_service("gw", "LoadBalancer", "1.2.3.4"), per_gateway=True)
    assert status(found, "Gateway", "gw", "e").addresses == ()


def test_our_settings_win() -> None:
    fleet = (("Hostname", "gw.example.com"),)
    assert told(
        graph(gateway(), fleet_service("gw", "LoadBalancer", "1.2.3.4"), per_gateway=True, addresses=fleet)
    ) == (fleet, FINE)


def test_a_gateway_without_an_address_is_told_how_to_get_one() -> None:
    found = graph(gateway(), per_gateway=True)
    (condition,) = (each for each in status(found, "Gateway", "gw").conditions if each.type == "Programmed")
    assert "Service d/gw-penstock does not exist" in condition.message
    assert found.ports


@pytest.mark.parametrize("address", [{"type": "x.io/Name", "value": "a"}, {"routability": "x.io/private"}])
def test_what_nobody_knows_is_not_accepted(address: dict[str, str]) -> None:
    """GatewayStaticAddresses."""
    found = graph(asking(address), fleet_service("gw", "LoadBalancer", "1.2.3.4"), per_gateway=True)
    held = reasons(status(found, "Gateway", "gw").conditions)
    assert held["Accepted"] == ("False", "UnsupportedAddress")
    assert held["Programmed"] == ("False", "Invalid")
