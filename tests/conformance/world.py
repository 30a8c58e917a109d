"""What the Inference Extension's tests work with: its manifests in a cluster, statuses to wait for, requests to a Gateway.

The manifests are read where the cluster is (`PENSTOCK_SHARED`), never copied. Everything here runs inside the cluster's network.
"""

import copy
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from tests.conformance.bench import SHARED, Bench

MANIFESTS = SHARED / "cluster" / "gie-conformance"
NAMESPACE, INFRA = "inference-conformance-app-backend", "inference-conformance-infra"
PRIMARY, SECONDARY = "conformance-primary", "conformance-secondary"  # Gateways
PRIMARY_POOL, SECONDARY_POOL = "primary-inference-pool", "secondary-inference-pool"  # FailClose, FailOpen
PRIMARY_SERVERS, SECONDARY_SERVERS = "primary-inference-model-server", "secondary-inference-model-server"
PROMPT = json.dumps({"model": "conformance-fake-model", "prompt": "Write as if you were a critic: San Francisco"})
PATIENCE = 60.0  # seconds: long, since only a failing test waits for its end
IN_A_ROW = 3  # the suite believes what it sees three times

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def echo(self) -> Object:
        """What the backend saw; empty if no backend answered."""
        found: Object = json.loads(self.body) if self.status == 200 else {}
        return found

    @property
    def pod(self) -> str:
        return str(self.echo.get("pod", ""))

    def seen(self, header: str) -> str:
        """A request header as it came to the backend."""
        values = {name.lower(): held for name, held in self.echo.get("headers", {}).items()}
        return str(values.get(header, [""])[0])


@dataclass(frozen=True, slots=True)
class Target:
    """Requests of one kind."""

    address: str  # the Gateway's
    path: str
    host: str = "any.example.com"
    headers: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    timeout: float = 30.0

    def send(self) -> Answer:
        connection = http.client.HTTPConnection(self.address, 80, timeout=self.timeout)
        try:
            headers = {"Host": self.host, **dict(self.headers)}
            if self.body is not None:
                headers["Content-Type"] = "application/json"
            connection.request("GET" if self.body is None else "POST", self.path, self.body, headers)
            found = connection.getresponse()
            return Answer(
                found.status, {name.lower(): value for name, value in found.getheaders()}, found.read().decode()
            )
        finally:
            connection.close()

    def send_many(self, count: int, at_once: int) -> list[Answer]:
        with ThreadPoolExecutor(at_once) as workers:
            return [each.result() for each in [workers.submit(self.send) for _ in range(count)]]

    def until(self, right: Callable[[Answer], bool], what: str = "") -> Answer:
        """The last of three right answers in a row."""
        deadline, row, last = time.monotonic() + PATIENCE, 0, "no answer"
        while time.monotonic() < deadline:
            try:
                answer = self.send()
                row = row + 1 if right(answer) else 0
                last = f"{answer.status} {dict(answer.headers)} {answer.body[:600]}"
            except OSError as error:
                row, last = 0, repr(error)
            if row == IN_A_ROW:
                return answer
            if not row:
                time.sleep(0.1)
        raise AssertionError(f"{self}: waited {PATIENCE:.0f} s for {what or 'the right answer'}; the last one: {last}")


