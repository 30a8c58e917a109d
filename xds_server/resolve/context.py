"""What every stage of `resolve` may ask: the cluster's objects by the questions that are asked of them, built once.

A route is resolved by functions of (route, Context), so that a later incremental path can cache them per route.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from xds_server.infrastructure import NAME_LABEL
from xds_server.model.objects import (
    BackendTLSPolicy,
    ClusterState,
    EndpointSlice,
    InferenceModelRewrite,
    Namespace,
    ObjectRef,
    Pod,
    Problem,
    Service,
    XBackendTrafficPolicy,
    XTelemetryPolicy,
)
from xds_server.resolve.references import References


@dataclass(frozen=True, slots=True)
class Setting:
    """What resolution must know that no object says."""

    per_gateway: bool = False  # a fleet of Envoys for each Gateway, reached by its Service; else one for all of them
    colocated_picker: bool = True  # the picker of this process serves InferencePools
    foreign_pickers: bool = False  # an endpointPickerRef is honoured; else the co-located picker serves its pool too
    addresses: tuple[tuple[str, str], ...] = ()  # (type, value) of where the fleet is reached; empty where nobody knows


MERGED = Setting()  # as for a directory of manifests
IN_CLUSTER = Setting(per_gateway=True, foreign_pickers=True)


@dataclass(frozen=True)
class Context:
    """The indexes are lazy: a cluster without pools never pays for its pods."""

    state: ClusterState
    setting: Setting = MERGED

    @cached_property
    def references(self) -> References:
        return References(self.state)

    @cached_property
    def namespace_labels(self) -> Mapping[str, Mapping[str, str]]:
        return {found.meta.ref.name: found.meta.labels for found in self.state.all(Namespace)}

    def labels_of(self, namespace: str) -> Mapping[str, str]:
        """A namespace's labels; the name is always one of them, also where manifests hold no Namespace object."""
        return {"kubernetes.io/metadata.name": namespace} | dict(self.namespace_labels.get(namespace, {}))

    @cached_property
    def slices(self) -> Mapping[tuple[str, str], list[EndpointSlice]]:
        """EndpointSlices by (namespace, Service name)."""
        found: dict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
        for each in self.state.all(EndpointSlice):
            found[each.meta.namespace, each.service].append(each)
        return found

    @cached_property
    def fleet_services(self) -> Mapping[tuple[str, str], list[Service]]:
        """Services by (namespace, the Gateway that their label names): they lead to its Envoys."""
        found: dict[tuple[str, str], list[Service]] = defaultdict(list)
        for each in self.state.all(Service):
            if name := each.meta.labels.get(NAME_LABEL):
                found[each.meta.namespace, name].append(each)
        return found

    @cached_property
    def _labelled_pods(self) -> Mapping[tuple[str, str, str], list[Pod]]:
        found: dict[tuple[str, str, str], list[Pod]] = defaultdict(list)
        for pod in self.state.all(Pod):
            for key, value in pod.meta.labels.items():
                found[pod.meta.namespace, key, value].append(pod)
        return found

    @cached_property
    def _labelled_slices(self) -> Mapping[tuple[str, str, str], list[EndpointSlice]]:
        found: dict[tuple[str, str, str], list[EndpointSlice]] = defaultdict(list)
        for each in self.state.all(EndpointSlice):
            for key, value in each.meta.labels.items():
                found[each.meta.namespace, key, value].append(each)
        return found

    def pods(self, namespace: str, selector: Mapping[str, str]) -> list[Pod]:
        """Pods that have all these labels; an empty selector selects none, as it does for a Service."""
        if not selector:
            return []
        candidates = min((self._labelled_pods.get((namespace, *label), []) for label in selector.items()), key=len)
        return [pod for pod in candidates if selector.items() <= pod.meta.labels.items()]

    def selected_slices(self, namespace: str, selector: Mapping[str, str]) -> list[EndpointSlice]:
        if not selector:
            return []
        candidates = min((self._labelled_slices.get((namespace, *label), []) for label in selector.items()), key=len)
        return [each for each in candidates if selector.items() <= each.meta.labels.items()]

    @cached_property
    def tls_policies(self) -> Mapping[tuple[ObjectRef, str], BackendTLSPolicy]:
        """By (target, section): the oldest takes precedence, whether it is valid or not."""
        found: dict[tuple[ObjectRef, str], BackendTLSPolicy] = {}
        for policy in self.state.all(BackendTLSPolicy):
            for target in policy.targets:
                found.setdefault((target.ref, target.section), policy)
        return found

    @cached_property
    def traffic_policies(self) -> Mapping[ObjectRef, XBackendTrafficPolicy]:
        found: dict[ObjectRef, XBackendTrafficPolicy] = {}
        for policy in self.state.all(XBackendTrafficPolicy):
            for target in policy.targets:
                found.setdefault(target.ref, policy)
        return found

    @cached_property
    def rewrites(self) -> Mapping[ObjectRef, list[InferenceModelRewrite]]:
        """By pool, whether it exists or not; oldest first."""
        found: dict[ObjectRef, list[InferenceModelRewrite]] = defaultdict(list)
        for each in self.state.all(InferenceModelRewrite):
            found[each.pool].append(each)
        return found

    @cached_property
    def telemetry_policies(self) -> Mapping[ObjectRef, XTelemetryPolicy]:
        found: dict[ObjectRef, XTelemetryPolicy] = {}
        for policy in self.state.all(XTelemetryPolicy):
            for target in policy.targets:
                found.setdefault(target.ref, policy)
        return found


def problem_order(problem: Problem) -> tuple[str, str, str, str]:
    return (str(problem.ref), problem.field, problem.reason, problem.message)
