"""What Kubernetes itself has, parsed: of each, what can change the gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xds_server.model.meta import Meta


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
    cluster_ip: str = ""  # "" for none, also of a headless Service
    addresses: tuple[tuple[str, str], ...] = ()  # (IPAddress|Hostname, value): externalIPs, then status.loadBalancer


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
    host: str = ""  # address of its node


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


@dataclass(frozen=True, slots=True)
class ClusterTrustBundle:
    """certificates.k8s.io/v1beta1."""

    meta: Meta
    authorities: str  # PEM
