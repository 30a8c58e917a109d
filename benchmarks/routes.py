"""How soon a changed route is served, and what many routes cost: a real Envoy, and a real API server or a directory of files.

`python -m benchmarks.routes [--routes 1000,5000] [--hosts many|one] [--source cluster|files] [--changes 25]`. A Gateway with N
HTTPRoutes, each with a hostname (or all with one) and a path and a Service of its own; then one route after another gets a new
redirect, and the time from the request that changes it to Envoy's new answer is taken. The last line is JSON: `settled_s` is from
the last of N routes created at once until the last status is written, `gateway_writes` and `writes` are what the watch saw of
statuses written meanwhile. From files there are no statuses: `settled_s` is from the start until the last route answers.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks.flips import HOST, free_port
from benchmarks.path import program
from tests.conformance.bench import NAMESPACE, ROOT, accepted, bench
from xds_server.kubernetes.access import load
from xds_server.kubernetes.api import Api, ApiError, connect

Json = dict[str, Any]
GATEWAY_API = "gateway.networking.k8s.io/v1"
SPACE = "routes"
PARALLEL = 32
QUIET_S = 0.3  # between two changes: each comes after a quiet time
PATIENCE_S = 300.0
_ROUTES = f"/apis/{GATEWAY_API}/namespaces/{SPACE}/httproutes"
_GATEWAYS = f"/apis/{GATEWAY_API}/namespaces/{SPACE}/gateways"


# --- what is served ---------------------------------------------------------------------------------------------------


def gateway(gateway_class: str, port: int = 80) -> Json:
    listener = {"name": "http", "port": port, "protocol": "HTTP"}
    return _object(GATEWAY_API, "Gateway", "routes", gatewayClassName=gateway_class, listeners=[listener])


def route(index: int, version: int, *, one: bool) -> Json:
    """Version 0 only forwards; a later one also answers with it, at a path that ends in /version."""
    path = f"/path-{index}"
    rules: list[Json] = [{"matches": [_prefix(path)], "backendRefs": [{"name": f"service-{index}", "port": 80}]}]
    if version:
        redirect = {"type": "RequestRedirect", "requestRedirect": {"hostname": f"version-{version}.example"}}
        rules.append({"matches": [_prefix(f"{path}/version")], "filters": [redirect]})
    parents = [{"name": "routes"}]
    hostnames = [hostname(index, one=one)]
    return _object(GATEWAY_API, "HTTPRoute", f"route-{index}", parentRefs=parents, hostnames=hostnames, rules=rules)


def backends(index: int) -> list[Json]:
    """A headless Service, which costs a kube-proxy nothing, and an address that nobody asks."""
    name = f"service-{index}"
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": SPACE, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": True}}],
    }
    return [_object("v1", "Service", name, clusterIP="None", ports=[{"name": "http", "port": 80}]), slice_]


def hostname(index: int, *, one: bool) -> str:
    return "all.example.com" if one else f"host-{index}.example.com"


def _prefix(path: str) -> Json:
    return {"path": {"type": "PathPrefix", "value": path}}


def _object(version: str, kind: str, name: str, **spec: Any) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": SPACE}, "spec": spec}


# --- what answers -----------------------------------------------------------------------------------------------------


class Client:
    """One kept connection to an Envoy."""

    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def version(self, index: int, *, one: bool) -> int:
        """The version that this route answers with; 0 for none."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._where)
            reader, writer = self._streams
            head = f"GET /path-{index}/version HTTP/1.1\r\nhost: {hostname(index, one=one)}\r\n\r\n"
            writer.write(head.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError):
            self._streams = None
            return 0
        _, found, rest = answer.partition(b"://version-")
        if not found:
            self._streams = None  # an answer with a body
            writer.close()
        return int(rest.partition(b".")[0]) if found else 0

    async def until(self, index: int, version: int, *, one: bool, pause: float = 0.001) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.version(index, one=one) != version:
                await asyncio.sleep(pause)


