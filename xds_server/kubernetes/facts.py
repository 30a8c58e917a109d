"""What the Kubernetes shells report: plain frozen values, for observability."""

from dataclasses import dataclass

from xds_server.model.objects import ObjectRef


@dataclass(frozen=True, slots=True)
class Listed:
    """A resource was read in whole; `relist` where it was known before."""

    resource: str  # "httproutes.gateway.networking.k8s.io"
    objects: int
    seconds: float
    relist: bool


@dataclass(frozen=True, slots=True)
class WatchFailed:
    """A list or watch ended with an error; it is tried again after `delay` seconds, with what is known kept."""

    resource: str
    code: int  # HTTP's; 0: not reached
    message: str
    delay: float


@dataclass(frozen=True, slots=True)
class KindsChanged:
    """What the cluster serves of what we read."""

    served: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StatusWritten:
    ref: ObjectRef
    seconds: float  # of the request


@dataclass(frozen=True, slots=True)
class StatusFailed:
    """Tried again after `delay` seconds."""

    ref: ObjectRef
    code: int
    message: str
    delay: float


@dataclass(frozen=True, slots=True)
class LeadershipChanged:
    lease: str  # "namespace/name"
    identity: str  # ours
    leading: bool


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    lease: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The Envoys of a Gateway are as they should be: something had to be applied."""

    fleet: str
    objects: int


@dataclass(frozen=True, slots=True)
class ProvisionFailed:
    """Tried again after `delay` seconds."""

    fleet: str
    code: int
    message: str
    delay: float
