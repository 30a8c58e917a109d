"""What a kill test does to a cluster of `bench`: ends its parts, sends traffic meanwhile, changes a route and waits for it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from tests.conformance.bench import CLUSTER, NAMESPACE, Bench
from tests.conformance.traffic import Plan, Summary

T = TypeVar("T")
SPACE = "kill"
TRAFFIC = Path(__file__).with_name("traffic.py")
PATIENCE = 60.0  # seconds for whatever must come true; the times that it took are reported, not asserted
# In the cluster's network: an answer's status, and header x-turn.
_ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=5)
connection.request("GET", "/", headers={"Host": sys.argv[2]})
answer = connection.getresponse()
print(answer.status, answer.headers.get("x-turn", ""))
"""
# A key-value store is compacted to what it has now, through its JSON gateway.
_COMPACT = """
import base64, json, urllib.request
def post(path, body):
    request = urllib.request.Request("http://127.0.0.1:2379/v3/kv/" + path, json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request, timeout=10))
now = post("range", {"key": base64.b64encode(b"x").decode()})["header"]["revision"]
post("compaction", {"revision": now, "physical": True})
print(now)
"""


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    address: str
    ready: bool
    restarts: int


@dataclass(slots=True)
class Traffic:
    """`seen` once it has ended."""

    seen: Summary = field(default_factory=Summary)