async def changes(count: int, routes: int, client: Client, change: Callable[[int, int], Any], *, one: bool) -> Json:
    """One route after another; each has had a version before, so that only its value changes."""
    latencies = []
    for at in range(count):
        index = at * routes // count
        await change(index, 1)
        await client.until(index, 1, one=one, pause=0.02)
        await asyncio.sleep(QUIET_S)
        began = time.perf_counter()
        await change(index, 2)
        await client.until(index, 2, one=one)
        latencies.append(time.perf_counter() - began)
        await asyncio.sleep(QUIET_S)
    found = sorted(latencies)
    return {"p50_ms": round(found[count // 2] * 1000, 1), "max_ms": round(found[-1] * 1000, 1)}


# --- a cluster --------------------------------------------------------------------------------------------------------


class Seen:
    """Statuses written, as a watch sees them: a change of an object that is not one of its generation."""

    def __init__(self) -> None:
        self.writes: Counter[str] = Counter()
        self.done: set[str] = set()  # routes with a status
        self.address = ""
        self._generations: dict[str, int] = {}

    async def follow(self, api: Api, path: str) -> None:
        while True:
            with suppress(ApiError):
                async for event in api.watch(path, {"timeoutSeconds": "3600"}, 3600.0):
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._take(event["object"], event["type"] == "MODIFIED")

    def _take(self, found: Json, modified: bool) -> None:
        """A watch that begins anew says ADDED of what is there: that is no write."""
        meta, status = found["metadata"], found.get("status") or {}
        if modified and self._generations.get(meta["uid"]) == meta["generation"]:
            self.writes[found["kind"]] += 1
        self._generations[meta["uid"]] = meta["generation"]
        if status.get("parents"):
            self.done.add(meta["name"])
        if status.get("addresses"):
            self.address = status["addresses"][0]["value"]


async def create(api: Api, path: str, objects: Iterable[Json]) -> None:
    slots = asyncio.Semaphore(PARALLEL)

    async def one(body: Json) -> None:
        async with slots:
            await api.create(path, body)

    async with asyncio.TaskGroup() as tasks:
        for body in objects:
            tasks.create_task(one(body))


async def in_cluster(routes: int, options: argparse.Namespace) -> Json:
    """In the network of the cluster. Leaves the cluster as it was."""
    one = options.hosts == "one"
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(connect(await load()))
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}
        await api.create("/api/v1/namespaces", space)
        stack.push_async_callback(_gone, api)
        made = [each for index in range(routes) for each in backends(index)]
        await create(api, f"/api/v1/namespaces/{SPACE}/services", made[::2])
        await create(api, f"/apis/discovery.k8s.io/v1/namespaces/{SPACE}/endpointslices", made[1::2])
        seen = Seen()
        watches = [asyncio.ensure_future(seen.follow(api, path)) for path in (_ROUTES, _GATEWAYS)]
        stack.callback(lambda: [each.cancel() for each in watches])
        await api.create(_GATEWAYS, gateway(options.gateway_class))
        await _until(lambda: bool(seen.address))
        client = Client(seen.address, 80)
        await asyncio.sleep(3.0)  # its Envoy comes up
        seen.writes.clear()
        await create(api, _ROUTES, (route(index, 0, one=one) for index in range(routes)))
        created = time.perf_counter()
        await _until(lambda: len(seen.done) == routes)
        settled = time.perf_counter() - created
        await asyncio.sleep(2.0)
        writes = dict(seen.writes)

        async def change(index: int, version: int) -> None:
            await api.patch(f"{_ROUTES}/route-{index}", {"spec": route(index, version, one=one)["spec"]})

        await change(routes - 1, 3)
        await client.until(routes - 1, 3, one=one, pause=0.1)
        row = await changes(options.changes, routes, client, change, one=one)
        row |= {"rss_mib": await _rss(api), "settled_s": round(settled, 2)}
        row |= {"gateway_writes": writes.get("Gateway", 0), "writes": sum(writes.values())}
        print(routes, row, file=sys.stderr, flush=True)  # what follows takes minutes
        return row


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


async def _gone(api: Api) -> None:
    await api.delete(f"/api/v1/namespaces/{SPACE}")
    with suppress(ApiError):
        while True:
            await api.get(f"/api/v1/namespaces/{SPACE}")
            await asyncio.sleep(0.5)


async def _rss(api: Api) -> float | None:
    """Of the controller, where pods are processes of this machine."""
    pods = (await api.get(f"/api/v1/namespaces/{NAMESPACE}/pods"))["items"]
    names = {pod["metadata"]["name"] for pod in pods}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "controller" in process.cmdline() and process.environ().get("POD_NAME") in names:
                return mib(process)
    return None


def mib(process: psutil.Process) -> float:
    return round(process.memory_info().rss / 2**20, 1)


# --- files ------------------------------------------------------------------------------------------------------------


async def from_files(routes: int, options: argparse.Namespace) -> Json:
    """`penstock run` with an Envoy of its own. The look at the files, every 250 ms, is in the time."""
    one, port = options.hosts == "one", free_port()
    with tempfile.TemporaryDirectory(prefix="routes-") as name:
        folder = Path(name)
        spec = {"controllerName": "penstock.dev/gateway-controller"}
        kind = {"apiVersion": GATEWAY_API, "kind": "GatewayClass", "metadata": {"name": "penstock"}, "spec": spec}
        _write(folder / "gateway.json", kind, gateway("penstock", port))
        for index in range(routes):
            _write(folder / f"route-{index}.json", *backends(index), route(index, int(index == routes - 1), one=one))

        async def change(index: int, version: int) -> None:
            _write(folder / f"route-{index}.json", *backends(index), route(index, version, one=one))

        began = time.perf_counter()
        async with _standalone(folder) as process:
            client = Client(HOST, port)
            await client.until(routes - 1, 1, one=one, pause=0.1)
            settled = time.perf_counter() - began
            row = await changes(options.changes, routes, client, change, one=one)
            return row | {"rss_mib": mib(process), "settled_s": round(settled, 2)}


@asynccontextmanager
async def _standalone(folder: Path) -> AsyncIterator[psutil.Process]:
    command = ["penstock.cli", "run", "--manifests", str(folder), "--workers", "1", "--request-log", ""]
    command += ["--admin", f"{HOST}:{free_port()}", "--telemetry", f"{HOST}:{free_port()}"]
    async with program(*command, err=subprocess.DEVNULL) as process:
        yield psutil.Process(process.pid)


def _write(file: Path, *objects: Json) -> None:
    """Whole or not at all: what is read half would be a mistake for a moment."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    new.rename(file)


# --- the command ------------------------------------------------------------------------------------------------------


async def measure(options: argparse.Namespace) -> list[Json]:
    rows = []
    for routes in map(int, options.routes.split(",")):
        work = from_files if options.source == "files" else in_cluster
        rows.append({"routes": routes, **await work(routes, options)})
    return rows


def main() -> int:
    options = arguments()
    if options.source == "files" or options.inside:
        print(json.dumps({"rows": uvloop.run(measure(options))}))
        return 0
    with bench(keep=options.keep) as made:
        accepted(made, options.gateway_class)
        if made.prefix:  # a cluster of our own, on one machine: the leader alone
            patch = '{"spec": {"replicas": 1}}'
            made.kubectl("-n", NAMESPACE, "patch", "deployment/penstock", "-p", patch, "--field-manager=kubectl")
        command = [*made.prefix, sys.executable, "-m", "benchmarks.routes", *sys.argv[1:], "--inside"]
        return subprocess.run(command, cwd=ROOT, check=False, env=os.environ).returncode


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench NAME=routes", description=__doc__)
    parser.add_argument("--routes", default="1000,5000", metavar="N,...")
    parser.add_argument(
        "--hosts", choices=("many", "one"), default="many", help="a hostname for each route, or for all"
    )
    parser.add_argument("--source", choices=("cluster", "files"), default="cluster")
    parser.add_argument("--changes", type=int, default=25)
    parser.add_argument("--gateway-class", default="penstock")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # in the cluster's network already
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
