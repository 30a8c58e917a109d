"""The Graph: ClusterState with every reference resolved and every rule decided, so that translation cannot fail.

`resolve` makes it; `translate` turns it into Envoy's words, `status` into Kubernetes' words, and the picker reads its pools.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from xds_server.model.exporter import Exporter
from xds_server.model.objects import (
    CORSFilter,
    ExternalAuthFilter,
    Gateway,
    HeaderFilter,
    HTTPMatch,
    InferenceModelRewrite,
    ObjectRef,
    ParentRef,
    PathModifier,
    Problem,
    RedirectFilter,
    Retry,
    RewriteFilter,
    Timeouts,
    XTelemetryPolicy,
)

CONTROLLER = "penstock.dev/gateway-controller"
EVERYTHING = ""  # the fleet that serves every Gateway


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address that serves: a pod and a port; in a pool also one of the ranks behind it.

    `host_port` is `ip:port`, or `[ip]:port` for IPv6, as Envoy writes it. `str()` is the same, or `ip:port@rank` of such a rank.
    """

    address: str
    port: int
    pod: str = ""
    zone: str = ""
    node: str = ""
    draining: bool = False  # terminating but still serving
    rank: int = 0  # data-parallel: the index of the target port, or what x-data-parallel-rank says
    labels: tuple[tuple[str, str], ...] = ()
    host: str = ""  # address of its node
    by_header: bool = False  # the header tells ranks apart, not the port: picker/ranks.py

    @property
    def host_port(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def __str__(self) -> str:
        return f"{self.host_port}@{self.rank}" if self.by_header else self.host_port


@dataclass(frozen=True, slots=True)
class Certificate:
    name: str  # "ns/name" of the Secret: its SDS name
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authorities:
    """Whom to trust."""

    name: str  # "authorities/<hash of the PEM>": its SDS name
    pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UpstreamTLS:
    """How a backend is spoken to: BackendTLSPolicy, or an XBackend's own."""

    hostname: str  # SNI
    authorities: Authorities | None  # None: those of the system
    names: tuple[tuple[Literal["Hostname", "URI"], str], ...] = ()  # empty: the certificate must have `hostname`
    certificate: Certificate | None = None  # shown to the backend
    verify: bool = True  # False only for a foreign picker without a policy: its certificate is self-signed by default


@dataclass(frozen=True, slots=True)
class Persistence:
    """Session persistence: cookie or header, as translation needs it."""

    kind: Literal["Cookie", "Header"]
    name: str
    path: str = "/"
    ttl: float = 0.0  # seconds; 0: a cookie for the browser's session


@dataclass(frozen=True, slots=True)
class RetryBudget:
    percent: int
    interval: float  # seconds
    minimum: int  # concurrent retries that are always allowed


@dataclass(frozen=True, slots=True)
class Backend:
    """What a cluster is made of, except its endpoints. `cluster` is named by identity and by a hash of the policies that
    shape it, never by a rule's position.
    """

    cluster: str  # "service/ns/name/port", "picker/...", "pool/ns/name", "backend/ns/name"; then "/h2c", "/udp"; "~hash" of its TLS
    ref: ObjectRef
    protocol: Literal["http", "h2c"] = "http"
    pool: bool = False
    fail_open: bool = False  # pools: what happens when the picker does not answer
    picker: "Backend | None" = None  # pools: a foreign picker; None for the co-located one
    tls: UpstreamTLS | None = None
    hostname: str = ""  # a name outside of the cluster: resolved by Envoy, not by EDS
    port: int = 0  # with `hostname`
    budget: RetryBudget | None = None
    usage: bool = False  # pools: our picker asks streams for their usage where the client does not
    failover: tuple["Backend", ...] = ()  # pools: asked, each with its own picker, when this one has nothing to give


@dataclass(frozen=True, slots=True)
class WeightedBackend:
    backend: Backend | None  # None: an invalid reference; its share of the requests gets 500
    weight: int = 1
    headers: tuple[HeaderFilter, ...] = ()
    rewrite: RewriteFilter | None = None  # for this share only: a hostname, never a path


@dataclass(frozen=True, slots=True)
class Mirror:
    backend: Backend
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True)
class CORS:
    """CORSFilter with what the specification leaves open filled in."""

    filter: CORSFilter


@dataclass(frozen=True, slots=True)
class ExternalAuth:
    filter: ExternalAuthFilter
    backend: Backend


