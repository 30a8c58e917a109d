"""Manifests: every metric and label in them exists, they say what is meant, and the published ones are those that are generated."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from observability.autoscaling import keda_messages as m
from observability.autoscaling.keda import trigger
from observability.autoscaling.manifests import (
    EXAMPLES,
    KINDS,
    CannotScale,
    Wanted,
    example,
    manifests,
    quantity,
    query,
    render,
)
from observability.autoscaling.signals import BACKLOG, BY_METRIC, DESIRED, INFLIGHT, QUEUE, SATURATION, SIGNALS
from observability.catalogue import METRICS, series_names
from observability.queries import check
from picker.load import ENGINES
from tests.picker.test_load import VLLM

FOLDER = Path(__file__).parents[3] / "deploy" / "autoscaling"
SERIES = {name: metric for metric in METRICS.values() for name in series_names(metric)}


def wanted(**given: Any) -> Wanted:
    return Wanted(**{"namespace": "ns", "pool": "vllm", "deployment": "vllm", **given})


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_published_ones_are_fresh(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == example(name)


def test_nothing_else_is_published() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == set(EXAMPLES)


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_and_label_exists(kind: str, signal: Any) -> None:
    try:
        text = render(manifests(kind, wanted(signal=signal)))
    except CannotScale as error:
        assert kind in ("stackdriver", "gke") and "another --kind" in str(error)
        return
    named = re.findall(r"penstock_\w+", text)
    assert set(named) <= set(SERIES)
    assert named or kind in ("keda", "gke")
    for name, labels in re.findall(r"(penstock_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)=", labels)) <= set(SERIES[name].label_names)
    for name in named:
        assert "pool" in SERIES[name].label_names


def test_an_hpa_reads_what_we_serve() -> None:
    (found,) = manifests("hpa", wanted(signal=SATURATION, target=0.7, least=2, most=5))
    spec = found["spec"]
    external = spec["metrics"][0]["external"]
    assert external["metric"]["name"] in BY_METRIC
    assert external["metric"]["selector"]["matchLabels"] == {"pool": "vllm"}
    assert external["target"] == {"type": "Value", "value": "700m"}
    assert (spec["minReplicas"], spec["maxReplicas"], found["metadata"]["namespace"]) == (2, 5, "ns")
    (found,) = manifests("hpa", wanted())
    assert found["spec"]["metrics"][0]["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_our_scaler_understands_its_trigger(signal: Any) -> None:
    (found,) = manifests("keda", wanted(signal=signal, least=0))
    (made,) = found["spec"]["triggers"]
    assert (made["type"], made["metricType"]) == ("external-push", signal.type)
    asked = trigger(m.ScaledObjectRef(name="vllm", namespace="ns", scalerMetadata=made["metadata"]))
    assert (asked.pool, asked.signal, asked.target) == ("ns/vllm", signal, signal.target)
    assert found["spec"]["minReplicaCount"] == 0


def test_prometheus_adds_up_what_replicas_hold_and_an_absent_figure_is_an_error() -> None:
    queries = {}
    for signal in SIGNALS.values():
        (found,) = manifests("keda-prometheus", wanted(signal=signal))
        metadata = found["spec"]["triggers"][0]["metadata"]
        assert metadata["ignoreNullValues"] == "false"
        queries[signal] = metadata["query"]
    assert queries[INFLIGHT].startswith("sum(") and queries[SATURATION].startswith("max(")
    known = 'and max(penstock_pool_waiting_requests{pool="ns/vllm"})'  # absent while figures are stale
    assert queries[QUEUE] == (
        '(sum(penstock_gateway_queue_requests{pool="ns/vllm"}) or vector(0)) '
        f'+ max(penstock_pool_queue_depth{{pool="ns/vllm"}}) {known}'
    )
    assert queries[SATURATION].endswith(known)
    assert queries[DESIRED] == 'max(penstock_pool_desired_replicas{pool="ns/vllm"})'


def test_the_stackdriver_adapter_gets_what_adds_up() -> None:
    (found,) = manifests("stackdriver", wanted(signal=QUEUE, target=2.0))
    external = found["spec"]["metrics"][0]["external"]
    assert external["metric"] == {
        "name": "prometheus.googleapis.com|penstock_gateway_queue_requests|gauge",
        "selector": {"matchLabels": {"metric.labels.pool": "ns/vllm"}},
    }
    for signal in (SATURATION, BACKLOG, DESIRED):
        with pytest.raises(CannotScale, match="use queue or inflight"):
            manifests("stackdriver", wanted(signal=signal))


def test_gke_reads_what_the_servers_really_have() -> None:
    metric, scaler = manifests("gke", wanted(signal=QUEUE, port=8080))
    container = metric["spec"]["metrics"][0]["pod"]["containers"][0]
    assert container["endpoint"] == {"port": 8080, "path": "/metrics"}
    gauge = container["metrics"][0]["gauge"]
    assert f"{gauge['prometheusMetricName']}{{" in VLLM.decode()
    name = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert name == f"autoscaling.gke.io|{metric['metadata']['name']}|{gauge['name']}"
    with pytest.raises(CannotScale, match="queue, inflight or saturation"):
        manifests("gke", wanted(signal=DESIRED))
    with pytest.raises(CannotScale, match=r"no model server 'mine' is known.*vllm"):
        manifests("gke", wanted(signal=QUEUE, engine="mine"))
    with pytest.raises(CannotScale):  # its figures are told apart by a label
        manifests("gke", wanted(signal=QUEUE, engine="triton-tensorrt-llm"))
    assert all(manifests("gke", wanted(signal=QUEUE, engine=each)) for each in ("vllm", "sglang", "trtllm-serve"))
    assert ENGINES.keys() >= {"vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm"}


@pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)
def test_gke_asks_cloud_monitoring_for_what_the_gateways_say_together(signal: Any) -> None:
    metric, scaler = manifests("gke-promql", wanted(signal=signal))
    (asked,) = metric["spec"]["metrics"]
    assert asked == {"promql": {"name": signal.name, "query": query(wanted(signal=signal))}}
    assert check(asked["promql"]["query"]) == []
    (reads,) = scaler["spec"]["metrics"]
    assert reads["type"] == "External"
    assert reads["external"]["metric"] == {"name": f"autoscaling.gke.io|{metric['metadata']['name']}|{signal.name}"}
    assert reads["external"]["target"]["type"] == signal.type


def test_who_goes_to_zero_and_by_what() -> None:
    for kind in ("hpa", "stackdriver", "gke"):
        with pytest.raises(CannotScale, match="--kind keda"):
            manifests(kind, wanted(signal=INFLIGHT, least=0))
    for kind in ("keda-prometheus", "gke-promql"):
        assert manifests(kind, wanted(least=0))
        with pytest.raises(CannotScale, match="would never go to zero"):
            manifests(kind, wanted(least=0, signal=SATURATION))


def test_what_is_printed_is_read_back() -> None:
    found = manifests("gke", wanted(signal=QUEUE))
    assert list(YAML(typ="safe").load_all(render(found))) == found
    assert [quantity(value) for value in (1.0, 0.5, 0.75, 12.0)] == ["1", "500m", "750m", "12"]


PROMTOOL = shutil.which("promtool")
AT = 'pool="ns/vllm"'
# Two replicas of the gateway: three requests wait in one and one in the other, two in the servers, which both read.
HELD = {
    f'penstock_gateway_queue_requests{{{AT},priority="0",instance="a"}}': 3,
    f'penstock_gateway_queue_requests{{{AT},priority="0",instance="b"}}': 1,
    f'penstock_pool_inflight_requests{{{AT},instance="a"}}': 7,
    f'penstock_pool_inflight_requests{{{AT},instance="b"}}': 5,
}
READ = {f'penstock_pool_{name}{{{AT},instance="{each}"}}': value for each in "ab" for name, value in (
    ("queue_depth", 2), ("saturation", 0.5))}  # fmt: skip
FRESH = {f'penstock_pool_{name}{{{AT},instance="{each}"}}': value for each in "ab" for name, value in (
    ("waiting_requests", 5), ("desired_replicas", 4), ("token_backlog_seconds", 0.25))}  # fmt: skip


@pytest.mark.skipif(not PROMTOOL, reason="no promtool on PATH")
@pytest.mark.parametrize(
    ("series", "values"),
    [
        (HELD | READ | FRESH, {QUEUE: 6, INFLIGHT: 12, SATURATION: 0.5, BACKLOG: 0.25, DESIRED: 4}),
        (HELD | READ, {QUEUE: None, INFLIGHT: 12, SATURATION: None, BACKLOG: None, DESIRED: None}),  # stale
        (READ | FRESH, {QUEUE: 2}),  # nobody has ever waited
    ],
    ids=["fresh", "stale", "new"],
)
def test_prometheus_finds_what_is_meant(
    series: dict[str, float], values: dict[Any, float | None], tmp_path: Path
) -> None:
    expected = [
        {
            "expr": query(wanted(signal=signal)),
            "eval_time": "1m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for signal, value in values.items()
    ]
    given = [{"series": name, "values": f"{value}x10"} for name, value in series.items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": expected}
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": [], "tests": [test]}))
    command = [str(PROMTOOL), "test", "rules", "test.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
