"""GatewayClass, Gateway, ListenerSet and ReferenceGrant. Source: Gateway API 1.7, `gateway.networking.k8s.io/v1` and `v1beta1`."""

from collections.abc import Mapping

from xds_server.model.objects import (
    GATEWAY_GROUP,
    AllowedListeners,
    AllowedRoutes,
    ClientValidation,
    Gateway,
    GatewayClass,
    GatewayTLS,
    LabelSelector,
    Listener,
    ListenerSet,
    ListenerTLS,
    Meta,
    ObjectRef,
    ReferenceGrant,
)
from xds_server.parse.common import GATEWAY, MOVED, SECRET, authority, is_ip, label_selector, object_ref, qualified
from xds_server.parse.fields import Fields
from xds_server.parse.filters import LISTENER_TYPES, filters
from xds_server.parse.forms import (
    ADDRESS_TYPE,
    ANNOTATION_VALUE,
    CONTROLLER,
    DNS_LABEL,
    DNS_NAME,
    GROUP,
    HOSTNAME,
    KIND,
    LABEL_VALUE,
    NAME,
    PROTOCOL,
    ROUTABILITY,
)

UNIQUE = ("IPAddress", "Hostname")  # types of which an address must not be asked for twice
NOTHING = LabelSelector(match_expressions=(("", "In", ()),))  # what from: Selector without a selector means
Infrastructure = tuple[Mapping[str, str], Mapping[str, str], ObjectRef | None]


def gateway_class(root: Fields, meta: Meta) -> GatewayClass:
    def spec(f: Fields) -> GatewayClass:
        f.ignore("description")
        parameters = f.optional("parametersRef", lambda ref: object_ref(ref, ""), None)
        return GatewayClass(meta, f.text("controllerName", form=CONTROLLER), parameters)

    return root.child("spec", spec)


def gateway(root: Fields, meta: Meta) -> Gateway:
    def spec(f: Fields) -> Gateway:
        f.ignore("defaultScope")
        found = listeners(f, meta.namespace)
        for index, item in enumerate(found):
            if item.filters and item.protocol not in ("HTTP", "HTTPS"):
                f.fail(f"listeners[{index}].filters", f"must not be set with protocol {item.protocol}; remove it")
        addresses = f.each("addresses", address, high=16)
        valued = [(kind, value) if value and kind in UNIQUE else None for kind, value, _ in addresses]
        f.distinct([f"addresses[{index}].value" for index in range(len(valued))], valued)
        nothing: Infrastructure = ({}, {}, None)
        labels, annotations, parameters = f.optional(
            "infrastructure", lambda inner: infrastructure(inner, meta.namespace), nothing
        )
        return Gateway(
            meta=meta,
            gateway_class=f.text("gatewayClassName", form=NAME),
            listeners=found,
            addresses=tuple((kind, value) for kind, value, _ in addresses),
            routability=next((word for _, _, word in addresses if word), ""),
            infrastructure_labels=labels,
            infrastructure_annotations=annotations,
            parameters=parameters,
            tls=f.optional("tls", lambda inner: gateway_tls(inner, meta.namespace), GatewayTLS()),
            allowed_listeners=f.optional("allowedListeners", allowed_listeners, AllowedListeners()),
        )

    return root.child("spec", spec)


def infrastructure(f: Fields, namespace: str) -> Infrastructure:
    """(labels, annotations, parametersRef)."""
    return (
        qualified(f, "labels", LABEL_VALUE, high=8),
        qualified(f, "annotations", ANNOTATION_VALUE, high=16),
        f.optional("parametersRef", lambda ref: object_ref(ref, namespace, local=True), None),
    )


def gateway_tls(f: Fields, namespace: str) -> GatewayTLS:
    def backend(inner: Fields) -> ObjectRef | None:
        return inner.optional("clientCertificateRef", lambda ref: object_ref(ref, namespace, SECRET), None)

    def clients(inner: Fields) -> ClientValidation | None:
        return inner.optional("validation", lambda item: client_validation(item, namespace), None)

    def of_port(item: Fields) -> tuple[int, ClientValidation | None]:
        return item.port(), item.child("tls", clients)

    def frontend(inner: Fields) -> GatewayTLS:
        by_port = inner.each("perPort", of_port, high=64, unique="port")
        return GatewayTLS(certificate, inner.child("default", clients), by_port)

    certificate = f.optional("backend", backend, None)
    return f.optional("frontend", frontend, GatewayTLS(certificate))