@dataclass(frozen=True, slots=True)
class World:
    bench: Bench
    gateway_class: str
    image: str = ""  # of the test picker, where the manifests' image is not to be mapped

    def load(self, name: str) -> list[Object]:
        text = (MANIFESTS / name).read_text().replace("{GATEWAY_CLASS_NAME}", self.gateway_class)
        return [self._with_image(each) for each in yaml.safe_load_all(text) if each]

    def _with_image(self, found: Object) -> Object:
        for each in found.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
            if self.image and each["name"] == "epp":
                each["image"] = self.image
        return found

    def apply(self, *objects: Object) -> None:
        self.bench.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=yaml.safe_dump_all(objects))

    def delete(self, *objects: Object, wait: bool = True) -> None:
        text = yaml.safe_dump_all(objects)
        self.bench.kubectl("delete", "--ignore-not-found", f"--wait={str(wait).lower()}", "-f", "-", text=text)

    @contextmanager
    def applied(self, *objects: Object) -> Iterator[None]:
        self.apply(*objects)
        try:
            yield
        finally:
            self.delete(*objects)

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> Object:
        text = self.bench.kubectl("-n", namespace, "get", kind, name, "-o", "json", check=False)
        found: Object = json.loads(text) if text.strip() else {}
        return found

    def pods(self, app: str, count: int = 3) -> list[Pod]:
        """The ready pods of a Deployment of model servers."""
        listed = json.loads(self.bench.kubectl("-n", NAMESPACE, "get", "pods", "-l", f"app={app}", "-o", "json"))
        found = [Pod(each["metadata"]["name"], each["status"]["podIP"]) for each in listed["items"]]
        assert len(found) == count, found
        return sorted(found, key=lambda each: each.name)

    def address(self, gateway: str) -> str:
        def found() -> str:
            addresses = self.get("gateway", gateway, INFRA).get("status", {}).get("addresses", [])
            return str(addresses[0]["value"]) if addresses else ""

        return until(found, f"an address of {gateway}")

    def target(self, gateway: str, path: str, **more: Any) -> Target:
        return Target(self.address(gateway), path, **more)

    def conditions(self, kind: str, name: str, gateway: str) -> dict[str, Object]:
        """Those of one parent, by type; only current ones."""
        found = self.get(kind, name)
        generation = found.get("metadata", {}).get("generation")
        for parent in found.get("status", {}).get("parents", ()):
            if (parent["parentRef"]["name"], parent["parentRef"].get("namespace")) == (gateway, INFRA):
                return {
                    each["type"]: each for each in parent["conditions"] if each.get("observedGeneration") == generation
                }
        return {}

    def condition(self, kind: str, name: str, gateway: str, wanted: str) -> Object:
        """Waits for `wanted`: "ResolvedRefs=False/BackendNotFound"; the reason may be left out."""
        type_, _, rest = wanted.partition("=")
        status, _, reason = rest.partition("/")

        def found() -> Object | None:
            held = self.conditions(kind, name, gateway).get(type_, {})
            return held if held.get("status") == status and reason in ("", held.get("reason")) else None

        return until(found, f"{kind} {name}: {wanted} of {gateway}", lambda: str(self.conditions(kind, name, gateway)))

    def accepted(self, route: str, gateway: str, *pools: str) -> None:
        """The route is accepted with all its references, and each pool is accepted for the Gateway."""
        self.condition("httproute", route, gateway, "Accepted=True/Accepted")
        self.condition("httproute", route, gateway, "ResolvedRefs=True/ResolvedRefs")
        for pool in pools:
            self.condition("inferencepool", pool, gateway, "Accepted=True/Accepted")

    def parents(self, pool: str, *gateways: str) -> None:
        """Waits until the pool has the statuses of these Gateways and of no other."""

        def found() -> list[str]:
            parents = self.get("inferencepool", pool).get("status", {}).get("parents", [])
            return sorted(each["parentRef"]["name"] for each in parents)

        until(lambda: found() == sorted(gateways), f"{pool} to have parents {gateways}", lambda: str(found()))

    @contextmanager
    def without_endpoints(self, service: str) -> Iterator[None]:
        """A Service that selects no pod, as the suite makes a picker unavailable."""
        selector = self.get("service", service)["spec"]["selector"]
        self._select(service, {"app": "do-not-match-for-testing"})
        try:
            until(lambda: not self._endpoints(service), f"Service {service} without endpoints")
            yield
        finally:
            self._select(service, selector)
            until(lambda: self._endpoints(service), f"endpoints of Service {service}")

    def _select(self, service: str, selector: Mapping[str, str]) -> None:
        patch = json.dumps([{"op": "replace", "path": "/spec/selector", "value": selector}])
        self.bench.kubectl("-n", NAMESPACE, "patch", "service", service, "--type=json", "-p", patch)

    def _endpoints(self, service: str) -> list[Object]:
        listed = self.bench.kubectl(
            "-n", NAMESPACE, "get", "endpointslices", "-l", f"kubernetes.io/service-name={service}", "-o", "json"
        )
        return [found for each in json.loads(listed)["items"] for found in each.get("endpoints") or ()]

    def rolled_out(self, *names: str) -> None:
        for name in names:
            self.bench.kubectl("-n", NAMESPACE, "rollout", "status", f"deployment/{name}", "--timeout=120s")


def until(found: Callable[[], Any], what: str, why: Callable[[], str] = lambda: "") -> Any:
    """The first true value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE:.0f} s for {what}: {why()}")
        time.sleep(0.2)
    return value


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def changed(found: Object, **spec: Any) -> Object:
    """The object with some fields of its spec replaced."""
    made = copy.deepcopy(found)
    made["spec"].update(spec)
    return made
