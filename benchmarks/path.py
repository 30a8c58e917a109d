"""What a request costs on its way: CPU of the picker process and of its Envoy, beside a plain Envoy under the same load.

`python -m benchmarks.path [--seconds 4] [--rows 1/0,0.8/100]`: `penstock run` with an Envoy of its own (4 endpoints, routed by model, no
request log) and an Envoy with a static route to the same backends, one worker each, turn by turn. Half of each prompt is one of 16
beginnings, the rest is new. The last line is JSON, in microseconds of user and system time per request; all the picker process does
is in it: decisions, access log, scrapes, metrics. Exit status 1 if any request failed, or was not decided by the picker.
"""

import argparse
import asyncio
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop

from benchmarks import _load
from benchmarks.flips import HOST, STARTUP_S, TYPE, endpoint, free_port, listens
from penstock import envoy

MODEL = "llama"
ENDPOINTS = 4
WARM_UP_S = 1.0
# (KB, streamed tokens or 0, connections)
ROWS = ((1, 0, 32), (8, 0, 32), (64, 0, 32), (400, 0, 8), (0.8, 100, 16), (0.8, 1000, 16), (400, 1000, 8))
MANIFESTS = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: penstock}}
spec: {{controllerName: penstock.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: path}}
spec:
  gatewayClassName: penstock
  listeners:
  - {{name: http, port: {port}, protocol: HTTP}}
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: pool
  annotations: {{penstock.dev/endpoints: "{endpoints}"}}
spec:
  selector: {{matchLabels: {{app: pool}}}}
  targetPorts: [{{number: 8000}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: models}}
spec:
  parentRefs: [{{name: path}}]
  rules:
  - matches:
    - path: {{type: PathPrefix, value: /v1}}
      headers: [{{name: x-gateway-model-name, value: {model}}}]
    backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: pool}}]
"""


@asynccontextmanager
async def program(
    *arguments: str, out: int | None = None, err: Any = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program that runs while the block lasts."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, stdout=out, stderr=err)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def backends(count: int) -> AsyncIterator[list[int]]:
    """Their ports."""
    async with program("benchmarks._backend", str(count), out=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        async with asyncio.timeout(STARTUP_S):
            line = await process.stdout.readline()
        yield [int(port) for port in line.split()]


@asynccontextmanager
async def product(folder: Path, ports: list[int]) -> AsyncIterator[tuple[int, int, int, int]]:
    """`penstock run`: its port, that of its telemetry, and the process ids of the picker and of its Envoy."""
    port, telemetry = free_port(), free_port()
    manifests, log = folder / "manifests", folder / "penstock.log"
    manifests.mkdir()
    where = ", ".join(f"{HOST}:{each}" for each in ports)
    (manifests / "all.yaml").write_text(MANIFESTS.format(port=port, endpoints=where, model=MODEL))
    command = ["penstock.cli", "run", "--manifests", str(manifests), "--workers", "1", "--request-log", ""]
    command += ["--admin", f"{HOST}:{free_port()}", "--telemetry", f"{HOST}:{telemetry}"]
    with log.open("wb") as err:
        async with program(*command, err=err) as process:
            try:
                async with asyncio.timeout(STARTUP_S):
                    while not await listens(port):
                        await asyncio.sleep(0.1)
            except TimeoutError:
                raise SystemExit(f"penstock did not start: {log.read_text()[-2000:]}") from None
            children = psutil.Process(process.pid).children(recursive=True)
            yield port, telemetry, process.pid, next(child.pid for child in children if child.name() == "envoy")


def plain(port: int, ports: list[int]) -> dict[str, Any]:
    """The bootstrap of an Envoy that does nothing but forward."""
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "all", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}],
    }
    listener = {
        "name": "listener",
        "address": endpoint(port)["endpoint"]["address"],
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": manager}]}],
    }
    cluster = {
        "name": "all",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "all", "endpoints": [{"lb_endpoints": [endpoint(each) for each in ports]}]},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


async def decisions(telemetry: int) -> int:
    """How many the picker says it has made."""
    reader, writer = await asyncio.open_connection(HOST, telemetry)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: path\r\nconnection: close\r\n\r\n")
    page = await reader.read()
    writer.close()
    found = re.findall(rb"(?m)^\w+_schedule_duration_seconds_count(?:\{.*\})? (\d+)", page)
    return sum(map(int, found))


async def measure(
    kilobytes: float, tokens: int, connections: int, seconds: float, port: int, pids: dict[str, int]
) -> tuple[_load.Measured, int]:
    body = _load.bodies(int(kilobytes * 1000), tokens, MODEL)
    return await _load.run(
        (HOST, port), body, tokens=tokens, connections=connections, warm_up=WARM_UP_S, seconds=seconds, pids=pids
    )


async def main(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    sent = 0
    with tempfile.TemporaryDirectory(prefix="path-") as name:
        folder, other = Path(name), free_port()
        async with (
            backends(ENDPOINTS) as ports,
            product(folder, ports) as (port, telemetry, picker, its_envoy),
            envoy.running(plain(other, ports), folder, workers=1) as plain_envoy,
        ):
            async with asyncio.timeout(STARTUP_S):
                while not await listens(other):
                    await asyncio.sleep(0.05)
            began = _load.cpu_seconds(picker)
            await asyncio.sleep(1.0)
            idle = round((_load.cpu_seconds(picker) - began) * 1000, 1)
            print(f"{'body':>8} {'tokens':>7} | {'picker':>9} {'Envoy':>9} {'req/s':>8} {'p50':>9} | plain Envoy")
            for kilobytes, tokens, connections in ROWS:
                if options.rows and f"{kilobytes:g}/{tokens}" not in options.rows.split(","):
                    continue
                load = (kilobytes, tokens, connections, options.seconds)
                ours, total = await measure(*load, port, {"picker": picker, "envoy": its_envoy})
                sent += total
                theirs, _ = await measure(*load, other, {"plain": plain_envoy.pid})
                row = {
                    "body_kb": kilobytes,
                    "tokens": tokens,
                    "connections": connections,
                    "picker_us": ours.us("picker"),
                    "envoy_us": ours.us("envoy"),
                    "plain_envoy_us": theirs.us("plain"),
                    "requests_per_second": ours.per_second,
                    "p50_ms": ours.p50_ms,
                    "plain_requests_per_second": theirs.per_second,
                    "plain_p50_ms": theirs.p50_ms,
                }
                rows.append(row)
                print(
                    f"{kilobytes:>5g} KB {tokens:>7} | {row['picker_us']:>6.0f} us {row['envoy_us']:>6.0f} us "
                    f"{ours.per_second:>8.0f} {ours.p50_ms:>6.1f} ms | "
                    f"{row['plain_envoy_us']:>6.0f} us {theirs.per_second:>8.0f} {theirs.p50_ms:>6.1f} ms",
                    flush=True,
                )
            decided = await decisions(telemetry)
    print(f"idle: {idle} ms of CPU a second; {decided} decisions for {sent} requests")
    print(json.dumps({"rows": rows, "idle_ms_per_second": idle, "requests": sent, "decisions": decided}))
    return 0 if decided == sent else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row and Envoy, after a warm-up of one")
    parser.add_argument("--rows", default="", help="only these: KB/TOKENS,...")
    try:
        sys.exit(uvloop.run(main(parser.parse_args())))
    except (_load.LoadFailed, TimeoutError) as error:
        sys.exit(f"a request failed: {error or 'no answer in time'}")
