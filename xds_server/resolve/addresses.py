"""Addresses: where a Gateway is reached, and whether that is what it asks for.

Source: Gateway API 1.7 Gateway.spec.addresses (GatewaySpecAddress, routability), Gateway.status.addresses; GEP-1762 (the label of
the Service). Cases: tests/xds_server/test_resolve_addresses.py.
"""

from dataclasses import dataclass

from xds_server.infrastructure import NAME_LABEL, label_value, resource_name
from xds_server.model.objects import Gateway, Service
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied

Addresses = tuple[tuple[str, str], ...]  # (IPAddress|Hostname, value)

ADDRESS_TYPES = frozenset({"IPAddress", "Hostname"})
CLUSTER = "Cluster"  # the routability of a ClusterIP


@dataclass(frozen=True, slots=True)
class Reached:
    addresses: Addresses  # of those that the Gateway asks for
    denied: Denied | None = None  # why it is not programmed


def reached(gateway: Gateway, context: Context) -> Reached:
    """Where this Gateway is reached: of the addresses that it has those that it asks for, all if it asks for none."""
    asked = [(kind, value) for kind, value in gateway.addresses if value]
    held, why = _held(gateway, context)
    if held is None:  # nobody told us: what it asks for is believed
        return Reached(tuple(asked))
    if missing := [value for each in asked if (value := each[1]) and each not in held]:
        what = (
            f"the Gateway is not reached at {', '.join(missing)}; remove it from spec.addresses, or make it reachable"
        )
        return Reached(tuple(each for each in asked if each in held), Denied(c.ADDRESS_NOT_USABLE, what))
    anyway = {kind for kind, value in gateway.addresses if not value}
    found = tuple(each for each in held if not gateway.addresses or each in asked or each[0] in anyway)
    if not found:
        kinds = f" of type {' or '.join(sorted(anyway))}" if held else ""
        return Reached((), Denied(c.ADDRESS_NOT_ASSIGNED, f"no address{kinds} is assigned: {why}"))
    return Reached(found)


def unsupported(gateway: Gateway) -> Denied | None:
    """Addresses of types, or of reach, that nobody here knows."""
    if kinds := sorted({kind for kind, _ in gateway.addresses} - ADDRESS_TYPES):
        what = f"addresses of type {', '.join(kinds)} are not supported; use IPAddress or Hostname"
        return Denied(c.UNSUPPORTED_ADDRESS, what)
    if gateway.routability not in ("", CLUSTER):
        what = f"routability {gateway.routability} is not supported; use {CLUSTER}, or none"
        return Denied(c.UNSUPPORTED_ADDRESS, what)
    return None


def services_of(gateway: Gateway, context: Context) -> list[Service]:
    """The Services that lead to a Gateway's Envoys: ours, and any that an administrator labelled so."""
    label = label_value(gateway.meta.ref.name)
    return context.fleet_services.get((gateway.meta.namespace, label), [])


def _held(gateway: Gateway, context: Context) -> tuple[Addresses | None, str]:
    """Where its Envoys are reached, None where nobody knows; and what is to be said when that is nowhere."""
    if context.setting.addresses:
        return context.setting.addresses, "see the addresses in our own settings"
    if not context.setting.per_gateway:
        return None, ""
    services = services_of(gateway, context)
    if not services:
        wanted = f"Service {gateway.meta.namespace}/{resource_name(gateway)}"
        return (), f"{wanted} does not exist yet; see the Gateway's events, or label a Service with {NAME_LABEL}"
    found = tuple(dict.fromkeys(each for service in services for each in _of_service(service, gateway.routability)))
    named = " and ".join(str(service.meta.ref) for service in services)
    return found, f"{named} has none yet; a LoadBalancer needs a controller that assigns them, else use type ClusterIP"


def _of_service(service: Service, routability: str) -> Addresses:
    inside = (("IPAddress", service.cluster_ip),) if service.cluster_ip else ()
    if routability == CLUSTER:
        return inside
    # A LoadBalancer without an address is not ready; other types never get one, and are reached inside of the cluster.
    return service.addresses or (() if service.type == "LoadBalancer" else inside)
