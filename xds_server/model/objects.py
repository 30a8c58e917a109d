"""The Kubernetes objects that we read, parsed: frozen, keeping only what can change the gateway.

Sources: Gateway API 1.7 (`gateway.networking.k8s.io/v1`), Gateway API Inference Extension 1.6
(`inference.networking.k8s.io/v1`; objectives and rewrites also as `llm-d.ai/v1alpha2` and
`inference.networking.x-k8s.io/v1alpha2`), Kubernetes core and discovery. `parse` makes them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xds_server.model.core import (
    ClusterTrustBundle,
    ConfigMap,
    EndpointSlice,
    Namespace,
    Pod,
    Secret,
    Service,
    ServicePort,
    SliceEndpoint,
)
from xds_server.model.gateway import (
    AllowedListeners,
    AllowedRoutes,
    ClientValidation,
    Gateway,
    GatewayClass,
    GatewayTLS,
    Listener,
    ListenerSet,
    ListenerTLS,
    ReferenceGrant,
)
from xds_server.model.inference import (
    EndpointPickerConfig,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    PickerRef,
    RewriteRule,
)
from xds_server.model.meta import (
    GATEWAY_GROUP,
    GATEWAY_X_GROUP,
    INFERENCE_GROUP,
    INFERENCE_X_GROUP,
    LLM_D_GROUP,
    LabelSelector,
    Meta,
)
from xds_server.model.policy import (
    BackendTLSPolicy,
    PolicyTarget,
    RetryConstraint,
    TLSValidation,
    TraceAttribute,
    XBackend,
    XBackendTrafficPolicy,
    XTelemetryPolicy,
)
from xds_server.model.problem import InvalidObject, ObjectRef, Problem
from xds_server.model.route import (
    AnyRoute,
    BackendRef,
    CORSFilter,
    ExternalAuthFilter,
    Filter,
    GRPCRoute,
    HeaderFilter,
    HTTPMatch,
    HTTPRoute,
    HTTPRule,
    MirrorFilter,
    ParentRef,
    PathMatch,
    PathModifier,
    RedirectFilter,
    Retry,
    RewriteFilter,
    SessionPersistence,
    StreamRoute,
    TCPRoute,
    Timeouts,
    TLSRoute,
    UDPRoute,
    UnknownFilter,
    ValueMatch,
)

__all__ = [
    "GATEWAY_GROUP",
    "GATEWAY_X_GROUP",
    "INFERENCE_GROUP",
    "INFERENCE_X_GROUP",
    "LLM_D_GROUP",
    "AllowedListeners",
    "AllowedRoutes",
    "AnyRoute",
    "BackendRef",
    "BackendTLSPolicy",
    "CORSFilter",
    "ClientValidation",
    "ClusterState",
    "ClusterTrustBundle",
    "ConfigMap",
    "EndpointPickerConfig",
    "EndpointSlice",
    "ExternalAuthFilter",
    "Filter",
    "GRPCRoute",
    "Gateway",
    "GatewayClass",
    "GatewayTLS",
    "HTTPMatch",
    "HTTPRoute",
    "HTTPRule",
    "HeaderFilter",
    "InferenceModelRewrite",
    "InferenceObjective",
    "InferencePool",
    "InvalidObject",
    "Kind",
    "LabelSelector",
    "Listener",
    "ListenerSet",
    "ListenerTLS",
    "Meta",
    "MirrorFilter",
    "Namespace",
    "Object",
    "ObjectRef",
    "ParentRef",
    "PathMatch",
    "PathModifier",
    "PickerRef",
    "Pod",
    "PolicyTarget",
    "Problem",
    "RedirectFilter",
    "ReferenceGrant",
    "Retry",
    "RetryConstraint",
    "RewriteFilter",
    "RewriteRule",
    "Secret",
    "Service",
    "ServicePort",
    "SessionPersistence",
    "SliceEndpoint",
    "StreamRoute",
    "TCPRoute",
    "TLSRoute",
    "TLSValidation",
    "Timeouts",
    "TraceAttribute",
    "UDPRoute",
    "UnknownFilter",
    "ValueMatch",
    "XBackend",
    "XBackendTrafficPolicy",
    "XTelemetryPolicy",
]

Object = (
    GatewayClass | Gateway | ListenerSet | HTTPRoute | GRPCRoute | TLSRoute | TCPRoute | UDPRoute | StreamRoute
    | ReferenceGrant | BackendTLSPolicy | XBackend | XBackendTrafficPolicy | XTelemetryPolicy
    | InferencePool | InferenceObjective | InferenceModelRewrite | EndpointPickerConfig
    | Namespace | Service | EndpointSlice | Pod | Secret | ConfigMap | ClusterTrustBundle
)  # fmt: skip
Kind = TypeVar("Kind", bound=Object)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything that was read, at one moment: the input of the control pipeline."""

    objects: Mapping[ObjectRef, Object] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()  # what could not be read
    _kinds: dict[type, list[Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # made when asked

    @classmethod
    def of(cls, objects: Iterable[Object], problems: Iterable[Problem] = ()) -> "ClusterState":
        return cls({found.meta.ref: found for found in objects}, tuple(problems))

    def all(self, kind: type[Kind]) -> list[Kind]:
        """Every object of a kind, oldest first."""
        if not self._kinds:  # one look at everything, however many kinds are asked for
            kinds = defaultdict(list)
            for found in self.objects.values():
                kinds[type(found)].append(found)
            self._kinds.update(kinds)
        held = [found for made, all_ in self._kinds.items() if issubclass(made, kind) for found in all_]
        return sorted(held, key=lambda found: found.meta.age_key)

    def get(self, kind: type[Kind], ref: ObjectRef) -> Kind | None:
        found = self.objects.get(ref)
        return found if isinstance(found, kind) else None
