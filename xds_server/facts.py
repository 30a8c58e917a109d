"""What an ADS session takes, gives and reports, and what reconcile reports: plain frozen values.

Source: Envoy `service.discovery.v3`. `wire.py` is the only place that knows the messages; observability subscribes to the facts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from xds_server.snapshot import Resource


@dataclass(frozen=True, slots=True)
class Node:
    """Who is at the other end, as the first request of the stream says."""

    id: str = ""
    cluster: str = ""
    user_agent: str = ""
    extensions: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """DiscoveryRequest (`names`) or DeltaDiscoveryRequest (`subscribe`, `unsubscribe`, `initial`)."""

    type_url: str
    nonce: str = ""
    error: str | None = None  # a NACK says why
    node: Node | None = None
    names: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = field(default_factory=dict)  # name -> version that the client holds


@dataclass(frozen=True, slots=True)
class Response:
    """DiscoveryResponse, or DeltaDiscoveryResponse (which alone has `removed`)."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pushed:
    """A response was made for this Envoy."""

    node: Node
    type_url: str
    version: str  # of the collection
    resources: Mapping[str, str]  # name -> version, of what changed
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Acked:
    """Envoy accepted a response. For CDS: and every cluster is warm."""

    node: Node
    type_url: str
    version: str
    resources: Mapping[str, str]
    seconds: float  # since it was pushed


@dataclass(frozen=True, slots=True)
class Nacked:
    """Envoy refused (a part of) a response; `blamed` are the resources at fault as far as the error text says."""

    node: Node
    type_url: str
    version: str
    resources: Mapping[str, str]
    error: str
    blamed: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Overdue:
    """Envoy answered nothing within `Timing.ack`: the session goes on and the proxy counts as degraded."""

    node: Node
    type_url: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Connected:
    """An Envoy opened a stream and said who it is."""

    node: Node
    delta: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """Its stream ended."""

    node: Node
    delta: bool


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A state became a snapshot."""

    seconds: float
    objects: int
    problems: int
    resources: int


@dataclass(frozen=True, slots=True)
class ReconcileFailed:
    """A stage raised: our mistake. What was published before stays in effect."""

    traceback: str


Fact = Pushed | Acked | Nacked | Overdue | Connected | Disconnected
Observe = Callable[[object], None]  # takes any fact; must not block or raise
State = Literal["ACKED", "NACKED", "PENDING"]


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """What one Envoy has of one type. `version` is the newest that it took, "" for none."""

    type_url: str
    state: State
    version: str
    resources: int
    errors: Mapping[str, str]  # name -> why Envoy refuses the present version


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One Envoy, for people and for /status."""

    node: Node
    delta: bool
    degraded: bool
    types: tuple[TypeStatus, ...]
    fleet: str = ""  # the verified one, or what node.cluster says where nobody is asked
