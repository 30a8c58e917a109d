"""Manifests that make an autoscaler act on a pool, for each way there is. Generated, so that no name in them can be of another time.

Metrics are those of the catalogue; for GKE, which reads the scaled pods themselves, those that our own scraper reads there. Examples
are in deploy/autoscaling, written by `python -m observability.autoscaling.manifests`. Shapes: autoscaling/v2; keda.sh/v1alpha1;
Custom Metrics Stackdriver Adapter 0.16; autoscaling.gke.io/v1beta1. Pure, but for `main`.
"""

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML

from observability import catalogue as c
from observability.autoscaling.external_metrics import POOL_LABEL
from observability.autoscaling.signals import BACKLOG, DESIRED, INFLIGHT, QUEUE, SATURATION, Signal
from picker.load import ENGINES, Engine, Series

DOWN_AFTER = 300  # seconds of less work: a model takes minutes to load again
Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be scaled, and by what."""

    namespace: str
    pool: str
    deployment: str
    signal: Signal = DESIRED
    target: float | None = None  # None: what is good for most
    least: int = 1  # replicas
    most: int = 10
    gateway: str = "penstock.penstock-system"  # Service and namespace
    scaler_port: int = 9095
    prometheus: str = "http://prometheus.monitoring:9090"
    engine: str = "vllm"  # of the model servers
    port: int = 8000  # of the model servers

    @property
    def goal(self) -> float:
        return self.signal.target if self.target is None else self.target


class CannotScale(Exception):
    """What is asked for cannot be had in this way; the message says what can."""


def hpa(wanted: Wanted) -> list[Manifest]:
    """A HorizontalPodAutoscaler that reads external.metrics.k8s.io, which the gateway serves itself."""
    metric = {"name": wanted.signal.metric.name, "selector": {"matchLabels": {POOL_LABEL: wanted.pool}}}
    return [_autoscaler(wanted, {"type": "External", "external": {"metric": metric, "target": _target(wanted)}})]


def keda(wanted: Wanted) -> list[Manifest]:
    """A ScaledObject that asks the gateway's scaler, and is told at once that a request waits for a pool at zero."""
    metadata = {
        "scalerAddress": f"{wanted.gateway}:{wanted.scaler_port}",
        "pool": wanted.pool,
        "signal": wanted.signal.name,
        "target": _number(wanted.goal),
    }
    return [_scaled_object(wanted, {"type": "external-push", "metricType": wanted.signal.type, "metadata": metadata})]


def keda_prometheus(wanted: Wanted) -> list[Manifest]:
    """A ScaledObject that asks a Prometheus which scrapes every replica of the gateway. No answer is an error, not zero."""
    metadata = {
        "serverAddress": wanted.prometheus,
        "query": query(wanted),
        "threshold": _number(wanted.goal),
        "ignoreNullValues": "false",
    }
    return [_scaled_object(wanted, {"type": "prometheus", "metricType": wanted.signal.type, "metadata": metadata})]


def stackdriver(wanted: Wanted) -> list[Manifest]:
    """A HorizontalPodAutoscaler by the Custom Metrics Stackdriver Adapter, which adds up what the replicas of the gateway say."""
    found = {QUEUE.name: c.GATEWAY_QUEUE_REQUESTS, INFLIGHT.name: c.POOL_INFLIGHT_REQUESTS}.get(wanted.signal.name)
    if found is None:
        raise CannotScale(
            f"the Stackdriver adapter adds up what the gateway's replicas say, which makes no sense of {wanted.signal.name}; use "
            "queue or inflight, or another --kind"
        )
    labels = {"metric.labels.pool": f"{wanted.namespace}/{wanted.pool}"}
    metric = {"name": f"prometheus.googleapis.com|{found.name}|gauge", "selector": {"matchLabels": labels}}
    return [_autoscaler(wanted, {"type": "External", "external": {"metric": metric, "target": _target(wanted)}})]


