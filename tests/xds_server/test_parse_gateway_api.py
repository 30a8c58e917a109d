"""Gateway API 1.7 beyond HTTPRoute, as values; its mistakes are in parse_gateway_cases, which test_parse goes through."""

import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.xds_server.parse_cases import CONFIG_MAP, GATEWAY, GATEWAY_DOCUMENT, SERVICE
from tests.xds_server.parse_gateway_cases import (
    ADDRESSED,
    BUNDLE,
    EXTERNAL,
    FILTERED,
    FULL_GATEWAY,
    GATEWAY_X,
    GRPC,
    LISTENER_SET,
    SELECTED,
    TCP,
    TELEMETRY,
    TLS,
    TLS_POLICY,
    TRAFFIC,
    UDP,
)
from tests.xds_server.test_parse import changed
from xds_server.model import objects as model
from xds_server.model.objects import ObjectRef, PathMatch
from xds_server.parse import parse

ALL = ObjectRef("certificates.k8s.io", "ClusterTrustBundle", "", "all")


def service(name: str, namespace: str = "prod") -> ObjectRef:
    return ObjectRef("", "Service", namespace, name)


def read(kind: type[model.Kind], document: Any) -> model.Kind:
    found = parse(document)
    assert isinstance(found, kind)
    return found


def test_gateway() -> None:
    gateway = read(model.Gateway, FULL_GATEWAY)
    assert gateway.addresses == (("IPAddress", "10.0.0.1"), ("IPAddress", ""), ("IPAddress", "fd00::1"))
    assert gateway.routability == "Cluster"
    assert gateway.infrastructure_labels == {"example.com/team": "a", "plain": ""}
    assert gateway.infrastructure_annotations == {"note": "any text"}
    assert gateway.parameters == ObjectRef("", "ConfigMap", "prod", "settings")
    assert gateway.allowed_listeners == model.AllowedListeners("Selector", model.LabelSelector({"a": "b"}))
    clients = ObjectRef("certificates.k8s.io", "ClusterTrustBundle", "", "clients")
    assert gateway.tls == model.GatewayTLS(
        ObjectRef("", "Secret", "certs", "us"),
        model.ClientValidation((ObjectRef("", "ConfigMap", "certs", "ca"), clients)),
        (
            (8443, None),
            (9443, model.ClientValidation((ObjectRef("", "ConfigMap", "prod", "ca"),), insecure_fallback=True)),
        ),
    )
    auth = model.ExternalAuthFilter(model.BackendRef(service("auth"), 9000), "GRPC", max_body=1024)
    assert gateway.listeners == (
        model.Listener("http", 80, "HTTP", filters=(auth, model.UnknownFilter("ExtensionRef"))),
        model.Listener("tls", 443, "TLS", tls=model.ListenerTLS("Passthrough")),
        model.Listener("tcp", 5432, "TCP"),
        model.Listener("udp", 53, "UDP"),
        model.Listener("other", 1, "example.com/QUIC"),  # a listener's condition, not a mistake of the Gateway
        model.Listener("odd", 2, "WIBBLE"),
    )


def test_gateway_defaults() -> None:
    gateway = read(model.Gateway, GATEWAY_DOCUMENT)
    assert (gateway.tls, gateway.routability, gateway.parameters) == (model.GatewayTLS(), "", None)
    assert gateway.allowed_listeners == model.AllowedListeners("None")
    empty: dict[str, Any] = {"infrastructure": {}, "allowedListeners": {}, "tls": {"frontend": {"default": {}}}}
    assert read(model.Gateway, {**GATEWAY_DOCUMENT, "spec": {**GATEWAY_DOCUMENT["spec"], **empty}}) == gateway


@pytest.mark.parametrize("path", ["spec.allowedListeners", "spec.listeners[0].allowedRoutes"])
def test_a_selector_that_is_missing_selects_nothing(path: str) -> None:
    def selects(namespaces: dict[str, Any]) -> bool:
        gateway = read(model.Gateway, changed(GATEWAY_DOCUMENT, path, {"namespaces": namespaces}))
        found = gateway.listeners[0].allowed if "listeners" in path else gateway.allowed_listeners
        return found.selector.matches({"kubernetes.io/metadata.name": "a"})

    assert not selects({"from": "Selector"})
    assert selects({"from": "Selector", "selector": {}})


def test_listener_set() -> None:
    found = read(model.ListenerSet, LISTENER_SET)
    assert found.parent == ObjectRef(GATEWAY, "Gateway", "infra", "public")
    certificate = ObjectRef("", "Secret", "team", "cert")
    assert found.listeners == (
        model.Listener("http", 8080, "HTTP", "team.example.com"),
        model.Listener("https", 8443, "HTTPS", tls=model.ListenerTLS(certificates=(certificate,))),
    )


# --- gRPC -------------------------------------------------------------------------------------------------------------


