"""The Kubernetes objects that we read, parsed: frozen, keeping only what can change the gateway.

Sources: Gateway API 1.7 (`gateway.networking.k8s.io/v1`), Gateway API Inference Extension 1.6
(`inference.networking.k8s.io/v1`; objectives and rewrites also as `llm-d.ai/v1alpha2` and
`inference.networking.x-k8s.io/v1alpha2`), Kubernetes core and discovery. `parse.py` makes them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from xds_server.model.problem import InvalidObject, ObjectRef, Problem

__all__ = ["InvalidObject", "ObjectRef", "Problem"]  # beside what is defined here

GATEWAY_GROUP = "gateway.networking.k8s.io"
INFERENCE_GROUP = "inference.networking.k8s.io"
INFERENCE_X_GROUP = "inference.networking.x-k8s.io"
LLM_D_GROUP = "llm-d.ai"


@dataclass(frozen=True, slots=True)
class Meta:
    ref: ObjectRef
    generation: int = 0
    created: str = ""  # RFC 3339; orders conflicts ("oldest wins"); "" in manifests sorts by ref alone
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # "file.yaml:12"; never part of what is compared by translate

    @property
    def namespace(self) -> str:
        return self.ref.namespace

    @property
    def age_key(self) -> tuple[str, str, str]:
        """Sorts the oldest first, then by namespace and name (Gateway API conflict resolution)."""
        return (self.created, self.ref.namespace, self.ref.name)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """metav1.LabelSelector; an empty one matches everything."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # (key, In|NotIn|Exists|DoesNotExist, values)

    def matches(self, labels: Mapping[str, str]) -> bool:
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        for key, operator, values in self.match_expressions:
            match operator:
                case "In" if labels.get(key) not in values:
                    return False
                case "NotIn" if key in labels and labels[key] in values:
                    return False
                case "Exists" if key not in labels:
                    return False
                case "DoesNotExist" if key in labels:
                    return False
        return True


# --- Gateway API ------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Gateway:
    meta: Meta
    gateway_class: str
    listeners: tuple[Listener, ...]
    addresses: tuple[tuple[str, str], ...] = ()  # (type, value)


@dataclass(frozen=True, slots=True)
class ParentRef:
    ref: ObjectRef  # defaults filled in: group, kind Gateway, the route's namespace
    section: str = ""  # sectionName; "" for all listeners
    port: int = 0  # 0 for any


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A header or a query parameter."""

    name: str  # header names lower-case
    value: str
    regex: bool = False


@dataclass(frozen=True, slots=True)
class PathMatch:
    kind: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"


@dataclass(frozen=True, slots=True)
class HTTPMatch:
    path: PathMatch = PathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()
    method: str = ""


@dataclass(frozen=True, slots=True)
class HeaderFilter:
    """RequestHeaderModifier or ResponseHeaderModifier."""

    on: Literal["request", "response"]
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PathModifier:
    kind: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    value: str


@dataclass(frozen=True, slots=True)
class RedirectFilter:
    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status: int = 302


@dataclass(frozen=True, slots=True)
class RewriteFilter:
    hostname: str = ""
    path: PathModifier | None = None


@dataclass(frozen=True, slots=True)
class MirrorFilter:
    backend: "BackendRef"
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True)
class UnknownFilter:
    """A filter that we know of but do not serve: the rule fails with 500 and says so in status."""

    kind: str


Filter = HeaderFilter | RedirectFilter | RewriteFilter | MirrorFilter | UnknownFilter


@dataclass(frozen=True, slots=True)
class BackendRef:
    ref: ObjectRef  # defaults filled in: core group, kind Service, the route's namespace
    port: int = 0  # 0 where absent (an InferencePool needs none)
    weight: int = 1
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None where not set, 0 for no limit."""

    request: float | None = None
    backend_request: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    codes: tuple[int, ...] = ()
    attempts: int = 1
    backoff: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class HTTPRule:
    name: str = ""
    matches: tuple[HTTPMatch, ...] = (HTTPMatch(),)
    filters: tuple[Filter, ...] = ()
    backends: tuple[BackendRef, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None


@dataclass(frozen=True, slots=True)
class HTTPRoute:
    meta: Meta
    parents: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRule, ...] = (HTTPRule(),)


