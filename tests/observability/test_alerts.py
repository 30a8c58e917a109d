"""Every alert fires in its scenario and is silent in all others, as Prometheus' own promtool evaluates the rules.

Scenarios are 40 minutes of a gateway that is well, but for what they name. Needs promtool (Debian: prometheus).
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from observability.dashboards.alerts import Alert, alerts
from observability.dashboards.files import RUNBOOKS

PROMTOOL = os.environ.get("PENSTOCK_PROMTOOL") or shutil.which("promtool") or ""
ROOT = Path(__file__).parents[2]
MINUTES = 40
ALERTS = {alert.name: alert for alert in alerts()}
POOL, MODEL = 'pool="ns/p"', 'model_name="m"'

Series = Mapping[str, str]  # what promtool calls values: "0+60x100" begins at 0 and grows by 60 a minute


def grows(by: float) -> str:
    return f"0+{by:g}x{MINUTES}"


def stays(value: float) -> str:
    return f"{value:g}x{MINUTES}"


def histogram(name: str, labels: str, **below: float) -> Series:
    """Cumulative counts a minute by bound, the bound written `le_0_5`."""
    comma = "," if labels else ""
    made = {}
    for bound, count in below.items():
        le = bound.removeprefix("le_").replace("_", ".").replace("inf", "+Inf")
        made[f'{name}_bucket{{{labels}{comma}le="{le}"}}'] = grows(count)
    made[f"{name}_count{{{labels}}}"] = grows(max(below.values()))
    return made


def ttft(late: float) -> Series:
    return histogram("penstock_time_to_first_token_seconds", f'{POOL},streaming="true"', le_2_0=600 - late, le_inf=600)


REQUESTS = f'penstock_requests_total{{{POOL},priority="0"}}'
HEALTHY: Series = {
    'penstock_build_info{version="1"}': stays(1),
    f'penstock_pool_endpoints{{{POOL},state="ready"}}': stays(3),
    f'penstock_pool_endpoints{{{POOL},state="stale"}}': stays(0),
    f"penstock_pool_saturation{{{POOL}}}": stays(0.5),
    f'penstock_endpoint_resting{{{POOL},endpoint="a:1"}}': stays(0),
    f'penstock_endpoint_kv_cache_utilization{{{POOL},endpoint="a:1"}}': stays(0.3),
    f'penstock_endpoint_kv_cache_utilization{{{POOL},endpoint="b:1"}}': stays(0.4),
    REQUESTS: grows(600),
    f'penstock_tokens_total{{{POOL},type="input"}}': grows(60_000),
    f'penstock_prefix_prediction_error_tokens_sum{{{POOL},direction="over"}}': grows(600),
    f"penstock_missing_usage_total{{{POOL}}}": grows(0),
    f'penstock_stream_aborts_total{{{POOL},by="upstream"}}': grows(0),
    **ttft(0),
    **histogram(
        "penstock_gateway_queue_duration_seconds", f'{POOL},outcome="dispatched"', le_0_1=9, le_10_0=10, le_inf=10
    ),
    **histogram("penstock_schedule_duration_seconds", POOL, le_0_001=600, le_0_01=600, le_0_025=600, le_inf=600),
    **histogram("penstock_loop_lag_seconds", "", le_0_001=120, le_0_1=120, le_0_25=120, le_1_0=120, le_inf=120),
    **histogram("penstock_xds_ack_duration_seconds", 'type_url="cds"', le_0_1=4, le_5_0=4, le_10_0=4, le_inf=4),
    'penstock_xds_clients{state="synced"}': stays(2),
    'penstock_xds_clients{state="rejecting"}': stays(0),
    'penstock_xds_clients{state="degraded"}': stays(0),
    "penstock_xds_connected_clients": stays(2),
    "penstock_reconcile_failures_total": stays(0),
    'penstock_kubernetes_failures_total{operation="watch"}': grows(0),
    'penstock_leader{lease="ns/l"}': stays(1),
    "penstock_log_records_dropped_total": stays(0),
    'penstock_label_overflow_total{label="model_name"}': stays(0),
}


def errors(a_minute: float, reason: str = "upstream_5xx", kind: str = "server", priority: str = "0") -> Series:
    series = f'penstock_request_errors_total{{{POOL},class="{kind}",reason="{reason}",priority="{priority}"}}'
    return {series: grows(a_minute)}


def once(series: str) -> Series:
    """A counter that grew by one, eight minutes before the end."""
    return {series: f"0x{MINUTES - 9} 1x8"}


OF_POOL = {"pool": "ns/p"}
BURNS = {name: OF_POOL for name in ALERTS if name.startswith("PenstockAvailability")}
SLOW = dict.fromkeys(("PenstockAvailabilitySlowBurn", "PenstockAvailabilityCreepingBurn"), OF_POOL)
LATE = {name: OF_POOL for name in ALERTS if name.startswith("PenstockTTFT")}
# Name -> what differs from a healthy gateway, and who then fires, with which labels.
SCENARIOS: dict[str, tuple[Series, Mapping[str, Mapping[str, str]]]] = {
    "all is well": ({}, {}),
    "mistakes of clients are theirs": (errors(300, "bad_request", "client"), {}),
    "clients that leave are no outage": (errors(300, "client_cancelled", "cancelled"), {}),
    "batch work is turned away": (errors(300, "shed_priority", "shed", "-1"), {}),
    "2 % fail": (errors(12), BURNS),
    "1 % fails": (errors(6), {**SLOW, "PenstockAvailabilityQuickBurn": OF_POOL}),
    "0.4 % fail": (errors(2.4), SLOW),
    "0.2 % fail": (errors(1.2), {"PenstockAvailabilityCreepingBurn": OF_POOL}),
    "a burst of failures that is over": (
        {next(iter(errors(0))): f"0+600x6 3600x{MINUTES - 7}"},
        dict.fromkeys(("PenstockAvailabilitySlowBurn", "PenstockAvailabilityCreepingBurn"), OF_POOL),
    ),
    "one of three requests fails, but there are only three": (
        {REQUESTS: f"0x{MINUTES - 2} 1 2 3", next(iter(errors(0))): f"0x{MINUTES} 1"},
        {},
    ),
    "most streams are late": (ttft(400), LATE),
    "a third of the streams is late": (
        ttft(200),
        {name: OF_POOL for name in LATE if not name.endswith("FastBurn")},
    ),
    "no endpoint": (
        {f'penstock_pool_endpoints{{{POOL},state="ready"}}': stays(0)},
        {"PenstockNoReadyEndpoints": OF_POOL},
    ),
    "the pool is gone": (
        {series: f"{HEALTHY[series].split('x')[0]}x{MINUTES - 10} stale" for series in HEALTHY if "pool_endpoints" in series},
        {"PenstockPoolGone": OF_POOL},
    ),
    "old figures": (
        {f'penstock_pool_endpoints{{{POOL},state="stale"}}': stays(1)},
        {"PenstockEndpointsStale": OF_POOL},
    ),
    "a server that fails": (
        {f'penstock_endpoint_resting{{{POOL},endpoint="a:1"}}': " ".join(["1 0"] * (MINUTES // 2))},
        {"PenstockEndpointFails": {**OF_POOL, "endpoint": "a:1"}},
    ),
    "no picker": (
        errors(0.3, "picker_unavailable"),
        {"PenstockPickerUnavailable": OF_POOL},
    ),
    "streams are cut": (
        {f'penstock_stream_aborts_total{{{POOL},by="upstream"}}': grows(12)},
        {"PenstockStreamsAborted": OF_POOL},
    ),
    "uneven caches": (
        {f'penstock_endpoint_kv_cache_utilization{{{POOL},endpoint="b:1"}}': stays(0.9)},
        {"PenstockCachesUneven": OF_POOL},
    ),
    "a full pool": ({f"penstock_pool_saturation{{{POOL}}}": stays(1.4)}, {"PenstockPoolSaturated": OF_POOL}),
    "an empty pool is not full": ({f"penstock_pool_saturation{{{POOL}}}": stays(1.0)}, {}),
    "long waits": (
        histogram("penstock_gateway_queue_duration_seconds", f'{POOL},outcome="dispatched"', le_0_1=1, le_10_0=2, le_20_0=10, le_inf=10),
        {"PenstockQueueSlow": OF_POOL},
    ),
    "requests are turned away": (errors(60, "queue_full", "shed"), {"PenstockRequestsShed": OF_POOL}),
    "no usage": ({f"penstock_missing_usage_total{{{POOL}}}": grows(60)}, {"PenstockUsageMissing": OF_POOL}),
    "wrong predictions": (
        {f'penstock_prefix_prediction_error_tokens_sum{{{POOL},direction="over"}}': grows(30_000)},
        {"PenstockPrefixMispredicted": OF_POOL},
    ),
    "a NACK": ({'penstock_xds_clients{state="rejecting"}': stays(1)}, {"PenstockEnvoyRejects": {}}),
    "a silent Envoy": ({'penstock_xds_clients{state="degraded"}': stays(1)}, {"PenstockEnvoySilent": {}}),
    "no Envoy": ({"penstock_xds_connected_clients": stays(0)}, {"PenstockNoEnvoy": {}}),
    "slow Envoys": (
        histogram("penstock_xds_ack_duration_seconds", 'type_url="cds"', le_0_1=1, le_5_0=2, le_10_0=4, le_inf=4),
        {"PenstockConfigSlow": {}},
    ),
    "an object with a mistake": (
        {'penstock_objects_invalid{kind="HTTPRoute"}': stays(1)},
        {"PenstockObjectsInvalid": {"kind": "HTTPRoute"}},
    ),
    "a mistake of ours": (once("penstock_reconcile_failures_total"), {"PenstockReconcileFails": {}}),
    "the API server refuses": (
        {'penstock_kubernetes_failures_total{operation="watch"}': grows(12)},
        {"PenstockKubernetesFails": {"operation": "watch"}},
    ),
    "nobody leads": ({'penstock_leader{lease="ns/l"}': stays(0)}, {"PenstockNoLeader": {"lease": "ns/l"}}),
    "nothing is told": ({'penstock_build_info{version="1"}': f"1x{MINUTES - 10} stale"}, {"PenstockDown": {}}),
    "a busy loop": (
        histogram("penstock_loop_lag_seconds", "", le_0_001=60, le_0_1=80, le_0_25=120, le_1_0=120, le_inf=120),
        {"PenstockLoopLag": {}},
    ),
    "slow decisions": (
        histogram("penstock_schedule_duration_seconds", POOL, le_0_001=500, le_0_01=500, le_0_025=600, le_inf=600),
        {"PenstockDecisionsSlow": OF_POOL},
    ),
    "log lines are lost": (once("penstock_log_records_dropped_total"), {"PenstockLogDrops": {}}),
    "ends are lost": (errors(0.3, "lost"), {"PenstockOutcomesLost": OF_POOL}),
    "telemetry is not written": (
        {'penstock_export_errors_total{door="otlp",signal="metrics",reason="unavailable"}': grows(5)},
        {"PenstockExportFails": {"door": "otlp", "signal": "metrics", "reason": "unavailable"}},
    ),
    "autoscalers get errors": (
        {'penstock_autoscale_served_total{api="keda",result="unknown"}': grows(4)},
        {"PenstockAutoscalerBlind": {"api": "keda"}},
    ),
    "events that are not believed": (
        {f'penstock_prefix_trust_ratio{{{POOL},endpoint="a:1"}}': stays(0.2)},
        {"PenstockEventsDisbelieved": {**OF_POOL, "endpoint": "a:1"}},
    ),
    "invented names": (
        once('penstock_label_overflow_total{label="model_name"}'),
        {"PenstockNamesOverflow": {"label": "model_name"}},
    ),
}  # fmt: skip


def expected(alert: Alert, fires: Mapping[str, Mapping[str, str]]) -> list[dict[str, object]]:
    if alert.name not in fires:
        return []
    notes = {"summary": alert.summary, "runbook_url": f"{RUNBOOKS}/{alert.runbook}"}
    return [{"exp_labels": {"severity": alert.severity, **fires[alert.name]}, "exp_annotations": notes}]


def test_every_alert_has_a_scenario_in_which_it_fires() -> None:
    assert {name for _, fires in SCENARIOS.values() for name in fires} == ALERTS.keys()


@pytest.mark.skipif(
    not PROMTOOL, reason="promtool is not installed (PENSTOCK_PROMTOOL; Debian: apt install prometheus)"
)
def test_alerts_fire_in_their_scenarios_and_are_silent_otherwise(tmp_path: Path) -> None:
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": each, "values": value} for each, value in {**HEALTHY, **changed}.items()],
            "alert_rule_test": [
                {"eval_time": f"{MINUTES}m", "alertname": alert.name, "exp_alerts": expected(alert, fires)}
                for alert in ALERTS.values()
            ],
        }
        for name, (changed, fires) in SCENARIOS.items()
    ]
    file = tmp_path / "alerts.test.yaml"
    rules = str(ROOT / "dashboards/rules.prometheus.yaml")
    YAML().dump({"rule_files": [rules], "evaluation_interval": "2m", "tests": tests}, file)
    done = subprocess.run(
        [PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(
    not PROMTOOL, reason="promtool is not installed (PENSTOCK_PROMTOOL; Debian: apt install prometheus)"
)
def test_prometheus_takes_the_rules() -> None:
    command = [PROMTOOL, "check", "rules", str(ROOT / "dashboards/rules.prometheus.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
