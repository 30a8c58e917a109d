"""TLS at both ends: whose certificates clients must show, which one backends are shown."""

from typing import Any

import pytest

from tests.xds_server.resolve_world import gateway, graph, http, ref, route, rule, service, thing
from tests.xds_server.test_resolve_gateways import pair, secret
from xds_server.model.graph import ClientCheck, Forward
from xds_server.model.objects import ClusterState, Gateway, Object
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied
from xds_server.resolve.tls import client_check, client_check_denied, gateway_certificate, insecure_fallback

A, B = (pair(name)[0].decode() for name in "ab")
BUNDLE = {"group": "certificates.k8s.io", "kind": "ClusterTrustBundle", "name": "all"}


def authority(name: str = "ca", pem: str = A, ns: str = "d", key: str = "ca.crt") -> Object:
    return thing("ConfigMap", name, None, ns, data={key: pem})


def config_map(name: str = "ca", **more: str) -> dict[str, str]:
    return {"group": "", "kind": "ConfigMap", "name": name, **more}


def asking(*refs: dict[str, str], mode: str = "AllowValidOnly", ports: Any = None) -> Gateway:
    """A Gateway whose clients must show certificates."""
    frontend: dict[str, Any] = {"default": {"validation": {"caCertificateRefs": list(refs), "mode": mode}}}
    if ports:
        frontend["perPort"] = ports
    found = gateway("gw", http(), spec={"tls": {"frontend": frontend}})
    assert isinstance(found, Gateway)
    return found


def checked(found: Gateway, *objects: Object, port: int = 443) -> ClientCheck | Denied | None:
    return client_check(found, port, Context(ClusterState.of([found, *objects])))


def grant(to: str) -> Object:
    sources = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "d"}]
    return thing("ReferenceGrant", "g", {"from": sources, "to": [{"group": "", "kind": to}]}, "other")


class TestClients:
    def test_one_authority(self) -> None:
        found = checked(asking(config_map()), authority())
        assert isinstance(found, ClientCheck)
        assert found.required
        assert found.authorities.pem.decode() == A
        assert found.authorities.name.startswith("authorities/")

    @pytest.mark.parametrize(
        ("target", "objects", "reason"),
        [
            (config_map("none"), [], "InvalidCACertificateRef"),
            (config_map(), [authority(key="other")], "InvalidCACertificateRef"),
            (config_map(), [authority(pem="")], "InvalidCACertificateRef"),
            (config_map(), [authority(pem="-----BEGIN CERTIFICATE-----\nx\n")], "InvalidCACertificateRef"),
            ({"group": "", "kind": "Service", "name": "s"}, [service()], "InvalidCACertificateKind"),
            (config_map(namespace="other"), [authority(ns="other")], "RefNotPermitted"),
            (config_map(namespace="other"), [], "RefNotPermitted"),
            (BUNDLE, [], "InvalidCACertificateRef"),
        ],
    )
    def test_nobody_to_trust(self, target: Any, objects: Any, reason: str) -> None:
        found = checked(asking(target), *objects)
        assert isinstance(found, Denied)
        assert found.reason == reason

    def test_another_namespace_with_a_grant(self) -> None:
        found = asking(config_map(namespace="other"))
        assert isinstance(checked(found, authority(ns="other"), grant("ConfigMap")), ClientCheck)
        assert isinstance(checked(found, authority(ns="other"), grant("Secret")), Denied)

    def test_a_trust_bundle_is_nobodys_to_grant(self) -> None:
        bundle = thing("ClusterTrustBundle", "all", {"trustBundle": B})
        found = checked(asking(BUNDLE), bundle)
        assert isinstance(found, ClientCheck)
        assert found.authorities.pem.decode() == B

    def test_of_several_those_that_hold_count_and_the_others_are_said(self) -> None:
        found, objects = asking(config_map(), config_map("none"), config_map("b")), [authority(), authority("b", B)]
        check = checked(found, *objects)
        assert isinstance(check, ClientCheck)
        assert check.authorities.pem.decode() == A + B
        denied = client_check_denied(found, 443, Context(ClusterState.of([found, *objects])))
        assert [each.reason for each in denied] == ["InvalidCACertificateRef"]

    def test_a_port_of_its_own(self) -> None:
        own = {"port": 8443, "tls": {"validation": {"caCertificateRefs": [config_map("b")]}}}
        open_to_all = {"port": 9443, "tls": {}}
        found, objects = asking(config_map(), ports=[own, open_to_all]), [authority(), authority("b", B)]
        names = [checked(found, *objects, port=port) for port in (443, 8443)]
        assert all(isinstance(each, ClientCheck) for each in names)
        assert len(set(names)) == 2
        assert checked(found, *objects, port=9443) is None

    def test_insecure_fallback(self) -> None:
        found = asking(config_map(), mode="AllowInsecureFallback")
        check = checked(found, authority())
        assert isinstance(check, ClientCheck)
        assert not check.required
        assert insecure_fallback(found)
        assert not insecure_fallback(asking(config_map()))


def showing(named: str = "gw", **target: str) -> Gateway:
    tls = {"backend": {"clientCertificateRef": {"name": "cert", **target}}}
    found = gateway(named, http(port=80 if named == "gw" else 81), spec={"tls": tls})
    assert isinstance(found, Gateway)
    return found


class TestOwnCertificate:
    @pytest.mark.parametrize(
        ("target", "objects", "reason"),
        [
            ({}, [], "InvalidClientCertificateRef"),
            ({"group": "x.io"}, [secret()], "InvalidClientCertificateRef"),
            ({"kind": "ConfigMap"}, [secret()], "InvalidClientCertificateRef"),
            ({}, [secret(key=pair("b")[1])], "InvalidClientCertificateRef"),
            ({"namespace": "other"}, [secret(ns="other")], "RefNotPermitted"),
        ],
    )
    def test_one_that_cannot_be_shown(self, target: Any, objects: Any, reason: str) -> None:
        found = showing(**target)
        denied = gateway_certificate(found, Context(ClusterState.of([found, *objects])))
        assert isinstance(denied, Denied)
        assert denied.reason == reason

    def test_none_is_asked_for(self) -> None:
        plain = gateway()
        assert isinstance(plain, Gateway)
        assert gateway_certificate(plain, Context(ClusterState.of([plain]))) is None

    def test_two_gateways_with_different_ones_have_different_clusters(self) -> None:
        spec = {
            "targetRefs": [{"group": "", "kind": "Service", "name": "s"}],
            "validation": {"caCertificateRefs": [config_map()], "hostname": "s.example.com"},
        }
        parents = [{"name": "gw"}, {"name": "two"}]
        found = graph(
            showing(),
            showing("two", name="other"),
            secret(),
            secret("other"),
            authority(),
            service(),
            service("plain"),
            route("r", rule("/a"), rule("/b", to="plain"), parents=parents),
            thing("BackendTLSPolicy", "p", spec),
        )
        routes = [each for port in found.ports for each in port.chains[0].hosts[0].routes]
        used = [each.action.backends[0].backend for each in routes if isinstance(each.action, Forward)]
        shown = {each.cluster: each.tls.certificate.name for each in used if each and each.tls and each.tls.certificate}
        assert sorted(shown.values()) == ["d/cert", "d/other"]
        assert all(name.startswith("service/d/s/80~") for name in shown)
        assert sorted(found.backends) == sorted([*shown, "service/d/plain/80"])
        assert found.endpoints.keys() == found.backends.keys()
        assert ref("Gateway", "two") in found.statuses