def test_grpc_route() -> None:
    route = read(model.GRPCRoute, GRPC)
    assert route.hostnames == ("grpc.example.com",)
    (rule,) = route.rules
    assert rule.matches == (
        model.HTTPMatch(PathMatch("Exact", "/a.Chat/Say"), (model.ValueMatch("x-team", "a"),), grpc=(6, 3)),
        model.HTTPMatch(),
    )
    assert rule.filters == (model.HeaderFilter("request", (("a", "b"),)),)
    assert rule.backends == (model.BackendRef(service("chat"), 9000, 1, (model.HeaderFilter("response"),)),)
    assert (rule.name, rule.session) == ("first", model.SessionPersistence())
    specs: list[dict[str, Any]] = [{}, {"rules": []}]
    for spec in specs:
        assert read(model.GRPCRoute, {**GRPC, "spec": spec}).rules == ()
    assert read(model.GRPCRoute, {**GRPC, "spec": {"rules": [{}]}}).rules == (model.HTTPRule(),)


@pytest.mark.parametrize(
    ("method", "path", "lengths"),
    [
        ({}, PathMatch(), (0, 0)),
        ({"service": "a.B", "method": "C"}, PathMatch("Exact", "/a.B/C"), (3, 1)),
        ({"service": "a.B"}, PathMatch("PathPrefix", "/a.B"), (3, 0)),
        ({"method": "Get_1"}, PathMatch("RegularExpression", "/[^/]+/Get_1"), (0, 5)),
        ({"type": "RegularExpression"}, PathMatch(), (0, 0)),
        (
            {"type": "RegularExpression", "service": "a|b", "method": "c.*"},
            PathMatch("RegularExpression", "/(a|b)/(c.*)"),
            (1, 1),
        ),
        ({"type": "RegularExpression", "service": "a|b"}, PathMatch("RegularExpression", "/(a|b)/[^/]+"), (1, 0)),
        ({"type": "RegularExpression", "method": "c"}, PathMatch("RegularExpression", "/[^/]+/(c)"), (0, 1)),
    ],
)
def test_a_grpc_method_is_a_path(method: dict[str, str], path: PathMatch, lengths: tuple[int, int]) -> None:
    route = read(model.GRPCRoute, changed(GRPC, "spec.rules[0].matches", [{"method": method}]))
    assert route.rules[0].matches == (model.HTTPMatch(path, grpc=lengths),)


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,5}", fullmatch=True)


@given(NAMES, NAMES, st.booleans(), st.booleans(), NAMES, NAMES)
def test_a_path_matches_what_its_method_names(
    service: str, method: str, by_service: bool, by_method: bool, asked_service: str, asked_method: str
) -> None:
    named = {"service": service} if by_service else {}
    named |= {"method": method} if by_method else {}
    path = read(model.GRPCRoute, changed(GRPC, "spec.rules[0].matches", [{"method": named}])).rules[0].matches[0].path

    def matches(asked: str) -> bool:
        match path.kind:
            case "Exact":
                return asked == path.value
            case "PathPrefix":
                return asked.startswith(path.value.rstrip("/") + "/")
            case "RegularExpression":
                return bool(re.fullmatch(path.value, asked))

    assert matches(f"/{service}/{method}")
    wanted = (not by_service or service == asked_service) and (not by_method or method == asked_method)
    assert matches(f"/{asked_service}/{asked_method}") == wanted


# --- streams ----------------------------------------------------------------------------------------------------------


def test_stream_routes() -> None:
    tls, tcp, udp = read(model.TLSRoute, TLS), read(model.TCPRoute, TCP), read(model.UDPRoute, UDP)
    public = ObjectRef(GATEWAY, "Gateway", "prod", "public")
    assert (tls.parents, tls.hostnames) == ((model.ParentRef(public, "tls"),), ("*.example.com",))
    assert tls.backends == (model.BackendRef(service("a"), 443, 9), model.BackendRef(service("b", "other"), 443))
    assert (tcp.parents, tcp.hostnames, tcp.backends) == ((), (), (model.BackendRef(service("first"), 1),))
    assert (udp.parents, udp.backends) == ((model.ParentRef(public),), (model.BackendRef(service("dns"), 53),))


@pytest.mark.parametrize("version", ["v1", "v1alpha3", "v1alpha2"])
def test_versions_of_a_tls_route(version: str) -> None:
    assert parse({**TLS, "apiVersion": f"{GATEWAY}/{version}"}) == parse(TLS)


def test_an_old_tls_route_needs_no_hostname() -> None:
    old = changed({**TLS, "apiVersion": f"{GATEWAY}/v1alpha2"}, "spec.hostnames", ...)
    assert read(model.TLSRoute, old).hostnames == ()


# --- policies ---------------------------------------------------------------------------------------------------------


