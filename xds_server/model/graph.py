"""The Graph: ClusterState with every reference resolved and every rule decided, so that translation cannot fail.

`resolve` makes it; `translate` turns it into Envoy's words, `status` into Kubernetes' words, and the picker reads its pools.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from xds_server.model.objects import (
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
)

CONTROLLER = "penstock.dev/gateway-controller"


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address that serves: a pod and a port. `str()` gives `ip:port`, or `[ip]:port` for IPv6, as Envoy writes it."""

    address: str
    port: int
    pod: str = ""
    zone: str = ""
    node: str = ""
    draining: bool = False  # terminating but still serving
    rank: int = 0  # the index of the target port: the data-parallel rank
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Backend:
    """What a cluster is made of, except its endpoints. `cluster` is named by identity, never by a rule's position."""

    cluster: str  # "service/ns/name/port" or "pool/ns/name"
    ref: ObjectRef
    protocol: Literal["http", "h2c"] = "http"
    pool: bool = False
    fail_open: bool = False  # pools: what happens when the picker does not answer


@dataclass(frozen=True, slots=True)
class WeightedBackend:
    backend: Backend | None  # None: an invalid reference; its share of the requests gets 500
    weight: int = 1
    headers: tuple[HeaderFilter, ...] = ()


@dataclass(frozen=True, slots=True)
class Mirror:
    backend: Backend
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True)
class Forward:
    backends: tuple[WeightedBackend, ...]  # at least one with a backend and a weight above 0; else the route is a Reply
    rewrite: RewriteFilter | None = None
    mirrors: tuple[Mirror, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None


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


@dataclass(frozen=True, slots=True)
class VirtualHost:
    hostname: str  # "*", "example.com" or "*.example.com"
    routes: tuple[Route, ...]  # in order of precedence; empty: the host is ours and has nothing (404)


@dataclass(frozen=True, slots=True)
class Certificate:
    name: str  # "ns/name" of the Secret
    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Chain:
    """What one set of connections of a port sees: everything (HTTP), or those with one server name (HTTPS)."""

    hostname: str  # the SNI to match, "" for all
    certificates: tuple[Certificate, ...]  # empty for plain HTTP
    hosts: tuple[VirtualHost, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """One socket of the fleet."""

    number: int
    chains: tuple[Chain, ...]


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
    endpoints: tuple[Endpoint, ...]  # sorted; ready ones, and draining ones
    objectives: tuple[Objective, ...] = ()  # in the order of names
    rewrites: tuple[InferenceModelRewrite, ...] = ()  # oldest first
    config: Mapping[str, object] | None = None  # EndpointPickerConfig content; None: the default profile
    config_of: tuple[ObjectRef, str] | None = None  # the object that the content comes from, and where that was read

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
    listeners: tuple[ListenerStatus, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()
    supported_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    ports: tuple[Port, ...] = ()
    backends: Mapping[str, Backend] = field(default_factory=dict)  # by cluster name: every cluster that a route uses
    endpoints: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)  # by cluster name; sorted
    pools: Mapping[str, Pool] = field(default_factory=dict)  # by "ns/name": every InferencePool, routed to or not
    statuses: Mapping[ObjectRef, ObjectStatus] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # all of them: what could not be read, and what could not be resolved


__all__ = [
    "CONTROLLER",
    "Backend",
    "Certificate",
    "Chain",
    "Condition",
    "Endpoint",
    "Forward",
    "Graph",
    "ListenerStatus",
    "Mirror",
    "ObjectStatus",
    "Objective",
    "ParentStatus",
    "PathModifier",
    "Pool",
    "Port",
    "Redirect",
    "Reply",
    "Route",
    "VirtualHost",
    "WeightedBackend",
]  # fmt: skip