@dataclass(frozen=True, slots=True)
class ReferenceGrant:
    meta: Meta
    sources: tuple[tuple[str, str, str], ...]  # `from`: (group, kind, namespace)
    targets: tuple[tuple[str, str, str], ...]  # `to`: (group, kind, name or "" for all)


# --- Inference Extension ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PickerRef:
    ref: ObjectRef  # a Service, in the pool's namespace
    port: int = 0
    failure_mode: Literal["FailOpen", "FailClose"] = "FailClose"


@dataclass(frozen=True, slots=True)
class InferencePool:
    meta: Meta
    selector: Mapping[str, str]
    target_ports: tuple[int, ...]
    app_protocol: Literal["http", "kubernetes.io/h2c"] = "http"
    picker: PickerRef | None = None


@dataclass(frozen=True, slots=True)
class InferenceObjective:
    meta: Meta
    pool: ObjectRef
    priority: int = 0
    models: tuple[str, ...] = ()  # annotation penstock.dev/models: applies to these without a header


@dataclass(frozen=True, slots=True)
class RewriteRule:
    models: tuple[str, ...]  # exact names, ORed; empty: every model
    targets: tuple[tuple[str, int], ...]  # (model name, weight)


@dataclass(frozen=True, slots=True)
class InferenceModelRewrite:
    meta: Meta
    pool: ObjectRef
    rules: tuple[RewriteRule, ...]


@dataclass(frozen=True, slots=True)
class EndpointPickerConfig:
    """A document of kind EndpointPickerConfig, unread: `picker.profile` knows what it means."""

    meta: Meta
    content: Mapping[str, Any]


# --- Kubernetes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Namespace:
    meta: Meta


@dataclass(frozen=True, slots=True)
class ServicePort:
    port: int
    name: str = ""
    target: int | str = 0  # a number, or the name of a container port
    app_protocol: str = ""
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Service:
    meta: Meta
    ports: tuple[ServicePort, ...]
    type: str = "ClusterIP"
    selector: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone: str = ""
    node: str = ""
    pod: str = ""  # targetRef.name of kind Pod


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    meta: Meta
    service: str  # label kubernetes.io/service-name
    address_type: str
    ports: tuple[tuple[str, int], ...]  # (name, port)
    endpoints: tuple[SliceEndpoint, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    meta: Meta
    ip: str  # "" before the pod has one
    ready: bool
    terminating: bool = False
    node: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)  # container ports that have a name


@dataclass(frozen=True, slots=True)
class Secret:
    meta: Meta
    type: str
    data: Mapping[str, bytes]

    def __repr__(self) -> str:  # a key must never reach a log
        return f"Secret({self.meta.ref}, keys={sorted(self.data)})"


@dataclass(frozen=True, slots=True)
class ConfigMap:
    meta: Meta
    data: Mapping[str, str]


Object = (
    GatewayClass | Gateway | HTTPRoute | ReferenceGrant | InferencePool | InferenceObjective | InferenceModelRewrite
    | EndpointPickerConfig | Namespace | Service | EndpointSlice | Pod | Secret | ConfigMap
)  # fmt: skip
Kind = TypeVar("Kind", bound=Object)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything that was read, at one moment: the input of the control pipeline."""

    objects: Mapping[ObjectRef, Object] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # what could not be read

    @classmethod
    def of(cls, objects: Iterable[Object], problems: Iterable[Problem] = ()) -> "ClusterState":
        return cls({found.meta.ref: found for found in objects}, tuple(problems))

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Every object of a kind, oldest first."""
        return sorted(
            (found for found in self.objects.values() if isinstance(found, kind)), key=lambda o: o.meta.age_key
        )

    def get(self, kind: type[Kind], ref: ObjectRef) -> Kind | None:
        found = self.objects.get(ref)
        return found if isinstance(found, kind) else None