def test_backend_tls_policy() -> None:
    policy = read(model.BackendTLSPolicy, TLS_POLICY)
    assert policy.targets == (model.PolicyTarget(service("web"), "https"),)
    assert policy.validation == model.TLSValidation(
        "web.example.com",
        (ObjectRef("", "ConfigMap", "prod", "ca"), ALL),
        names=(("Hostname", "*.example.com"), ("URI", "spiffe://example.com/web")),
    )
    assert parse({**TLS_POLICY, "apiVersion": f"{GATEWAY}/v1alpha3"}) == policy
    for word in ("System", "example.com/Mine"):
        known = {"hostname": "a", "wellKnownCACertificates": word}
        found = read(model.BackendTLSPolicy, changed(TLS_POLICY, "spec.validation", known))
        assert (found.validation, found.well_known) == (model.TLSValidation("a", system=word == "System"), word)


def test_backend() -> None:
    external, selected = read(model.XBackend, EXTERNAL), read(model.XBackend, SELECTED)
    assert external.meta.ref == ObjectRef(GATEWAY_X, "XBackend", "prod", "away")
    assert external == model.XBackend(
        external.meta,
        443,
        "HTTP2",
        hostname="api.example.com",
        tls="ClientAndServer",
        validation=model.TLSValidation("api.example.com", system=True),
        client_certificate=ObjectRef("", "Secret", "prod", "us"),
    )
    session = model.SessionPersistence("Header", "X-Session", 3600.0)
    assert selected == model.XBackend(selected.meta, 8080, selector={"app": "web"}, session=session)


def test_backend_traffic_policy() -> None:
    policy = read(model.XBackendTrafficPolicy, TRAFFIC)
    assert [target.ref.name for target in policy.targets] == ["web", "other"]
    assert policy.retries == model.RetryConstraint(5, 30.0, 1.5)
    assert policy.session == model.SessionPersistence("Cookie", "at", 3600.0, permanent=True, path="/a")
    empty: list[dict[str, Any]] = [{}, {"budget": {}, "minRetryRate": {}}]
    for constraint in empty:
        found = read(model.XBackendTrafficPolicy, changed(TRAFFIC, "spec.retryConstraint", constraint))
        assert found.retries == model.RetryConstraint()


def test_telemetry_policy() -> None:
    policy = read(model.XTelemetryPolicy, TELEMETRY)
    assert policy == model.XTelemetryPolicy(
        policy.meta,
        (model.PolicyTarget(ObjectRef(GATEWAY, "Gateway", "prod", "public")),),
        "Enabled",
        model.BackendRef(service("otel"), 4317),
        (("x-key", "k"),),
        (5, 100),
        parent_sampling=(1, 2),
        service_name="edge",
        span_name="one span",
        attributes=(
            model.TraceAttribute("team", "Header", "x-team"),
            model.TraceAttribute("env", "Literal", "prod"),
            model.TraceAttribute("code", "Attribute", "http.status"),
        ),
    )
    off = read(model.XTelemetryPolicy, changed(TELEMETRY, "spec.tracing", {"mode": "Disabled"}))
    assert (off.mode, off.provider) == ("Disabled", None)
    ignoring = changed(TELEMETRY, "spec.tracing.parentBasedSampling", {"mode": "Disabled"})
    assert not read(model.XTelemetryPolicy, ignoring).parent_based


# --- filters, Kubernetes ----------------------------------------------------------------------------------------------


def test_filters_and_session_of_a_rule() -> None:
    (rule,) = read(model.HTTPRoute, FILTERED).rules
    assert rule.filters == (
        model.CORSFilter(
            ("https://a.example.com", "https://*.example.org:8443"),
            ("GET", "POST"),
            ("X-A",),
            ("X-B", "*"),
            credentials=True,
            max_age=60,
        ),
        model.ExternalAuthFilter(model.BackendRef(service("auth"), 80), "HTTP", "/check", ("x-a",), ("x-user",)),
        model.UnknownFilter("ExtensionRef"),
    )
    assert rule.backends == (model.BackendRef(ObjectRef(GATEWAY_X, "XBackend", "prod", "away")),)
    assert rule.session == model.SessionPersistence("Cookie", "at")


def test_addresses_of_a_service() -> None:
    plain, addressed = read(model.Service, SERVICE), read(model.Service, ADDRESSED)
    assert (plain.cluster_ip, plain.addresses) == ("10.1.1.1", ())
    assert addressed.addresses == (
        ("IPAddress", "192.0.2.1"),
        ("IPAddress", "192.0.2.2"),
        ("Hostname", "lb.example.com"),
    )
    for headless in ("None", "", ...):
        assert read(model.Service, changed(SERVICE, "spec.clusterIP", headless)).cluster_ip == ""


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha1"])
def test_cluster_trust_bundle(version: str) -> None:
    bundle = read(model.ClusterTrustBundle, {**BUNDLE, "apiVersion": f"certificates.k8s.io/{version}"})
    assert (bundle.meta.ref, bundle.authorities) == (ALL, "PEM")


def test_foreign_kinds_of_known_groups_are_none() -> None:
    for kind in ("certificates.k8s.io/v1 CertificateSigningRequest", f"{GATEWAY_X}/v1alpha1 XMesh"):
        version, _, name = kind.partition(" ")
        assert parse({**CONFIG_MAP, "apiVersion": version, "kind": name}) is None
