"""GatewayClass, Gateway and ReferenceGrant. Source: Gateway API 1.7, `gateway.networking.k8s.io/v1` and `v1beta1`."""

import ipaddress

from xds_server.model.objects import (
    GATEWAY_GROUP,
    AllowedRoutes,
    Gateway,
    GatewayClass,
    LabelSelector,
    Listener,
    ListenerTLS,
    Meta,
    ReferenceGrant,
)
from xds_server.parse.common import MOVED, Target, label_selector, object_ref
from xds_server.parse.fields import Fields
from xds_server.parse.forms import ADDRESS_TYPE, CONTROLLER, DNS_LABEL, DNS_NAME, GROUP, HOSTNAME, KIND, NAME, PROTOCOL

SECRET = Target(group="", kind="Secret")


def gateway_class(root: Fields, meta: Meta) -> GatewayClass:
    def spec(f: Fields) -> GatewayClass:
        f.ignore("description")
        parameters = f.optional("parametersRef", lambda ref: object_ref(ref, ""), None)
        return GatewayClass(meta, f.text("controllerName", form=CONTROLLER), parameters)

    return root.child("spec", spec)


def gateway(root: Fields, meta: Meta) -> Gateway:
    def spec(f: Fields) -> Gateway:
        f.ignore("allowedListeners", "defaultScope", "infrastructure")
        f.optional("tls", gateway_tls, None)
        name = f.text("gatewayClassName", form=NAME)
        listeners = f.each("listeners", lambda item: listener(item, meta.namespace), low=1, high=64, unique="name")
        distinct_listeners(f, listeners)
        addresses = f.each("addresses", address, high=16)
        valued = [(kind, value) if value else None for kind, value in addresses]
        f.distinct([f"addresses[{index}].value" for index in range(len(valued))], valued)
        return Gateway(meta, name, listeners, addresses)

    return root.child("spec", spec)


def gateway_tls(f: Fields) -> None:
    """Refused where it would let in whom it should keep out: nobody here checks the certificates of clients."""
    f.ignore("backend")
    if f.has("frontend"):
        f.fail("frontend", "is not supported: certificates of clients are not checked; remove it", "UnsupportedValue")


def distinct_listeners(f: Fields, listeners: tuple[Listener, ...]) -> None:
    first: dict[tuple[int, str, str], str] = {}
    for index, found in enumerate(listeners):
        other = first.setdefault((found.port, found.protocol, found.hostname), found.name)
        if other != found.name:
            f.fail(
                f"listeners[{index}]", f"has port, protocol and hostname of listener {other!r}; change one of the three"
            )


def listener(f: Fields, namespace: str) -> Listener:
    f.ignore("filters")
    protocol = f.text("protocol", form=PROTOCOL)
    tls = f.optional("tls", lambda inner: listener_tls(inner, namespace), None)
    if protocol in ("HTTP", "TCP", "UDP") and tls:
        f.fail("tls", f"must not be set with protocol {protocol}; remove it, or write protocol: HTTPS")
    if protocol == "HTTPS" and tls and tls.mode != "Terminate":
        f.fail("tls.mode", f"must be Terminate with protocol HTTPS, got '{tls.mode}'; or write protocol: TLS")
    if protocol == "TLS" and tls is None:
        f.fail("tls", "must be set with protocol TLS; add it with mode Terminate or Passthrough")
    if protocol in ("TCP", "UDP") and f.has("hostname"):
        f.fail("hostname", f"must not be set with protocol {protocol}; remove it")
    return Listener(
        name=f.text("name", form=DNS_NAME),
        port=f.port(),
        protocol=protocol,
        hostname=f.text("hostname", "", form=HOSTNAME),
        tls=tls,
        allowed=f.optional("allowedRoutes", allowed_routes, AllowedRoutes()),
    )


def listener_tls(f: Fields, namespace: str) -> ListenerTLS:
    mode = f.choice("mode", ("Terminate", "Passthrough"), "Terminate")
    certificates = f.each("certificateRefs", lambda ref: object_ref(ref, namespace, SECRET), high=64)
    if mode == "Terminate" and not certificates and not f.strings("options"):
        f.fail("certificateRefs", "must name a Secret when mode is Terminate; add '- name: my-certificate'")
    f.ignore("options")
    return ListenerTLS(mode, certificates)


def allowed_routes(f: Fields) -> AllowedRoutes:
    def kind(item: Fields) -> tuple[str, str]:
        return item.text("group", GATEWAY_GROUP, form=GROUP), item.text("kind", form=KIND)

    def namespaces(inner: Fields) -> tuple[str, LabelSelector]:
        source = inner.choice("from", ("Same", "All", "Selector"), "Same")
        return source, inner.optional("selector", label_selector, LabelSelector())

    source, selector = f.optional("namespaces", namespaces, ("Same", LabelSelector()))
    return AllowedRoutes(source, selector, f.each("kinds", kind, high=8))  # type: ignore[arg-type]  # a choice


def address(f: Fields) -> tuple[str, str]:
    """(type, value); value "" asks for any address of the type."""
    f.ignore("routability")
    kind = f.text("type", "IPAddress", form=ADDRESS_TYPE)
    value = f.text("value", "")
    if value and kind == "Hostname":
        f.text("value", form=HOSTNAME)
    if value and kind == "IPAddress" and not is_ip(value):
        f.fail("value", f"must be an IPv4 or IPv6 address, got {f.document.shown(value)}; or write type: Hostname")
    return kind, value


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def reference_grant(root: Fields, meta: Meta) -> ReferenceGrant:
    def source(f: Fields) -> tuple[str, str, str]:
        return f.text("group", form=GROUP), f.text("kind", form=KIND), f.text("namespace", form=DNS_LABEL)

    def target(f: Fields) -> tuple[str, str, str]:
        group, kind = f.text("group", form=GROUP), f.text("kind", form=KIND)
        return MOVED.get((group, kind), group), kind, f.text("name", "", form=NAME)

    def spec(f: Fields) -> ReferenceGrant:
        return ReferenceGrant(meta, f.each("from", source, low=1, high=16), f.each("to", target, low=1, high=16))

    return root.child("spec", spec)