@dataclass(slots=True)
class Rig:
    bench: Bench
    turns: int = 0

    # --- what is ended ------------------------------------------------------------------------------------------------

    def cluster(self, *arguments: str) -> None:
        subprocess.run([CLUSTER, *arguments], check=True, capture_output=True)

    def kill(self, component: str) -> None:
        """A part of the control plane, until `revive`."""
        pid = int((Path(os.environ["CLUSTER_STATE"]) / f"{component}.pid").read_text())
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        until(lambda: not running(pid), f"the end of {component}")

    def revive(self, component: str) -> None:
        """Until the API server is ready. A server may start before its forerunner's port is free, and end: once more then."""

        def ready() -> bool:
            if f"{component:12} not running" in subprocess.check_output([CLUSTER, "status"], text=True):
                self.cluster("restart", component)
            return self.bench.kubectl("get", "--raw", "/readyz", "--request-timeout=2s", check=False) == "ok"

        self.cluster("restart", component)
        until(ready, f"the API server after {component}")

    def signal(self, pod: Pod, name: str, namespace: str = NAMESPACE) -> None:
        self.cluster("signal", f"{namespace}/{pod.name}", name)

    def compact(self) -> None:
        self.bench.run(sys.executable, "-c", _COMPACT)

    # --- what is there ------------------------------------------------------------------------------------------------

    def get(self, *what: str) -> dict[str, Any]:
        """{} where there is no answer."""
        text = self.bench.kubectl("get", *what, "-o", "json", "--request-timeout=5s", check=False)
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    def pods(self, namespace: str, labels: str) -> list[Pod]:
        found = []
        for each in self.get("pods", "-n", namespace, "-l", labels).get("items", ()):
            conditions = {one["type"]: one["status"] for one in each["status"].get("conditions", ())}
            states = each["status"].get("containerStatuses", ())
            restarts = sum(one["restartCount"] for one in states)
            address = each["status"].get("podIP", "")
            found.append(Pod(each["metadata"]["name"], address, conditions.get("Ready") == "True", restarts))
        return sorted(found, key=lambda pod: pod.name)

    def controllers(self) -> list[Pod]:
        return self.pods(NAMESPACE, "app.kubernetes.io/name=penstock")

    def envoys(self, gateway: str) -> list[Pod]:
        return self.pods(SPACE, f"gateway.networking.k8s.io/gateway-name={gateway}")

    def all_ready(self) -> None:
        def ready() -> bool:
            groups = (self.controllers(), self.envoys("web"), self.envoys("models"))
            return all(len(found) == 2 and all(pod.ready for pod in found) for found in groups)

        until(ready, "two ready controllers and two ready Envoys of each Gateway", self._pods_shown)

    def _pods_shown(self) -> str:
        return self.bench.kubectl("get", "pods", "-A", check=False)

    def holder(self) -> str:
        """Whose the Lease is, by the process's identity."""
        return str(self.get("lease", "penstock", "-n", NAMESPACE).get("spec", {}).get("holderIdentity") or "")

    def leader(self) -> Pod:
        def found() -> Pod | None:
            holder = self.holder()
            return next((pod for pod in self.controllers() if holder.startswith(f"{pod.name}_")), None)

        return until(found, "a leader")

    def address(self, gateway: str) -> str:
        def found() -> str:
            addresses = self.get("gateway", gateway, "-n", SPACE).get("status", {}).get("addresses", ())
            return str(addresses[0]["value"]) if addresses else ""

        return until(found, f"an address of Gateway {gateway}")

    def serves(self, controller: Pod, gateway: str) -> int:
        """How many Envoys of a Gateway have their stream to this controller; 0 where it does not answer."""
        text = self.bench.run("curl", "-s", "-m", "3", f"http://{controller.address}:9090/status", check=False)
        proxies = json.loads(text)["proxies"] if text else []
        return sum(each["fleet"] == f"{SPACE}/{gateway}" for each in proxies)

    # --- a change -----------------------------------------------------------------------------------------------------

    def turn(self, *, wait: bool = True) -> int:
        """A route's answers get the next number, once the API server takes it."""
        self.turns += 1
        text = TURNING.format(turn=self.turns)

        def applied() -> bool:
            arguments = ("apply", "--server-side", "--request-timeout=5s", "--validate=false", "-f", "-")
            return "serverside-applied" in self.bench.kubectl(*arguments, text=text, check=False)

        until(applied, "the API server to take a change") if wait else applied()
        return self.turns

    def certificate(self, name: str) -> None:
        """A Secret with a certificate that signs itself."""
        with TemporaryDirectory() as folder:
            key, certificate = f"{folder}/tls.key", f"{folder}/tls.crt"
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            command += ["-subj", f"/CN={name}", "-keyout", key, "-out", certificate]
            subprocess.run(command, check=True, capture_output=True)
            secret = ("secret", "tls", name, f"--key={key}", f"--cert={certificate}", "-n", SPACE)
            text = self.bench.kubectl("create", *secret, "--dry-run=client", "-o", "yaml")
        self.bench.kubectl("apply", "-f", "-", text=text)

    def replace_status(self, found: dict[str, Any]) -> None:
        """Whoever writes a whole status; a conflict is theirs to lose."""
        self.bench.kubectl("replace", "--subresource=status", "-f", "-", text=json.dumps(found), check=False)

    def converged(self, turn: int) -> tuple[float, float]:
        """Seconds until every Envoy of the Gateway answers with this turn, and until the status is of this generation."""
        began = time.monotonic()
        for pod in until(lambda: [each for each in self.envoys("web") if each.ready], "an Envoy that is ready"):
            self._turned(pod, turn)
        effective = time.monotonic() - began
        until(self.observed, "a status of this generation", lambda: str(self.get("httproute", "turning", "-n", SPACE)))
        return round(effective, 2), round(time.monotonic() - began, 2)

    def _turned(self, pod: Pod, turn: int) -> None:
        until(lambda: self.asked(pod) == f"200 {turn}", f"turn {turn} at {pod}", lambda: self.asked(pod))

    def asked(self, pod: Pod) -> str:
        return self.bench.run(sys.executable, "-c", _ASK, pod.address, "turning.test", check=False).strip()

    def observed(self) -> bool:
        found = self.get("httproute", "turning", "-n", SPACE)
        generation = found.get("metadata", {}).get("generation")
        parents = found.get("status", {}).get("parents", ())
        ours = [each for each in parents if each["controllerName"].startswith("penstock.dev/")]
        conditions = [one for each in ours for one in each["conditions"]]
        return bool(conditions) and all(
            one["observedGeneration"] == generation and one["status"] == "True" for one in conditions
        )

    # --- traffic ------------------------------------------------------------------------------------------------------

    @contextmanager
    def traffic(self, plan: Plan) -> Iterator[Traffic]:
        """While the block lasts, from the first right answer on."""
        command = [*self.bench.prefix, sys.executable, str(TRAFFIC), json.dumps(asdict(plan))]
        found = Traffic()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "started\n", f"no traffic: {process.stdout.read()}"
            try:
                yield found
            finally:
                process.stdin.close()
                text = process.stdout.read()
            found.seen = Summary(**json.loads(text))


TURNING = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: turning, namespace: kill}}
spec:
  parentRefs: [{{name: web}}]
  hostnames: [turning.test]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-turn, value: "{turn}"}}]}}
    backendRefs: [{{name: echo, port: 80}}]
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(found: Callable[[], T], what: str, why: Callable[[], str] = lambda: "", seconds: float = PATIENCE) -> T:
    """The first true value."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}: {why()}"
        time.sleep(0.1)
    return value
