"""Namespace, Service, EndpointSlice, Pod, Secret, ConfigMap, ClusterTrustBundle: of each, what can change the gateway.

Sources: Kubernetes `v1`, `discovery.k8s.io/v1`, `certificates.k8s.io/v1beta1`. Their schemas are open here: other readers own the other fields.
"""

import base64
import ipaddress
from dataclasses import replace

from xds_server.model.objects import (
    ClusterTrustBundle,
    ConfigMap,
    EndpointSlice,
    Meta,
    Namespace,
    Pod,
    Secret,
    Service,
    ServicePort,
    SliceEndpoint,
)
from xds_server.parse.fields import Fields

SERVICE_NAME = "kubernetes.io/service-name"
SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")


def namespace(root: Fields, meta: Meta) -> Namespace:
    root.open()
    return Namespace(meta)


def config_map(root: Fields, meta: Meta) -> ConfigMap:
    root.open()
    return ConfigMap(meta, root.strings("data"))


def cluster_trust_bundle(root: Fields, meta: Meta) -> ClusterTrustBundle:
    def spec(f: Fields) -> str:
        return opened(f).text("trustBundle")

    root.open()
    return ClusterTrustBundle(meta, root.child("spec", spec))


def secret(root: Fields, meta: Meta) -> Secret:
    """`stringData` wins over `data`, as on the API server. No message repeats a value."""
    root.open()
    data = {key: decoded(root, key, value) for key, value in root.strings("data").items()}
    plain = {key: value.encode() for key, value in root.strings("stringData").items()}
    return Secret(meta, root.text("type", "Opaque"), data | plain)


def decoded(root: Fields, key: str, value: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except ValueError:
        root.fail(f"data[{key}]", "must be base64; encode it, or write it as plain text under stringData")


# --- Service ----------------------------------------------------------------------------------------------------------


def service(root: Fields, meta: Meta) -> Service:
    def spec(f: Fields) -> Service:
        f.open()
        own = f.text("clusterIP", "")
        external = f.texts("externalIPs")
        return Service(
            meta=meta,
            ports=f.each("ports", service_port),
            type=f.choice("type", SERVICE_TYPES, "ClusterIP"),
            selector=f.strings("selector"),
            cluster_ip=checked_ip(f, "clusterIP") if own != "None" else "",
            addresses=tuple(("IPAddress", checked(f, f"externalIPs[{at}]", ip)) for at, ip in enumerate(external)),
        )

    root.open()
    found = root.optional("spec", spec, Service(meta, ()))
    balanced = root.optional("status", service_status, ())
    return replace(found, addresses=tuple(dict.fromkeys((*found.addresses, *balanced))))


def service_status(f: Fields) -> tuple[tuple[str, str], ...]:
    """(IPAddress | Hostname, value) of each address that a load balancer has for the Service."""

    def address(item: Fields) -> tuple[str, str]:
        ip = checked_ip(opened(item), "ip")
        return ("IPAddress", ip) if ip else ("Hostname", item.text("hostname", ""))

    found = opened(f).optional("loadBalancer", lambda inner: opened(inner).each("ingress", address), ())
    return tuple((kind, value) for kind, value in found if value)


def service_port(f: Fields) -> ServicePort:
    f.open()
    port = f.port()
    named = isinstance(f.get("targetPort"), str)
    return ServicePort(
        port=port,
        name=f.text("name", ""),
        target=f.text("targetPort") if named else f.port("targetPort", port),
        app_protocol=f.text("appProtocol", ""),
        protocol=f.text("protocol", "TCP"),
    )


# --- EndpointSlice ----------------------------------------------------------------------------------------------------


def endpoint_slice(root: Fields, meta: Meta) -> EndpointSlice:
    root.open()
    kind = root.choice("addressType", ("IPv4", "IPv6", "FQDN"))
    ports = root.each("ports", slice_port)
    return EndpointSlice(
        meta=meta,
        service=meta.labels.get(SERVICE_NAME, ""),
        address_type=kind,
        ports=tuple((name, port) for name, port in ports if port),  # without a number: not a port to send to
        endpoints=root.each("endpoints", lambda item: slice_endpoint(item, ip=kind != "FQDN")),
    )


def slice_port(f: Fields) -> tuple[str, int]:
    f.open()
    return f.text("name", ""), f.port(default=0)


def slice_endpoint(f: Fields, *, ip: bool) -> SliceEndpoint:
    """`ready` and `serving` are true unless said otherwise (discovery/v1: nil is to be read as true)."""

    def conditions(inner: Fields) -> tuple[bool, bool, bool]:
        inner.open()
        ready = inner.boolean("ready", default=True)
        return ready, inner.boolean("serving", ready), inner.boolean("terminating", default=False)

    def target(inner: Fields) -> str:
        inner.open()
        return inner.text("name", "") if inner.text("kind", "") == "Pod" else ""

    f.open()
    addresses = f.texts("addresses", low=1)
    if ip:
        addresses = tuple(checked(f, f"addresses[{index}]", text) for index, text in enumerate(addresses))
    ready, serving, terminating = f.optional("conditions", conditions, (True, True, False))
    zone, node, pod = f.text("zone", ""), f.text("nodeName", ""), f.optional("targetRef", target, "")
    return SliceEndpoint(addresses, ready, serving, terminating, zone, node, pod)


# --- Pod --------------------------------------------------------------------------------------------------------------


def pod(root: Fields, meta: Meta) -> Pod:
    """A pod without conditions, as people write one by hand, is ready as soon as it has an IP address."""

    def spec(f: Fields) -> tuple[str, dict[str, int]]:
        f.open()
        # A sidecar (an init container that stays) may own the port that serves.
        containers = (*f.each("initContainers", named_ports), *f.each("containers", named_ports))
        return f.text("nodeName", ""), {name: port for ports in containers for name, port in ports if name}

    def terminating(f: Fields) -> bool:
        f.open()
        return f.has("deletionTimestamp")

    root.open()
    nowhere: tuple[str, dict[str, int]] = ("", {})
    node, ports = root.optional("spec", spec, nowhere)
    ip, ready, host = root.optional("status", pod_status, ("", False, ""))
    return Pod(meta, ip, ready, root.child("metadata", terminating), node, ports, host)


def named_ports(f: Fields) -> tuple[tuple[str, int], ...]:
    def port(item: Fields) -> tuple[str, int]:
        return opened(item).text("name", ""), item.port("containerPort")

    return opened(f).each("ports", port)


def opened(f: Fields) -> Fields:
    f.open()
    return f


def pod_status(f: Fields) -> tuple[str, bool, str]:
    """(IP address, ready, address of its node)."""

    def address(item: Fields) -> str:
        return checked_ip(opened(item), "ip")

    def condition(item: Fields) -> tuple[str, str]:
        return opened(item).text("type"), item.text("status", "")

    f.open()
    addresses = f.each("podIPs", address)
    ip = checked_ip(f, "podIP") or next(iter(addresses), "")
    conditions = dict(f.each("conditions", condition))
    over = f.text("phase", "") in ("Succeeded", "Failed")
    ready = bool(ip) and not over and (not conditions or conditions.get("Ready") == "True")
    return ip, ready, checked_ip(f, "hostIP")


def checked_ip(f: Fields, name: str) -> str:
    found = f.text(name, "")
    return checked(f, name, found) if found else ""


def checked(f: Fields, name: str, text: str) -> str:
    """An IP address as Envoy writes it: an endpoint is found again by its text (`fd00:0::1` is `fd00::1`)."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        f.fail(name, f"must be an IPv4 or IPv6 address, got {f.document.shown(text)}; names are not resolved")
