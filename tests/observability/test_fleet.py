"""Facts of the control plane into series."""

import pytest

from observability import catalogue as c
from observability.fleet import listen, short_type
from observability.hub import Hub
from observability.registry import Registry
from tests.observability.test_record import recorded, total
from xds_server.facts import Acked, Node, Overdue, ReconcileFailed
from xds_server.kubernetes.facts import LeadershipChanged, LeaseFailed, ProvisionFailed, StatusFailed, WatchFailed
from xds_server.model.objects import ObjectRef
from xds_server.snapshot import CDS

REF = ObjectRef("gateway.networking.k8s.io", "Gateway", "ns", "gw")


@pytest.mark.parametrize(
    ("operation", "fact"),
    [
        ("watch", WatchFailed("gateways", 500, "no", 1.0)),
        ("status", StatusFailed(REF, 409, "no", 1.0)),
        ("provision", ProvisionFailed("ns/gw", 403, "no", 1.0)),
        ("lease", LeaseFailed("ns/lease", 0, "no")),
    ],
)
def test_failures_of_the_kubernetes_api_are_counted_by_operation(operation: str, fact: object) -> None:
    registry = recorded(fact, fact)
    assert total(registry, c.KUBERNETES_FAILURES_TOTAL) == 2
    assert total(registry, c.KUBERNETES_FAILURES_TOTAL, operation=operation) == 2


def test_what_never_happened_is_zero_from_the_start() -> None:
    registry = recorded()
    names = {reading.metric for reading in registry.snapshot()}
    counters = {c.XDS_NACKS_TOTAL, c.XDS_OVERDUE_TOTAL, c.RECONCILE_FAILURES_TOTAL, c.KUBERNETES_FAILURES_TOTAL}
    assert {*counters, c.XDS_ACK_DURATION_SECONDS} <= names
    assert c.LEADER not in names


def test_how_long_envoys_take_is_a_histogram() -> None:
    registry = recorded(Acked(Node(), CDS, "1", {}, 0.2), Overdue(Node(), CDS, 5.0))
    assert total(registry, c.XDS_ACK_DURATION_SECONDS, type_url="cds") == 1
    assert total(registry, c.XDS_OVERDUE_TOTAL, type_url="cds") == 1


def test_the_leader_is_one() -> None:
    registry, hub = Registry(), Hub()
    listen(hub, registry)
    for leading in (True, False, True):
        hub.tell(LeadershipChanged("ns/lease", "us", leading))
        assert total(registry, c.LEADER, lease="ns/lease") == leading


def test_our_own_mistakes_are_counted() -> None:
    assert total(recorded(ReconcileFailed("Traceback")), c.RECONCILE_FAILURES_TOTAL) == 1


def test_short_types() -> None:
    assert short_type(CDS) == "cds"
    assert short_type("type.googleapis.com/what.is.This") == "other"
