"""A cluster of our own to test in: brought up, Penstock installed as its manifests say, taken down again.

`PENSTOCK_CLUSTER` names the program that makes such a cluster on this machine (see docs/conformance/README.md); on any other
cluster KUBECONFIG is set and Penstock is installed there already.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("PENSTOCK_SHARED", ROOT.parent / "shared"))
CLUSTER = Path(os.environ.get("PENSTOCK_CLUSTER", SHARED / "cluster" / "cluster"))
CRDS = ("gateway-api-1.7.0-experimental.yaml", "inference-extension-1.6.yaml", "llm-d-0.10.yaml")
# A program may stand for ours, such as one that runs another checkout.
IMAGES = {"*penstock:*": os.environ.get("PENSTOCK_PROGRAM", "penstock"), "*envoyproxy/envoy:*": "envoy"}
NAMESPACE = "penstock-system"
CHART = ROOT / "deploy" / "charts" / "penstock"
# On one small machine; an answer of a test takes no half minute to drain.
VALUES = ("infrastructure.replicas=1", "infrastructure.workers=1", "infrastructure.drainSeconds=1")
# A pod's /tmp must not hide the cluster's own folder, which is below this machine's.
os.environ.setdefault("CLUSTER_STATE", f"/var/tmp/{os.environ.get('CLUSTER_NAME', 'omc')}-cluster")


@dataclass(frozen=True, slots=True)
class Bench:
    """`prefix` runs a command inside the cluster's network, with KUBECONFIG set and kubectl on PATH."""

    prefix: tuple[str, ...]

    def run(self, *command: str, text: str | None = None, check: bool = True) -> str:
        found = subprocess.run([*self.prefix, *command], input=text, capture_output=True, text=True, check=False)
        if check and found.returncode:
            raise SystemExit(f"{' '.join(command)}: {found.stderr or found.stdout}")
        return found.stdout

    def kubectl(self, *arguments: str, text: str | None = None, check: bool = True) -> str:
        return self.run("kubectl", *arguments, text=text, check=check)

    def wait(self, what: str, *arguments: str, seconds: int = 120) -> None:
        self.kubectl("wait", what, *arguments, f"--timeout={seconds}s")


@contextmanager
def bench(*, keep: bool = False, values: tuple[str, ...] = VALUES) -> Iterator[Bench]:
    """The cluster that KUBECONFIG names, as it is; else one of our own, with Penstock in it."""
    if os.environ.get("KUBECONFIG"):
        yield Bench(())
        return
    if not CLUSTER.exists():
        raise SystemExit("no cluster: set KUBECONFIG, or PENSTOCK_CLUSTER to a program that makes one")
    subprocess.run([CLUSTER, "up"], check=True, stdout=sys.stderr)
    try:
        made = Bench((str(CLUSTER), "exec"))
        install(made, values)
        yield made
    finally:
        if not keep:
            subprocess.run([CLUSTER, "down"], check=True)


def install(made: Bench, values: tuple[str, ...] = VALUES) -> None:
    """Penstock as a user installs it; the images are the programs of this checkout."""
    binaries = Path(sys.executable).parent
    for image, program in IMAGES.items():
        subprocess.run([CLUSTER, "image", image, binaries / program], check=True)
    for name in CRDS:
        made.kubectl("apply", "--server-side", "-f", str(CLUSTER.parent / "crds" / name))
    made.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    made.kubectl(
        "apply", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    )
    made.kubectl("apply", "--server-side", "-f", "-", text=rendered(*values))
    made.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/penstock", "--timeout=120s")


def rendered(*values: str) -> str:
    """The chart as helm renders it."""
    helm = os.environ.get("PENSTOCK_HELM") or shutil.which("helm")
    if not helm:
        raise SystemExit("no helm: put it on PATH, or name it with PENSTOCK_HELM")
    sets = [part for value in values for part in ("--set", value)]
    command = [helm, "template", "penstock", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34.0", *sets]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def accepted(made: Bench, gateway_class: str, seconds: float = 60.0) -> None:
    """Until the GatewayClass is accepted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = json.loads(made.kubectl("get", "gatewayclass", gateway_class, "-o", "json"))
        conditions = found.get("status", {}).get("conditions", [])
        if any(each["type"] == "Accepted" and each["status"] == "True" for each in conditions):
            return
        time.sleep(0.2)
    raise SystemExit(f"GatewayClass {gateway_class} is not accepted: {conditions}")
