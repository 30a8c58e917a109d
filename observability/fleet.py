"""Facts of the control plane into series: what Envoys were sent and took, what the Kubernetes API refused, our own mistakes."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from observability import catalogue as c
from observability.registry import Counter, Family, Registry
from xds_server.facts import Acked
from xds_server.kubernetes.facts import LeadershipChanged

Handler = Callable[..., None]
_SHORT: Mapping[str, str] = MappingProxyType(
    {"Cluster": "cds", "ClusterLoadAssignment": "eds", "Listener": "lds", "RouteConfiguration": "rds", "Secret": "sds"}
)
# The facts of calls that failed, by the name of their class.
_FAILED: Mapping[str, str] = MappingProxyType(
    {"WatchFailed": "watch", "StatusFailed": "status", "ProvisionFailed": "provision", "LeaseFailed": "lease"}
)


def short_type(type_url: str) -> str:
    """`type.googleapis.com/envoy.config.cluster.v3.Cluster` -> `cds`."""
    return _SHORT.get(type_url.rpartition(".")[2], "other")


def handlers(registry: Registry) -> dict[str, Handler]:
    """By the name of the fact's class. Every series whose labels are known is there from the start, at 0."""
    clients = registry.gauge(c.XDS_CONNECTED_CLIENTS).bind()
    failures = registry.counter(c.KUBERNETES_FAILURES_TOTAL)
    failed = {name: failures.bind(operation=operation).inc for name, operation in _FAILED.items()}
    ours = registry.counter(c.RECONCILE_FAILURES_TOTAL).bind().inc
    acks = _counting(registry.counter(c.XDS_ACKS_TOTAL))
    durations = registry.histogram(c.XDS_ACK_DURATION_SECONDS)
    seconds = {name: durations.bind(type_url=name).observe for name in c.XDS_TYPES}
    leader = registry.gauge(c.LEADER)

    def acked(fact: Acked) -> None:
        acks(fact)
        seconds[short_type(fact.type_url)](fact.seconds)

    def leads(fact: LeadershipChanged) -> None:
        leader.bind(lease=fact.lease).set(1 if fact.leading else 0)

    return {
        "Pushed": _counting(registry.counter(c.XDS_PUSHES_TOTAL)),
        "Acked": acked,
        "Nacked": _counting(registry.counter(c.XDS_NACKS_TOTAL)),
        "Overdue": _counting(registry.counter(c.XDS_OVERDUE_TOTAL)),
        "Connected": lambda _fact: clients.inc(),
        "Disconnected": lambda _fact: clients.inc(-1),
        "ReconcileFailed": lambda _fact: ours(),
        "LeadershipChanged": leads,
        **{name: _ignoring(count) for name, count in failed.items()},
    }


def _ignoring(count: Callable[[], None]) -> Handler:
    return lambda _fact: count()


def _counting(family: Family[Counter]) -> Handler:
    """A handler for facts that carry a `type_url`."""
    series = {name: family.bind(type_url=name) for name in c.XDS_TYPES}

    def count(fact: object) -> None:
        series[short_type(getattr(fact, "type_url", ""))].inc()

    return count
