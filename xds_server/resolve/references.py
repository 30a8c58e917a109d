"""References: the one place that decides whether an object may name another one.

Every reference that leaves its namespace needs a ReferenceGrant in the namespace that it enters, and the grant is asked
before existence is, so that nobody learns what another namespace holds (Gateway API 1.7, ReferenceGrant).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from xds_server.model.objects import (
    GATEWAY_X_GROUP,
    INFERENCE_GROUP,
    ClusterState,
    ConfigMap,
    InferencePool,
    ObjectRef,
    ReferenceGrant,
    Secret,
    Service,
    XBackend,
)
from xds_server.resolve import conditions as c

Target = TypeVar("Target", covariant=True)  # noqa: PLC0105 (the name is the role)
Named = TypeVar("Named", Service, InferencePool, XBackend, Secret, ConfigMap)

SECRET = ("", "Secret")


@dataclass(frozen=True, slots=True)
class Ok(Generic[Target]):
    """What the reference names."""

    target: Target


@dataclass(frozen=True, slots=True)
class Denied:
    """Why the reference names nothing: a condition reason, and a sentence with the remedy."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Barred(Denied):
    """The reference names what it should, but a policy of that object cannot be kept: requests fail, ResolvedRefs does not.

    The policy's own status says why.
    """


class References:
    """All objects by identity, and all grants by the question that is asked of them."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._grants = frozenset(_questions(state.all(ReferenceGrant)))

    def permitted(self, source: ObjectRef, target: ObjectRef) -> bool:
        if target.namespace in ("", source.namespace):  # "": what is cluster-scoped is nobody's to grant
            return True
        asked = (source.group, source.kind, source.namespace, target.namespace, target.group, target.kind)
        return (*asked, "") in self._grants or (*asked, target.name) in self._grants

    def find(self, source: ObjectRef, target: ObjectRef, kind: type[Named], missing: str) -> Ok[Named] | Denied:
        """The object that `source` names, if it may and if it exists; `missing` is the reason when it does not."""
        if not self.permitted(source, target):
            return Denied(
                c.REF_NOT_PERMITTED,
                f"{target} is in another namespace; add a ReferenceGrant in namespace {target.namespace}"
                f" from {source.kind} of namespace {source.namespace} to {target.kind}",
            )
        found = self._state.get(kind, target)
        return Denied(missing, f"{target} does not exist") if found is None else Ok(found)

    def backend(self, source: ObjectRef, target: ObjectRef) -> Ok[Service] | Ok[InferencePool] | Ok[XBackend] | Denied:
        """The Service, InferencePool or XBackend that a route's backendRef names."""
        match (target.group, target.kind):
            case ("", "Service"):
                return self.find(source, target, Service, c.BACKEND_NOT_FOUND)
            case (group, "InferencePool") if group == INFERENCE_GROUP:
                return self.find(source, target, InferencePool, c.BACKEND_NOT_FOUND)
            case (group, "XBackend") if group == GATEWAY_X_GROUP:
                return self.find(source, target, XBackend, c.BACKEND_NOT_FOUND)
        kind = f"{target.group}/{target.kind}" if target.group else target.kind
        return Denied(
            c.INVALID_KIND, f"backends of kind {kind} are not supported; use a Service, an InferencePool or an XBackend"
        )

    def secret(self, source: ObjectRef, target: ObjectRef) -> Ok[Secret] | Denied:
        """The Secret that a listener's certificateRef names."""
        if (target.group, target.kind) != SECRET:
            return Denied(c.INVALID_CERTIFICATE_REF, f"{target.kind} cannot hold a certificate; use a core Secret")
        return self.find(source, target, Secret, c.INVALID_CERTIFICATE_REF)


def _questions(grants: Iterable[ReferenceGrant]) -> Iterable[tuple[str, ...]]:
    for grant in grants:
        for from_group, from_kind, from_namespace in grant.sources:
            for to_group, to_kind, to_name in grant.targets:
                yield from_group, from_kind, from_namespace, grant.meta.namespace, to_group, to_kind, to_name
