"""TLSRoute, TCPRoute, UDPRoute. Source: Gateway API 1.7, `gateway.networking.k8s.io/v1` and older, schema and CEL rules."""

from typing import TypeVar

from xds_server.model.objects import BackendRef, Meta, StreamRoute, TCPRoute, TLSRoute, UDPRoute
from xds_server.parse.common import is_ip
from xds_server.parse.fields import Fields
from xds_server.parse.filters import weighted_backend
from xds_server.parse.forms import DNS_NAME, HOSTNAME
from xds_server.parse.route import parent_refs

Stream = TypeVar("Stream", bound=StreamRoute)


def tls_route(root: Fields, meta: Meta) -> TLSRoute:
    return stream_route(root, meta, TLSRoute)


def tcp_route(root: Fields, meta: Meta) -> TCPRoute:
    return stream_route(root, meta, TCPRoute)


def udp_route(root: Fields, meta: Meta) -> UDPRoute:
    return stream_route(root, meta, UDPRoute)


def stream_route(root: Fields, meta: Meta, kind: type[Stream]) -> Stream:
    """v1alpha2 let a route have more rules; nothing told them apart, so that only the first was ever served."""
    old = root.text("apiVersion").endswith("/v1alpha2")

    def spec(f: Fields) -> Stream:
        parents = parent_refs(f, meta.namespace)
        names = hostnames(f, low=0 if old else 1) if kind is TLSRoute else ()
        found = f.each("rules", lambda item: rule(item, meta.namespace), low=1, high=16 if old else 1, unique="name")
        return kind(meta, parents, names, found[0])

    return root.child("spec", spec)


def hostnames(f: Fields, *, low: int) -> tuple[str, ...]:
    found = f.texts("hostnames", low=low, high=1024, form=HOSTNAME)
    for index, name in enumerate(found):
        if is_ip(name):
            f.fail(f"hostnames[{index}]", f"must be a name, got address {name!r}; SNI has only names, write one")
    return found


def rule(f: Fields, namespace: str) -> tuple[BackendRef, ...]:
    f.text("name", "", form=DNS_NAME)
    return f.each("backendRefs", lambda item: weighted_backend(item, namespace), low=1, high=16)