def client_validation(f: Fields, namespace: str) -> ClientValidation:
    mode = f.choice("mode", ("AllowValidOnly", "AllowInsecureFallback"), "AllowValidOnly")
    authorities = f.each("caCertificateRefs", lambda ref: authority(ref, namespace), low=1, high=16)
    return ClientValidation(authorities, mode == "AllowInsecureFallback")


def allowed_listeners(f: Fields) -> AllowedListeners:
    def namespaces(inner: Fields) -> AllowedListeners:
        source = inner.choice("from", ("None", "Same", "All", "Selector"), "None")
        return AllowedListeners(source, selector(inner, source))

    return f.optional("namespaces", namespaces, AllowedListeners())


def selector(f: Fields, source: str) -> LabelSelector:
    return f.optional("selector", label_selector, NOTHING if source == "Selector" else LabelSelector())


def listener_set(root: Fields, meta: Meta) -> ListenerSet:
    def spec(f: Fields) -> ListenerSet:
        parent = f.child("parentRef", lambda ref: object_ref(ref, meta.namespace, GATEWAY))
        return ListenerSet(meta, parent, listeners(f, meta.namespace))

    return root.child("spec", spec)


# --- listeners --------------------------------------------------------------------------------------------------------


def listeners(f: Fields, namespace: str) -> tuple[Listener, ...]:
    """The field `listeners` of a Gateway or ListenerSet."""
    found = f.each("listeners", lambda item: listener(item, namespace), low=1, high=64, unique="name")
    distinct_listeners(f, found)
    return found


def distinct_listeners(f: Fields, listeners: tuple[Listener, ...]) -> None:
    first: dict[tuple[int, str, str], str] = {}
    for index, found in enumerate(listeners):
        other = first.setdefault((found.port, found.protocol, found.hostname), found.name)
        if other != found.name:
            f.fail(
                f"listeners[{index}]", f"has port, protocol and hostname of listener {other!r}; change one of the three"
            )


def listener(f: Fields, namespace: str) -> Listener:
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
        filters=f.optional("filters", lambda inner: filters(inner, namespace, LISTENER_TYPES, "requests"), ()),
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
        return source, selector(inner, source)

    source, selected = f.optional("namespaces", namespaces, ("Same", LabelSelector()))
    return AllowedRoutes(source, selected, f.each("kinds", kind, high=8))  # type: ignore[arg-type]  # a choice


def address(f: Fields) -> tuple[str, str, str]:
    """(type, value, routability); value "" asks for any address of the type."""
    kind = f.text("type", "IPAddress", form=ADDRESS_TYPE)
    value = f.text("value", "")
    if value and kind == "Hostname":
        f.text("value", form=HOSTNAME)
    if value and kind == "IPAddress" and not is_ip(value):
        f.fail("value", f"must be an IPv4 or IPv6 address, got {f.document.shown(value)}; or write type: Hostname")
    return kind, value, f.text("routability", "", form=ROUTABILITY)


# --- ReferenceGrant ---------------------------------------------------------------------------------------------------


def reference_grant(root: Fields, meta: Meta) -> ReferenceGrant:
    def source(f: Fields) -> tuple[str, str, str]:
        return f.text("group", form=GROUP), f.text("kind", form=KIND), f.text("namespace", form=DNS_LABEL)

    def target(f: Fields) -> tuple[str, str, str]:
        group, kind = f.text("group", form=GROUP), f.text("kind", form=KIND)
        return MOVED.get((group, kind), group), kind, f.text("name", "", form=NAME)

    def spec(f: Fields) -> ReferenceGrant:
        return ReferenceGrant(meta, f.each("from", source, low=1, high=16), f.each("to", target, low=1, high=16))

    return root.child("spec", spec)
