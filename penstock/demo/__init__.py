"""The whole gateway on this machine with simulated model servers: real Envoy, real traffic, shown live until Ctrl-C.

A pool's annotation `penstock.dev/simulate` has the options of the `penstock sim` that stands in for each of its endpoints.
"""

import argparse
import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from penstock.arguments import listen_of
from penstock.demo import traffic
from penstock.demo.targets import SIMULATE, Target, targets
from penstock.demo.view import Figures, live, rows
from penstock.gateway import Gateway
from penstock.process import UserError, until_signal
from penstock.run import running
from penstock.settings import Listen, Proxy, Settings
from picker.facts import Outcome
from xds_server.model.graph import Endpoint, Graph
from xds_server.model.objects import ClusterState, InferencePool
from xds_server.resolve import resolve
from xds_server.sources import files

_QUICKSTART = Path("examples", "quickstart")
_LONGEST = 45.0  # seconds of traffic with --once
_PATIENCE = 10.0  # seconds for the first good answer, and for the last outcome


async def main(given: argparse.Namespace) -> int:
    """`penstock demo`; the exit status is 0 only if nothing failed."""
    stop = until_signal()
    directory = _directory(given.manifests)
    state = files.read(directory).state
    graph = resolve(state)
    if not graph.ports:
        raise UserError(
            f"{directory} has no listener that can be served; see `penstock translate {directory} --show status`"
        )
    settings = _settings(directory, graph, listen_of(given))
    host, port = settings.plane(directory).socket(graph.ports[0].number)
    found = targets(graph, state)
    if not found:
        raise UserError(f"no route of {directory} leads to a pool with the annotation {SIMULATE}")
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(_servers(state, graph))
        gateway = await stack.enter_async_context(running(settings))
        figures = Figures()
        gateway.facts.on(Outcome, figures.ended)
        client = traffic.Traffic(f"http://{host}:{port}", found, rate=given.rate, seed=given.seed)
        await client.warm_up(_PATIENCE)
        print(_greeting(gateway, f"http://{host}:{port}", found[0]), file=sys.stderr, flush=True)
        seconds = min(given.seconds, _LONGEST) if given.once else None
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(live(gateway, figures, once=given.once)),
                tasks.create_task(_last(servers)),
            ]
            await client.run(stop, seconds)
            await _until(lambda: figures.requests >= client.sent, _PATIENCE)
            for task in beside:
                task.cancel()
    if given.once:
        result = {
            "requests": client.sent,
            "failed": client.failed,
            "seen_by_gateway": figures.requests,
            "rows": rows(figures),
        }
        print(json.dumps(result))
        return int(client.failed > 0 or figures.requests < client.sent or not client.sent)
    print(f"{client.sent} requests, {client.failed} failed.", file=sys.stderr)
    return 0


def _directory(given: Path | None) -> Path:
    """What was asked for, or the quickstart of the clone that this runs in."""
    candidates = [given] if given else [_QUICKSTART, Path(__file__).parents[2] / _QUICKSTART]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise UserError(f"{candidates[0]} is no directory; name one: penstock demo --manifests DIR")


def _settings(directory: Path, graph: Graph, listen: Listen) -> Settings:
    """Ports that are taken are replaced by free ones: a demo shall run where something else does, too."""
    binds = {number: (address, bound) for number, address, bound in listen.binds}
    for port in graph.ports:
        if port.number not in binds and not _free(listen.address, port.number):
            binds[port.number] = (listen.address, _any_port(listen.address))
    telemetry = 9090 if _free("127.0.0.1", 9090) else _any_port("127.0.0.1")
    admin = 19000 if _free("127.0.0.1", 19000) else _any_port("127.0.0.1")
    return Settings(
        directory,
        listen=replace(listen, binds=tuple((number, *where) for number, where in binds.items())),
        proxy=Proxy(workers=1, admin=f"127.0.0.1:{admin}"),
        telemetry=f"127.0.0.1:{telemetry}",
    )


def _free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _any_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _servers(state: ClusterState, graph: Graph) -> AsyncIterator[asyncio.subprocess.Process]:
    """The simulated servers, in one process of their own: they must not take time from the picker's event loop."""
    commands = [
        [
            *pool.meta.annotations[SIMULATE].split(),
            "--host",
            address,
            "--port",
            str(port),
            "--name",
            Endpoint(address, port).host_port,
        ]
        for pool in state.all(InferencePool)
        if SIMULATE in pool.meta.annotations
        for address, port in dict.fromkeys(
            (each.address, each.port) for each in graph.pools[f"{pool.meta.namespace}/{pool.meta.ref.name}"].endpoints
        )
    ]
    arguments = [sys.executable, "-m", "penstock.demo.servers", json.dumps(commands)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, start_new_session=True)
    try:
        if process.stdout is None or await process.stdout.readline() != b"ready\n":
            raise UserError("the simulated servers did not start; what they said is above")
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _last(servers: asyncio.subprocess.Process) -> None:
    """Raises when the servers are gone before the demo ends."""
    code = await servers.wait()
    raise UserError(f"the simulated servers ended with status {code}")


async def _until(true: Callable[[], bool], patience: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not true():  # noqa: ASYNC110  the counters are plain numbers
                await asyncio.sleep(0.05)


def _greeting(gateway: Gateway, url: str, example: Target) -> str:
    body = json.dumps({"model": example.model, example.field: example.prompt("Hello!"), "max_tokens": 16})
    host = "" if example.host == "localhost" else f" -H 'host: {example.host}'"
    return "\n".join(
        _lines(gateway, url, example, f"curl {url}{example.path}{host} -H 'content-type: application/json' -d '{body}'")
    )


def _lines(gateway: Gateway, url: str, example: Target, curl: str) -> Iterable[str]:
    yield f"\nPenstock is running: {gateway.addresses()}"
    yield "Send a request of your own:"
    yield f"  {curl}"
    if example.sdk_base is not None:
        headers = "" if example.host == "localhost" else f", default_headers={{'host': '{example.host}'}}"
        call = "chat.completions" if example.field == "messages" else "completions"
        yield f"  python -c \"from openai import OpenAI; print(OpenAI(base_url='{url}{example.sdk_base}', api_key='none'{headers})"
        yield f"    .{call}.create(model='{example.model}', {example.field}={example.prompt('Hello!')!r}, max_tokens=16))\""
    yield "Ctrl-C ends it.\n"
