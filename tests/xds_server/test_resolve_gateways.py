"""Gateways and listeners: classes, protocols, conflicts, certificates, addresses."""

import base64
import datetime as dt
import functools
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.xds_server.resolve_world import gateway, graph, http, listener, reasons, ref, route, service, status, thing
from xds_server.model.objects import ClusterState
from xds_server.resolve import resolve

DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@functools.cache
def pair(name: str) -> tuple[bytes, bytes]:
    return signed(name, ec.generate_private_key(ec.SECP256R1()))


def signed(name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[bytes, bytes]:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    built = built.serial_number(7).not_valid_before(DAY).not_valid_after(DAY + dt.timedelta(days=9999))
    chain = built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return chain, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def secret(
    name: str = "cert", chain: bytes = b"", key: bytes = b"", ns: str = "d", kind: str = "kubernetes.io/tls"
) -> Any:
    made = pair("a")
    data = {"tls.crt": chain or made[0], "tls.key": key or made[1]}
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    return thing("Secret", name, None, ns, data=encoded, type=kind)


def https(listener_name: str = "tls", hostname: str = "", port: int = 443, **target: Any) -> dict[str, Any]:
    tls = {"certificateRefs": [{"name": "cert", **target}]}
    return {**http(listener_name, port, hostname), "protocol": "HTTPS", "tls": tls}


def test_our_class_says_what_it_serves() -> None:
    found = status(graph(), "GatewayClass", "penstock", "")
    assert reasons(found.conditions) == {
        "Accepted": ("True", "Accepted"),
        "SupportedVersion": ("True", "SupportedVersion"),
    }
    assert list(found.supported_features) == sorted(found.supported_features)


def test_a_class_with_parameters_is_refused() -> None:
    spec = {"controllerName": "penstock.dev/gateway-controller"}
    spec["parametersRef"] = {"group": "x.io", "kind": "Thing", "name": "x", "namespace": "d"}  # type: ignore[assignment]
    found = resolve(ClusterState.of([thing("GatewayClass", "penstock", spec), gateway()]))
    assert reasons(status(found, "GatewayClass", "penstock", "").conditions)["Accepted"] == (
        "False",
        "InvalidParameters",
    )
    assert not found.ports


def test_a_gateway_without_any_class_is_told_how_to_get_one() -> None:
    found = resolve(ClusterState.of([gateway()]))
    (problem,) = found.problems
    assert problem.field == "spec.gatewayClassName"
    assert "kind: GatewayClass" in problem.message
    assert "penstock.dev/gateway-controller" in problem.message
    assert ref("Gateway", "gw") not in found.statuses


def test_an_unsupported_protocol_harms_nobody_else() -> None:
    odd = {"name": "odd", "port": 80, "protocol": "SCTP"}
    found = graph(gateway("gw", http(), odd))
    assert listener(found, "odd")["Accepted"] == ("False", "UnsupportedProtocol")
    assert listener(found, "http")["Programmed"] == ("True", "Programmed")
    assert reasons(status(found, "Gateway", "gw").conditions) == {
        "Accepted": ("True", "ListenersNotValid"),
        "Programmed": ("True", "Programmed"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
    }
    assert [each.number for each in found.ports] == [80]


def test_a_gateway_of_unsupported_protocols_only_is_not_accepted() -> None:
    found = graph(gateway("gw", {"name": "odd", "port": 1, "protocol": "SCTP"}))
    assert reasons(status(found, "Gateway", "gw").conditions) == {
        "Accepted": ("False", "ListenersNotValid"),
        "Programmed": ("False", "Invalid"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
    }


@pytest.mark.parametrize(
    ("kinds", "supported", "resolved"),
    [
        ([], 2, ("True", "ResolvedRefs")),
        (["HTTPRoute"], 1, ("True", "ResolvedRefs")),
        (["TCPRoute"], 0, ("False", "InvalidRouteKinds")),
        (["TCPRoute", "HTTPRoute"], 1, ("False", "InvalidRouteKinds")),
    ],
)
def test_route_kinds(kinds: list[str], supported: int, resolved: Any) -> None:
    found = graph(gateway("gw", http(allowedRoutes={"kinds": [{"kind": kind} for kind in kinds]})))
    assert len(status(found, "Gateway", "gw").listeners[0].supported_kinds) == supported
    assert listener(found, "http")["ResolvedRefs"] == resolved


class TestConflicts:
    def test_protocols_of_one_gateway_all_lose(self) -> None:
        found = graph(gateway("gw", http("a"), https("b", port=80), http("c", 81)), secret())
        assert listener(found, "a")["Conflicted"] == ("True", "ProtocolConflict")
        assert listener(found, "b")["Accepted"] == ("False", "ProtocolConflict")
        assert listener(found, "b")["Programmed"] == ("False", "ProtocolConflict")
        assert [each.number for each in found.ports] == [81]

    def test_the_oldest_gateway_wins_a_hostname(self) -> None:
        young = gateway("a", http(hostname="x.com"), http("own", hostname="y.com"), created="2026-02-01T00:00:00Z")
        old = gateway("b", http(hostname="x.com"), created="2026-01-01T00:00:00Z")
        found = graph(young, old)
        assert listener(found, "http", "b")["Conflicted"] == ("False", "NoConflicts")
        assert listener(found, "http", "a")["Conflicted"] == ("True", "HostnameConflict")
        assert listener(found, "own", "a")["Programmed"] == ("True", "Programmed")

    def test_the_oldest_gateway_wins_a_protocol(self) -> None:
        young = gateway("a", https(port=80), created="2026-02-01T00:00:00Z")
        old = gateway("b", http(), created="2026-01-01T00:00:00Z")
        found = graph(young, old, secret())
        assert listener(found, "tls", "a")["Conflicted"] == ("True", "ProtocolConflict")
        assert listener(found, "http", "b")["Programmed"] == ("True", "Programmed")

    def test_a_route_is_only_served_by_the_gateway_that_it_names(self) -> None:
        old = gateway("a", http(hostname="x.com"), created="2026-01-01T00:00:00Z")
        young = gateway("b", http(hostname="x.com"), created="2026-02-01T00:00:00Z")
        found = graph(old, young, route("r", parents=[{"name": "b"}]), service())
        assert found.ports[0].chains[0].hosts[0].routes == ()


class TestCertificates:
    def test_a_certificate_is_served(self) -> None:
        found = graph(gateway("gw", https()), secret())
        (chain,) = found.ports[0].chains
        assert (chain.hostname, chain.certificates[0].name) == ("", "d/cert")
        assert listener(found, "tls")["ResolvedRefs"] == ("True", "ResolvedRefs")

    @pytest.mark.parametrize(
        "bad",
        [
            secret(chain=b"Hello world\n", key=b"Hello world\n"),
            secret(key=b"Hello world\n"),
            secret(key=pair("other")[1]),
            secret("cert", *signed("short", rsa.generate_private_key(65537, 1024))),
            secret("cert", *signed("curve", ec.generate_private_key(ec.SECP256K1()))),
            secret(kind="Opaque"),
            secret("another"),
        ],
    )
    def test_a_bad_certificate_harms_its_listener_only(self, bad: Any) -> None:
        good = https("good", "good.com", name="fine")
        found = graph(gateway("gw", https("bad", "bad.com"), good), bad, secret("fine"))
        assert listener(found, "bad")["ResolvedRefs"] == ("False", "InvalidCertificateRef")
        assert listener(found, "bad")["Programmed"] == ("False", "Invalid")
        assert listener(found, "bad")["Accepted"] == ("True", "Accepted")
        assert [each.hostname for each in found.ports[0].chains] == ["good.com"]
        assert any(each.field == "spec.listeners[0]" for each in found.problems)

    @pytest.mark.parametrize("target", [{"kind": "ConfigMap"}, {"group": "wrong.io"}], ids=["kind", "group"])
    def test_only_secrets_hold_certificates(self, target: Any) -> None:
        found = graph(gateway("gw", https(**target)), secret())
        assert listener(found, "tls")["ResolvedRefs"] == ("False", "InvalidCertificateRef")

    @pytest.mark.parametrize("exists", [True, False])
    def test_another_namespace_needs_a_grant_whether_the_secret_exists_or_not(self, exists: bool) -> None:
        objects = [gateway("gw", https(namespace="other"))] + [secret(ns="other")] * exists
        assert listener(graph(*objects), "tls")["ResolvedRefs"] == ("False", "RefNotPermitted")
        source = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "d"}
        spec = {"from": [source], "to": [{"group": "", "kind": "Secret"}]}
        found = graph(*objects, thing("ReferenceGrant", "g", spec, "other"))
        assert listener(found, "tls")["Programmed"][0] == str(exists)

    def test_several_certificates(self) -> None:
        both = https()
        both["tls"] = {"certificateRefs": [{"name": "cert"}, {"name": "more"}]}
        chain, key = pair("more")
        found = graph(gateway("gw", both), secret(), secret("more", chain, key))
        assert [each.name for each in found.ports[0].chains[0].certificates] == ["d/cert", "d/more"]

    def test_no_key_is_ever_said(self) -> None:
        found = graph(gateway("gw", https()), secret(key=b"very secret"))
        assert "very secret" not in repr((found.problems, found.statuses))


class TestAddresses:
    FLEET = (("IPAddress", "10.0.0.1"), ("IPAddress", "10.0.0.2"))

    def test_a_gateway_has_those_of_the_fleet(self) -> None:
        assert status(graph(gateway(), addresses=self.FLEET), "Gateway", "gw").addresses == self.FLEET

    def test_a_gateway_may_ask_for_one(self) -> None:
        asked = gateway(spec={"addresses": [{"type": "IPAddress", "value": "10.0.0.2"}]})
        assert status(graph(asked, addresses=self.FLEET), "Gateway", "gw").addresses == self.FLEET[1:]

    def test_an_address_that_we_do_not_have(self) -> None:
        asked = gateway(spec={"addresses": [{"type": "IPAddress", "value": "10.9.9.9"}]})
        found = graph(asked, addresses=self.FLEET)
        assert reasons(status(found, "Gateway", "gw").conditions)["Programmed"] == ("False", "AddressNotUsable")
        assert found.ports

    def test_a_type_that_we_do_not_know(self) -> None:
        asked = gateway(spec={"addresses": [{"type": "x.io/Name", "value": "10.9.9.9"}]})
        found = reasons(status(graph(asked, addresses=self.FLEET), "Gateway", "gw").conditions)
        assert found["Accepted"] == ("False", "UnsupportedAddress")