def gke(wanted: Wanted) -> list[Manifest]:
    """An AutoscalingMetric and a HorizontalPodAutoscaler, which reads the model servers' own metrics without an adapter (1.35)."""
    engine = ENGINES.get(wanted.engine)
    if engine is None:
        raise CannotScale(f"no model server {wanted.engine!r} is known; write one of {', '.join(ENGINES)}")
    series = _series(engine, wanted.signal)
    if series is None:
        raise CannotScale(
            f"GKE reads the scaled pods themselves, and they do not know {wanted.signal.name}; use queue, inflight or saturation, "
            "or another --kind"
        )
    name, source = f"{wanted.pool}-{wanted.signal.name}", series.name.decode()
    gauge = {"name": wanted.signal.name, "prometheusMetricName": source}
    container = {"endpoint": {"port": wanted.port, "path": "/metrics"}, "metrics": [{"gauge": gauge}]}
    pods = {"selector": {"matchLabels": {"app": wanted.deployment}}, "containers": [container]}
    metric: Manifest = {
        "apiVersion": "autoscaling.gke.io/v1beta1",
        "kind": "AutoscalingMetric",
        "metadata": {"name": name, "namespace": wanted.namespace},
        "spec": {"metrics": [{"pod": pods}]},
    }
    target = {"type": "AverageValue", "averageValue": quantity(wanted.goal)}
    reads = {"metric": {"name": f"autoscaling.gke.io|{name}|{wanted.signal.name}"}, "target": target}
    return [metric, _autoscaler(wanted, {"type": "Pods", "pods": reads})]


def gke_promql(wanted: Wanted) -> list[Manifest]:
    """An AutoscalingMetric that asks Cloud Monitoring in PromQL, and a HorizontalPodAutoscaler (1.37): every signal, of all replicas."""
    name = f"{wanted.pool}-{wanted.signal.name}"
    asks = {"name": wanted.signal.name, "query": query(wanted)}
    metric: Manifest = {
        "apiVersion": "autoscaling.gke.io/v1beta1",
        "kind": "AutoscalingMetric",
        "metadata": {"name": name, "namespace": wanted.namespace},
        "spec": {"metrics": [{"promql": asks}]},
    }
    reads = {"metric": {"name": f"autoscaling.gke.io|{name}|{wanted.signal.name}"}, "target": _target(wanted)}
    return [metric, _autoscaler(wanted, {"type": "External", "external": reads})]


KINDS: Mapping[str, Callable[[Wanted], list[Manifest]]] = MappingProxyType(
    {
        "hpa": hpa,
        "keda": keda,
        "keda-prometheus": keda_prometheus,
        "stackdriver": stackdriver,
        "gke": gke,
        "gke-promql": gke_promql,
    }
)
_TO_ZERO = frozenset({"keda", "keda-prometheus", "gke-promql"})


def manifests(kind: str, wanted: Wanted) -> list[Manifest]:
    """Raises CannotScale."""
    if wanted.least < 1 and kind not in _TO_ZERO:
        raise CannotScale(
            "a HorizontalPodAutoscaler keeps one pod at the least; KEDA goes to zero and back: --kind keda"
        )
    if wanted.least < 1 and kind != "keda" and wanted.signal is SATURATION:
        raise CannotScale(
            "a pool without pods counts as full, so by saturation it would never go to zero; use another signal"
        )
    return KINDS[kind](wanted)


def query(wanted: Wanted) -> str:
    """PromQL over all replicas of the gateway: what each holds adds up, what all read alike does not.

    The older gauges are there also while figures are stale: they count only beside one that is not.
    """
    at = f'{{pool="{wanted.namespace}/{wanted.pool}"}}'
    known = f"and max({c.POOL_WAITING_REQUESTS.name}{at})"
    if wanted.signal is QUEUE:
        held = f"(sum({c.GATEWAY_QUEUE_REQUESTS.name}{at}) or vector(0))"  # absent until somebody waits
        return f"{held} + max({c.POOL_QUEUE_DEPTH.name}{at}) {known}"
    if wanted.signal is INFLIGHT:
        return f"sum({wanted.signal.metric.name}{at})"
    found = f"max({wanted.signal.metric.name}{at})"
    return f"{found} {known}" if wanted.signal is SATURATION else found


