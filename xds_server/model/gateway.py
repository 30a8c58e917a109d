"""GatewayClass, Gateway, ListenerSet and ReferenceGrant, parsed. Source: Gateway API 1.7."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from xds_server.model.meta import LabelSelector, Meta
from xds_server.model.problem import ObjectRef
from xds_server.model.route import Filter


@dataclass(frozen=True, slots=True)
class GatewayClass:
    meta: Meta
    controller: str
    parameters: ObjectRef | None = None


@dataclass(frozen=True, slots=True)
class AllowedRoutes:
    namespaces: Literal["Same", "All", "Selector"] = "Same"
    selector: LabelSelector = LabelSelector()
    kinds: tuple[tuple[str, str], ...] = ()  # (group, kind); empty: what the protocol implies


@dataclass(frozen=True, slots=True)
class ListenerTLS:
    mode: Literal["Terminate", "Passthrough"] = "Terminate"
    certificates: tuple[ObjectRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    name: str
    port: int
    protocol: str  # HTTP, HTTPS, TLS, TCP, UDP, or a domain-prefixed one
    hostname: str = ""  # "" matches all; may start with "*."
    tls: ListenerTLS | None = None
    allowed: AllowedRoutes = AllowedRoutes()
    filters: tuple[Filter, ...] = ()  # asked before routing


@dataclass(frozen=True, slots=True)
class ClientValidation:
    """Whose certificates clients must show."""

    authorities: tuple[ObjectRef, ...]  # ConfigMaps with ca.crt, or ClusterTrustBundles
    insecure_fallback: bool = False  # AllowInsecureFallback: also without one, or with one that nobody vouches for


@dataclass(frozen=True, slots=True)
class GatewayTLS:
    """spec.tls: how TLS is spoken to backends, and what is asked of clients."""

    client_certificate: ObjectRef | None = None  # shown to backends that have a BackendTLSPolicy
    clients: ClientValidation | None = None  # frontend.default
    clients_by_port: tuple[tuple[int, ClientValidation | None], ...] = ()  # frontend.perPort, instead of the default


@dataclass(frozen=True, slots=True)
class AllowedListeners:
    """Which namespaces may bring ListenerSets."""

    namespaces: Literal["None", "Same", "All", "Selector"] = "None"
    selector: LabelSelector = LabelSelector()


@dataclass(frozen=True, slots=True)
class Gateway:
    meta: Meta
    gateway_class: str
    listeners: tuple[Listener, ...]
    addresses: tuple[tuple[str, str], ...] = ()  # (type, value); value "" asks for any of the type
    routability: str = ""  # of its addresses, the first that says so: "", Cluster, or a domain-prefixed word
    infrastructure_labels: Mapping[str, str] = field(default_factory=dict)
    infrastructure_annotations: Mapping[str, str] = field(default_factory=dict)
    parameters: ObjectRef | None = None  # infrastructure.parametersRef
    tls: GatewayTLS = GatewayTLS()
    allowed_listeners: AllowedListeners = AllowedListeners()


@dataclass(frozen=True, slots=True)
class ListenerSet:
    """More listeners for a Gateway, owned by someone else."""

    meta: Meta
    parent: ObjectRef
    listeners: tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    meta: Meta
    sources: tuple[tuple[str, str, str], ...]  # `from`: (group, kind, namespace)
    targets: tuple[tuple[str, str, str], ...]  # `to`: (group, kind, name or "" for all)
