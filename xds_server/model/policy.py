"""Policies: objects that say something about other objects, and XBackend, parsed. Source: Gateway API 1.7."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from xds_server.model.meta import Meta
from xds_server.model.problem import ObjectRef
from xds_server.model.route import BackendRef, SessionPersistence


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    ref: ObjectRef  # in the policy's namespace
    section: str = ""  # a Service: the name of a port


@dataclass(frozen=True, slots=True)
class TLSValidation:
    """How a backend's certificate is checked."""

    hostname: str  # sent as SNI, and must be in the certificate unless `names` has others
    authorities: tuple[ObjectRef, ...] = ()  # ConfigMaps with ca.crt, or ClusterTrustBundles
    system: bool = False  # wellKnownCACertificates: System
    names: tuple[tuple[Literal["Hostname", "URI"], str], ...] = ()  # subjectAltNames


@dataclass(frozen=True, slots=True)
class BackendTLSPolicy:
    meta: Meta
    targets: tuple[PolicyTarget, ...]
    validation: TLSValidation
    well_known: str = ""  # wellKnownCACertificates as written; one that we do not know makes the policy invalid


@dataclass(frozen=True, slots=True)
class RetryConstraint:
    percent: int = 20  # of the requests of `interval` may be retries
    interval: float = 10.0  # seconds
    minimum: float = 10.0  # retries a second that are always allowed


@dataclass(frozen=True, slots=True)
class XBackendTrafficPolicy:
    meta: Meta
    targets: tuple[PolicyTarget, ...]
    retries: RetryConstraint | None = None
    session: SessionPersistence | None = None


@dataclass(frozen=True, slots=True)
class XBackend:
    """A destination that is no Service: a name outside of the cluster, or pods by label."""

    meta: Meta
    port: int
    protocol: str = "HTTP"  # TCP, HTTP, HTTP2, HTTP11, H2C, MCP, GRPC, WSS
    hostname: str = ""  # ExternalHostname
    selector: Mapping[str, str] = field(default_factory=dict)  # EndpointSelector
    tls: Literal["None", "ServerOnly", "ClientAndServer"] = "None"
    validation: TLSValidation | None = None
    client_certificate: ObjectRef | None = None
    session: SessionPersistence | None = None


@dataclass(frozen=True, slots=True)
class TraceAttribute:
    name: str
    kind: Literal["Header", "Literal", "Attribute"]
    value: str


@dataclass(frozen=True, slots=True)
class XTelemetryPolicy:
    """Tracing of what one Gateway serves."""

    meta: Meta
    targets: tuple[PolicyTarget, ...]
    mode: Literal["Enabled", "Disabled", "ImplementationDefault"] = "ImplementationDefault"
    provider: BackendRef | None = None  # an OTLP gRPC collector
    headers: tuple[tuple[str, str], ...] = ()  # sent to it
    sampling: tuple[int, int] | None = None  # (numerator, denominator)
    parent_based: bool = True
    parent_sampling: tuple[int, int] | None = None  # of requests whose parent was sampled; None for all
    service_name: str = ""
    span_name: str = ""
    attributes: tuple[TraceAttribute, ...] = ()
