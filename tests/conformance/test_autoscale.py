"""The HorizontalPodAutoscaler of a real cluster scales model servers by our own metric: up under load, down after, not at all while
figures are stale.

    PENSTOCK_CONFORMANCE=1 python -m pytest tests/conformance/test_autoscale.py -s

In a cluster of its own, with two replicas of the gateway; it says how long things took. See bench.py for what it needs.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.bench import CLUSTER, NAMESPACE, VALUES, accepted, bench
from tests.conformance.rig import Rig, until
from tests.conformance.traffic import Plan

SPACE = "autoscale"
AUTOSCALING = (*VALUES, "autoscaling.externalMetrics.enabled=true")
CHAT = {
    "model": "base",
    "max_tokens": 20,
    "stream": False,
    "messages": [{"role": "user", "content": "What is a penstock?"}],
}
METRICS = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{SPACE}"
MOST = 3  # maxReplicas


def _reason() -> str:
    if os.environ.get("PENSTOCK_CONFORMANCE") != "1":
        return "scales in a cluster of its own: PENSTOCK_CONFORMANCE=1"
    if os.environ.get("KUBECONFIG"):
        return "the cluster that KUBECONFIG names may have another server of external metrics"
    return "" if CLUSTER.exists() else "no cluster: set PENSTOCK_CLUSTER to a program that makes one"


pytestmark = pytest.mark.skipif(bool(_reason()), reason=_reason() or "never")


class Scaled(Rig):
    """The model servers and their autoscaler."""

    def replicas(self) -> tuple[int, int]:
        """(wanted, ready)."""
        found = self.get("deployment", "vllm", "-n", SPACE)
        return found["spec"]["replicas"], found.get("status", {}).get("readyReplicas", 0)

    def condition(self, kind: str) -> dict[str, Any]:
        listed = self.get("hpa", "vllm", "-n", SPACE).get("status", {}).get("conditions", ())
        return next((each for each in listed if each["type"] == kind), {})

    def metric(self, name: str, pool: str = "vllm") -> dict[str, Any]:
        """What the API server answers, an error's Status included."""
        path = f"{METRICS}/{name}?labelSelector=pool%3D{pool}"
        text = self.bench.run("sh", "-c", f"kubectl get --raw '{path}' 2>&1 || true")
        return json.loads(text) if text.startswith("{") else {"message": text}

    def gateway(self) -> str:
        def found() -> str:
            addresses = self.get("gateway", "models", "-n", SPACE).get("status", {}).get("addresses", ())
            return str(addresses[0]["value"]) if addresses else ""

        return until(found, "an address of the Gateway")

    def reaches(self, count: int, what: str, seconds: float = 90.0) -> float:
        """Seconds until so many are ready."""
        began = time.monotonic()
        until(lambda: self.replicas() == (count, count), what, lambda: f"{self.replicas()} {self.said()}", seconds)
        return time.monotonic() - began

    def said(self) -> str:
        status = self.get("hpa", "vllm", "-n", SPACE).get("status", {})
        return json.dumps({"metrics": status.get("currentMetrics"), "conditions": status.get("conditions")})

    def explained(self) -> str:
        """As somebody who operates it asks."""
        where = f"{self.controllers()[0].address}:9090"
        command = (sys.executable, "-m", "penstock.cli", "autoscale", "explain", f"{SPACE}/vllm", "--telemetry", where)
        return self.bench.run(*command)

    def plan(self, workers: int) -> Plan:
        return Plan(
            (f"http://{self.gateway()}/v1/chat/completions",),
            "vllm.test",
            json=CHAT,
            workers=workers,
            pause=0.0,
            patience=30,
        )


@pytest.fixture(scope="module")
def rig() -> Iterator[Scaled]:
    keep = os.environ.get("PENSTOCK_CONFORMANCE_KEEP") == "1"
    with bench(keep=keep, values=AUTOSCALING) as made:
        accepted(made, "penstock")
        made.kubectl("apply", "--server-side", "-f", str(Path(__file__).with_name("autoscale.yaml")))
        found = Scaled(made)
        until(lambda: len([pod for pod in found.controllers() if pod.ready]) == 2, "two replicas of the gateway")
        found.reaches(1, "the first model server")
        yield found


def test_the_api_server_serves_our_metrics(rig: Scaled) -> None:
    """By its aggregation layer: it knows us by our authority, we know it by its front proxy's."""
    until(
        lambda: "True" in str([each for each in service(rig) if each["type"] == "Available"]),
        "an APIService that is available",
        lambda: str(service(rig)),
    )
    until(
        lambda: rig.metric("penstock_pool_saturation").get("items"),
        "a figure",
        lambda: str(rig.metric("penstock_pool_saturation")),
    )
    assert "caBundle" in rig.get("apiservice", "v1beta1.external.metrics.k8s.io")["spec"]
    assert "there is no InferencePool autoscale/other" in rig.metric("penstock_pool_saturation", "other")["message"]
    names = json.loads(rig.bench.kubectl("get", "--raw", "/apis/external.metrics.k8s.io/v1beta1"))["resources"]
    assert "penstock_pool_desired_replicas" in [each["name"] for each in names]


def test_nobody_else_gets_them_from_us(rig: Scaled) -> None:
    address = (
        f"https://penstock.{NAMESPACE}.svc.cluster.local{METRICS}/penstock_pool_saturation?labelSelector=pool%3Dvllm"
    )
    assert rig.bench.run("curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", address) == "401"


def test_up_under_load_and_down_after(rig: Scaled) -> None:
    with rig.traffic(rig.plan(workers=24)) as traffic:
        up = rig.reaches(MOST, f"{MOST} model servers under load")
        shown = rig.explained()
    down = rig.reaches(1, "one model server after it")
    print(
        f"\n{MOST} ready {up:.1f} s after the load came, 1 again {down:.1f} s after it went; {traffic.seen.right} right answers"
    )
    print(shown)
    assert rig.condition("ScalingActive")["status"] == "True"
    assert traffic.seen.right > 50
    assert not traffic.seen.wrong
    assert "2 gateway replicas asked" in shown


def test_stale_figures_keep_the_size(rig: Scaled) -> None:
    """The servers hang: their figures grow old. The metric is an error then, and the autoscaler says so and does nothing."""
    with rig.traffic(rig.plan(workers=24)):
        rig.reaches(MOST, f"{MOST} model servers under load")
        pods = rig.pods(SPACE, "app=vllm")
        for pod in pods:
            rig.signal(pod, "STOP", SPACE)
        try:
            found = until(lambda: stale(rig), "an autoscaler without figures", rig.said)
            began = time.monotonic()
            print(f"\n{found}")
            while time.monotonic() - began < 15.0:  # longer than the window after which it would go down
                assert rig.replicas()[0] == MOST
                time.sleep(0.5)
            error = rig.metric("penstock_pool_desired_replicas")["message"]
        finally:
            for pod in pods:
                rig.signal(pod, "CONT", SPACE)
    print(error)
    assert "ServiceUnavailable" in error or "is not known" in error
    rig.reaches(1, "one model server after it")


def stale(rig: Scaled) -> str:
    found = rig.condition("ScalingActive")
    return str(found.get("message", "")) if found.get("reason") == "FailedGetExternalMetric" else ""


def service(rig: Scaled) -> list[dict[str, Any]]:
    found = rig.get("apiservice", "v1beta1.external.metrics.k8s.io")
    return list(found.get("status", {}).get("conditions", ()))