@dataclass(frozen=True, slots=True)
class Forward:
    backends: tuple[WeightedBackend, ...]  # at least one with a backend and a weight above 0; else the route is a Reply
    rewrite: RewriteFilter | None = None
    mirrors: tuple[Mirror, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    session: Persistence | None = None


@dataclass(frozen=True, slots=True)
class Redirect:
    """RedirectFilter with what the listener implies filled in."""

    filter: RedirectFilter
    port: int  # the port to put into Location; 0 for none


@dataclass(frozen=True, slots=True)
class Reply:
    """Answered by Envoy itself: 500 for a rule that cannot be served, 404 for one without backends that the spec wants so."""

    status: int
    body: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One match of one rule: Envoy's unit of routing."""

    name: str  # "ns/route/rule index/match index": for people and metrics; never part of a cluster's name
    match: HTTPMatch
    action: Forward | Redirect | Reply
    headers: tuple[HeaderFilter, ...] = ()
    rule: str = ""  # the rule's own name
    cors: CORS | None = None
    auth: ExternalAuth | None = None
    grpc: bool = False  # of a GRPCRoute: matches gRPC requests only


@dataclass(frozen=True, slots=True)
class VirtualHost:
    hostname: str  # "*", "example.com" or "*.example.com"
    routes: tuple[Route, ...]  # in order of precedence; empty: the host is ours and has nothing (404)


@dataclass(frozen=True, slots=True)
class ClientCheck:
    """Certificates of clients. Not `required`: one that nobody vouches for, or none, is let in too (AllowInsecureFallback)."""

    authorities: Authorities
    required: bool = True


@dataclass(frozen=True, slots=True)
class ServerTLS:
    certificates: tuple[Certificate, ...]
    clients: ClientCheck | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """Bytes, not requests: where the connections of a chain (or the datagrams of a UDP port) go. A share without a backend,
    or a stream without shares, closes the connection.
    """

    name: str  # "ns/route" of the route that serves: for people and metrics; "" without one
    backends: tuple[WeightedBackend, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """What one set of connections of a port sees: everything (HTTP, TCP), or those with one of some server names."""

    hostname: str  # the SNI to match, "" for all
    tls: ServerTLS | None  # None: plain, or TLS passed through
    hosts: tuple[VirtualHost, ...] = ()
    stream: Stream | None = None  # instead of `hosts`
    auth: tuple[ExternalAuth, ...] = ()  # listener filters: asked before routing
    tracing: "Tracing | None" = None

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        return self.tls.certificates if self.tls else ()


@dataclass(frozen=True, slots=True)
class Tracing:
    """XTelemetryPolicy with its collector resolved."""

    policy: XTelemetryPolicy
    collector: Backend | None


@dataclass(frozen=True, slots=True)
class Port:
    """One socket of a fleet. `sni`: its chains are chosen by server name (HTTPS and TLS listeners)."""

    number: int
    chains: tuple[Chain, ...]
    transport: Literal["TCP", "UDP"] = "TCP"
    sni: bool = False


@dataclass(frozen=True, slots=True)
class Fleet:
    """The Envoys that serve one Gateway, or all of them, and what they need."""

    ports: tuple[Port, ...] = ()
    backends: Mapping[str, Backend] = field(default_factory=dict)  # by cluster name: every cluster that is used
    gateway: Gateway | None = None  # the one that it serves; None for all of them


@dataclass(frozen=True, slots=True)
class Objective:
    name: str
    priority: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """An InferencePool as the picker sees it."""

    ref: ObjectRef
    backend: Backend
    endpoints: tuple[Endpoint, ...]  # sorted; ready ones, and draining ones; each rank is one
    objectives: tuple[Objective, ...] = ()  # in the order of names
    rewrites: tuple[InferenceModelRewrite, ...] = ()  # oldest first
    config: Mapping[str, object] | None = None  # EndpointPickerConfig content; None: the default profile
    config_of: tuple[ObjectRef, str] | None = None  # the object that the content comes from, and where that was read
    queue_ttl: float | None = None  # seconds that a request may wait in the gateway; None: as the configuration says
    ttft_objective: float | None = None  # seconds, of requests that name none
    exporter: Exporter | None = None  # of its accelerators; None: as the configuration says
    unready: int = 0  # pods that it selects and that do not serve: a pool at zero has none of them either
    kv_events: int | None = None  # port of the servers' KV events, 0: they are asked; None: as the configuration says
    model_lists: bool = True  # who does not list a model gets no requests for it, while another may have it

    @property
    def name(self) -> str:
        return f"{self.ref.namespace}/{self.ref.name}"


# --- status -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class ParentStatus:
    """One entry of status.parents of a route or of an InferencePool."""

    parent: ParentRef
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    name: str
    attached_routes: int
    supported_kinds: tuple[tuple[str, str], ...]  # (group, kind)
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class ObjectStatus:
    """What we have to say about one object; the fields that its kind does not have stay empty."""

    ref: ObjectRef
    conditions: tuple[Condition, ...] = ()
    parents: tuple[ParentStatus, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()  # of a Gateway, or of a ListenerSet
    addresses: tuple[tuple[str, str], ...] = ()
    supported_features: tuple[str, ...] = ()
    ancestors: tuple[ParentStatus, ...] = ()  # of a policy
    listener_sets: int | None = None  # of a Gateway: attachedListenerSets


@dataclass(frozen=True, slots=True)
class Graph:
    fleets: Mapping[str, Fleet] = field(
        default_factory=dict
    )  # "" for one that serves every Gateway; else "ns/name" of one
    endpoints: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)  # by cluster name; sorted
    pools: Mapping[str, Pool] = field(default_factory=dict)  # by "ns/name": every InferencePool, routed to or not
    statuses: Mapping[ObjectRef, ObjectStatus] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # all of them: what could not be read, and what could not be resolved

    @property
    def ports(self) -> tuple[Port, ...]:
        """Every socket of every fleet."""
        return tuple(port for fleet in self.fleets.values() for port in fleet.ports)

    @property
    def backends(self) -> Mapping[str, Backend]:
        """Every cluster of every fleet, by name."""
        return {name: backend for fleet in self.fleets.values() for name, backend in fleet.backends.items()}


__all__ = [
    "CONTROLLER",
    "CORS",
    "EVERYTHING",
    "Authorities",
    "Backend",
    "Certificate",
    "Chain",
    "ClientCheck",
    "Condition",
    "Endpoint",
    "ExternalAuth",
    "Fleet",
    "Forward",
    "Graph",
    "ListenerStatus",
    "Mirror",
    "ObjectStatus",
    "Objective",
    "ParentStatus",
    "PathModifier",
    "Persistence",
    "Pool",
    "Port",
    "Redirect",
    "Reply",
    "RetryBudget",
    "Route",
    "ServerTLS",
    "Stream",
    "Tracing",
    "UpstreamTLS",
    "VirtualHost",
    "WeightedBackend",
]
