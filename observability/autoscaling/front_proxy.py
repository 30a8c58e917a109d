"""Who may ask an aggregated API: the API server, which shows the client certificate of its front proxy. It has authorized the user.

Source: Kubernetes "Configure the Aggregation Layer"; ConfigMap kube-system/extension-apiserver-authentication. The API server
checks RBAC of external.metrics.k8s.io before it passes a request on, so who comes through it may read.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from observability.autoscaling.external_metrics import Refused

CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
_OPEN = frozenset({"/healthz", "/readyz"})


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Whom the cluster says to trust."""

    authority: str  # PEM
    names: tuple[str, ...] = ()  # common names; empty: any that the authority has signed


class NoFrontProxy(Exception):
    """The cluster's API server does not say whom to trust; the message says how to mend that."""


def read(config_map: Mapping[str, Any]) -> FrontProxy:
    """From the ConfigMap that every API server publishes. Raises NoFrontProxy."""
    data = config_map.get("data") or {}
    authority = str(data.get("requestheader-client-ca-file", "")).strip()
    if not authority:
        raise NoFrontProxy(
            "ConfigMap kube-system/extension-apiserver-authentication has no requestheader-client-ca-file: the API server runs "
            "without an aggregation layer; start it with --requestheader-client-ca-file"
        )
    try:
        ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, TypeError) as error:
        raise NoFrontProxy(
            f"requestheader-client-ca-file of the API server is no certificate in PEM: {error}"
        ) from None
    try:
        names = orjson.loads(data.get("requestheader-allowed-names") or "[]")
    except orjson.JSONDecodeError:
        names = None
    if not isinstance(names, list):
        raise NoFrontProxy("requestheader-allowed-names of the API server is not a JSON list")
    return FrontProxy(authority + "\n", tuple(str(name) for name in names))


def context(proxy: FrontProxy, certificate: Path) -> ssl.SSLContext:
    """For the server: `certificate` has the chain and the key. A client may come without a certificate, to be told so."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=proxy.authority)
    made.verify_mode = ssl.CERT_OPTIONAL
    made.load_cert_chain(certificate)
    return made


def admission(trusted: Callable[[], FrontProxy]) -> Callable[[web.Request], None]:
    """Raises Refused for whoever is not the front proxy."""

    def admit(request: web.Request) -> None:
        if request.path in _OPEN:
            return
        peer = request.transport.get_extra_info("peercert") if request.transport else None
        if not peer:
            raise Refused(401, "ask through the API server: only its front proxy is answered here")
        names, allowed = common_names(peer), trusted().names
        if allowed and not set(allowed) & set(names):
            raise Refused(403, f"{', '.join(names) or 'a client without a name'} is not the API server's front proxy")

    return admit


def common_names(certificate: Mapping[str, Any]) -> list[str]:
    """Of a certificate as ssl.SSLSocket.getpeercert() gives it."""
    return [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
