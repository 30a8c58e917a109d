"""The report: what of the fleet becomes metrics."""

import pytest

from observability import catalogue
from penstock.report import Report, _proxy
from picker.picker import Picker
from picker.signals import Signals
from xds_server.facts import Node, NodeStatus, State, TypeStatus
from xds_server.latest import Latest


def envoy(*states: State, degraded: bool = False) -> NodeStatus:
    return NodeStatus(Node(), True, degraded, tuple(TypeStatus("", state, "", 1, {}) for state in states))


@pytest.mark.parametrize(
    ("proxy", "state"),
    [
        (envoy("ACKED", "ACKED"), "synced"),
        (envoy(), "synced"),
        (envoy("ACKED", "PENDING"), "pending"),
        (envoy("PENDING", degraded=True), "degraded"),
        (envoy("PENDING", "NACKED", degraded=True), "rejecting"),
    ],
)
def test_an_envoy_is_in_the_worst_of_its_states(proxy: NodeStatus, state: str) -> None:
    signals = Signals()
    report = Report(Latest(), Latest(), Picker(signals), signals)
    report.proxies = [proxy, envoy("ACKED")]
    found = {each.labels["state"]: each.value for each in report.samples() if each.metric is catalogue.XDS_CLIENTS}
    expected = dict.fromkeys(catalogue.CLIENT_STATE.values, 0)
    expected["synced"] += 1
    expected[state] += 1
    assert found == expected
    assert _proxy(proxy)["state"] == state  # the console says the same
