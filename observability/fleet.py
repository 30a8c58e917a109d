"""Facts of the control plane into series: what Envoys were sent and took, what the Kubernetes API refused, our own mistakes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from observability import catalogue as c
from observability.hub import Hub
from observability.registry import Counter, Family, Registry
from xds_server.facts import Acked, Connected, Disconnected, Nacked, Overdue, Pushed, ReconcileFailed
from xds_server.kubernetes.facts import LeadershipChanged, LeaseFailed, ProvisionFailed, StatusFailed, WatchFailed

_SHORT: Mapping[str, str] = MappingProxyType(
    {"Cluster": "cds", "ClusterLoadAssignment": "eds", "Listener": "lds", "RouteConfiguration": "rds", "Secret": "sds"}
)
_Typed = Pushed | Acked | Nacked | Overdue
_COUNTED: tuple[tuple[type[_Typed], c.Metric], ...] = (
    (Pushed, c.XDS_PUSHES_TOTAL),
    (Acked, c.XDS_ACKS_TOTAL),
    (Nacked, c.XDS_NACKS_TOTAL),
    (Overdue, c.XDS_OVERDUE_TOTAL),
)
# Calls that failed, by what they were for.
_FAILED: tuple[tuple[type, str], ...] = (
    (WatchFailed, "watch"),
    (StatusFailed, "status"),
    (ProvisionFailed, "provision"),
    (LeaseFailed, "lease"),
)


def short_type(type_url: str) -> str:
    """`type.googleapis.com/envoy.config.cluster.v3.Cluster` -> `cds`."""
    return _SHORT.get(type_url.rpartition(".")[2], "other")


def listen(hub: Hub, registry: Registry) -> None:
    """Every series whose labels are known is there from the start, at 0."""
    clients = registry.gauge(c.XDS_CONNECTED_CLIENTS).bind()
    failures = registry.counter(c.KUBERNETES_FAILURES_TOTAL)
    mistakes = registry.counter(c.RECONCILE_FAILURES_TOTAL).bind()
    durations = registry.histogram(c.XDS_ACK_DURATION_SECONDS)
    seconds = {name: durations.bind(type_url=name).observe for name in c.XDS_TYPES}
    leader = registry.gauge(c.LEADER)
    for kind, metric in _COUNTED:
        hub.on(kind, _counting(registry.counter(metric)))
    for failed, operation in _FAILED:
        hub.on(failed, _ignoring(failures.bind(operation=operation).inc))
    hub.on(Acked, lambda fact: seconds[short_type(fact.type_url)](fact.seconds))
    hub.on(Connected, lambda _: clients.inc())
    hub.on(Disconnected, lambda _: clients.inc(-1))
    hub.on(ReconcileFailed, lambda _: mistakes.inc())
    hub.on(LeadershipChanged, lambda fact: leader.bind(lease=fact.lease).set(1 if fact.leading else 0))


def _ignoring(count: Callable[[], None]) -> Callable[[object], None]:
    return lambda _: count()


def _counting(family: Family[Counter]) -> Callable[[_Typed], None]:
    series = {name: family.bind(type_url=name) for name in c.XDS_TYPES}
    return lambda fact: series[short_type(fact.type_url)].inc()