def quantity(value: float) -> str:
    """A resource.Quantity."""
    return _number(value) if value == int(value) else f"{round(value * 1000)}m"


def render(found: list[Manifest]) -> str:
    """YAML, for `kubectl apply -f -`."""
    text, yaml = io.StringIO(), YAML()
    yaml.default_flow_style, yaml.width = False, 4096
    yaml.dump_all(found, text)
    return text.getvalue()


def _series(engine: Engine, signal: Signal) -> Series | None:
    found = {QUEUE: engine.waiting, INFLIGHT: engine.running, SATURATION: engine.kv_usage}.get(signal)
    return found[0] if found and found[0].where is None else None


def _target(wanted: Wanted) -> Manifest:
    field = {"Value": "value", "AverageValue": "averageValue"}[wanted.signal.type]
    return {"type": wanted.signal.type, field: quantity(wanted.goal)}


def _behavior() -> Manifest:
    return {"scaleUp": {"stabilizationWindowSeconds": 0}, "scaleDown": {"stabilizationWindowSeconds": DOWN_AFTER}}


def _autoscaler(wanted: Wanted, metric: Manifest) -> Manifest:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": wanted.pool, "namespace": wanted.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": wanted.deployment},
            "minReplicas": wanted.least,
            "maxReplicas": wanted.most,
            "metrics": [metric],
            "behavior": _behavior(),
        },
    }


def _scaled_object(wanted: Wanted, trigger: Manifest) -> Manifest:
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": wanted.pool, "namespace": wanted.namespace},
        "spec": {
            "scaleTargetRef": {"name": wanted.deployment},
            "minReplicaCount": wanted.least,
            "maxReplicaCount": wanted.most,
            "pollingInterval": 5,
            "cooldownPeriod": DOWN_AFTER,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior()}},
            "triggers": [trigger],
        },
    }


def _number(value: float) -> str:
    return f"{value:g}"


_EXAMPLE = Wanted("default", "vllm", "vllm")
EXAMPLES: Mapping[str, tuple[str, Wanted]] = MappingProxyType(
    {
        "hpa.yaml": ("hpa", _EXAMPLE),
        "hpa-token-backlog.yaml": ("hpa", Wanted("default", "vllm", "vllm", BACKLOG)),
        "keda.yaml": ("keda", Wanted("default", "vllm", "vllm", least=0)),
        "keda-prometheus.yaml": ("keda-prometheus", Wanted("default", "vllm", "vllm", SATURATION)),
        "stackdriver.yaml": ("stackdriver", Wanted("default", "vllm", "vllm", INFLIGHT)),
        "gke.yaml": ("gke", Wanted("default", "vllm", "vllm", QUEUE)),
        "gke-promql.yaml": ("gke-promql", _EXAMPLE),
    }
)


def example(name: str) -> str:
    """One file of deploy/autoscaling."""
    kind, wanted = EXAMPLES[name]
    options = " ".join(
        [f"--kind {kind}", *([f"--signal {wanted.signal.name}"] if wanted.signal is not DESIRED else [])]
        + (["--min 0"] if wanted.least == 0 else [])
    )
    head = f"# Generated: penstock autoscale manifests {wanted.namespace}/{wanted.pool} {options}\n"
    return head + render(manifests(kind, wanted))


def main(folder: Path) -> None:
    """Write all examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        (folder / name).write_text(example(name), encoding="utf-8")


if __name__ == "__main__":
    main(Path(*(sys.argv[1:] or ["deploy/autoscaling"])))
