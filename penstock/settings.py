"""What `penstock run` is told: a value per concern, the unit and the reason under each field."""

from dataclasses import dataclass, field
from pathlib import Path

from picker.trace import Tracing
from xds_server.bootstrap import Trust
from xds_server.infrastructure import Infrastructure
from xds_server.reconcile import Pace
from xds_server.translate import DataPlane


@dataclass(frozen=True, slots=True)
class Listen:
    """Where the data plane listens."""

    address: str = "127.0.0.1"  # of every listener; what is open to the network is opened on purpose
    binds: tuple[tuple[int, str, int], ...] = ()  # (listener port, address, port): e.g. 80 on 8080 without root


@dataclass(frozen=True, slots=True)
class Proxy:
    """The Envoy that is started here, if any."""

    start: bool = True
    workers: int = 0  # 0: one per processor
    admin: str = "127.0.0.1:19000"  # "" for a socket in the run's folder: nothing else on this machine sees it


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The cluster to serve, and who we are in it."""

    namespace: str = "penstock-system"  # ours: the Lease and our authority are kept there
    service: str = "penstock"  # ours: Envoys find xDS by its name
    identity: str = ""  # of this process among the replicas
    address: str = "127.0.0.1"  # of this replica: its Envoys ask its own picker, which knows what it decided
    xds_port: int = 18000
    picker_port: int = 9002
    watch: tuple[str, ...] = ()  # namespaces; empty for all
    kubeconfig: str = ""
    context: str = ""
    provision: bool = True  # make Envoys for each Gateway; else they are there already
    infrastructure: Infrastructure = Infrastructure(xds="", server_name="", authority="")

    @property
    def replicas(self) -> str:
        """The headless Service of all replicas that are ready; where there is none, no picker stands in for another."""
        return f"{self.service}-replicas.{self.namespace}.svc"


@dataclass(frozen=True, slots=True)
class Export:
    """Where telemetry is written to; /metrics is read, and needs none of this."""

    doors: tuple[str, ...] = ()  # of penstock.export.DOORS
    period: float = 60.0  # seconds between two points of a metric
    tracing: Tracing = Tracing()
    project: str = ""  # Google Cloud; what is "" here is asked of the machine
    location: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """Where autoscalers ask, "host:port" each; "" where they do not."""

    external_metrics: str = ""  # the aggregated API external.metrics.k8s.io; in a cluster only
    scaler: str = ""  # KEDA's external scaler
    scaler_tls: bool = False  # with a certificate of our authority; in a cluster only

    @property
    def addresses(self) -> str:
        return ", ".join(filter(None, (self.scaler, self.external_metrics)))


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses are "host:port" or "unix:PATH"."""

    manifests: Path | None = None  # a directory, or
    kubernetes: Kubernetes | None = None  # a cluster
    listen: Listen = Listen()
    proxy: Proxy = Proxy()
    xds: tuple[str, ...] = ()  # more addresses for Envoys elsewhere; ours uses a unix socket
    picker: str = ""  # where those Envoys reach the picker and the access log; "" where there are none
    telemetry: str = "127.0.0.1:9090"  # /metrics, /status, /console, /autoscale, /readyz
    metric_aliases: tuple[str, ...] = ()  # families of names, see observability/aliases.py
    autoscaling: Autoscaling = Autoscaling()
    request_log: str = ""  # a file, "-" for standard output, "" for none
    request_log_rate: float = 1.0  # of the successes; errors are always logged
    decisions: str = ""  # the log of decision records: a file, "-" for standard output, "" for none
    decisions_rate: float = 0.01  # of the decisions that are recorded unasked, and at least one a second; 0: none
    explain: bool = False  # clients may ask for the record of their request
    export: Export = Export()
    max_body: int = 32 << 20  # bytes
    picker_timeout: float = 2.0  # seconds, then the pool's failureMode decides
    scorers: Path | None = None  # a directory of the user's own
    poll: float = 0.25  # seconds between two looks at the manifests
    pace: Pace = field(default_factory=Pace)

    def plane(self, folder: Path, trust: Trust | None = None) -> DataPlane:
        """The data plane of these settings; `folder` has the sockets that our own Envoy uses, `trust` is for those elsewhere."""
        if self.kubernetes:
            return DataPlane(
                picker=f"{self.kubernetes.address}:{self.kubernetes.picker_port}",
                picker_standby=f"{self.kubernetes.replicas}:{self.kubernetes.picker_port}",
                instance=self.kubernetes.identity,
                picker_timeout=self.picker_timeout,
                max_body=self.max_body,
                explain=self.explain,
                trust=trust,
            )
        return DataPlane(
            bind=self.listen.address,
            binds=self.listen.binds,
            picker=self.picker or f"unix:{folder / 'picker.sock'}",
            picker_timeout=self.picker_timeout,
            max_body=self.max_body,
            explain=self.explain,
        )
