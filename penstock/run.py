"""The wiring: `penstock run` in one process. Both pipelines, and whoever listens to their facts, joined here and nowhere else.

files -> Latest[ClusterState] -> reconcile -> Latest[Graph] -> picker, scraper, status
                                          '-> Latest[snapshots] -> ADS -> Envoy
Envoy -> ext_proc -> Picker -> Decision;  Envoy -> access log -> Signals -> Outcome;  facts -> metrics, log
"""

import asyncio
import logging
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import grpc
from aiohttp import web

from observability import catalogue
from observability.aliases import Aliases
from observability.decisions import DecisionLog
from observability.lines import Lines
from observability.log import RequestLog
from observability.registry import Registry
from observability.server import application
from penstock import envoy, export
from penstock.cluster import Joined, joined
from penstock.gateway import Gateway
from penstock.process import UserError
from penstock.settings import Kubernetes, Settings
from picker.completions import access_log_handler
from picker.facts import Outcome
from picker.server import Address, ExtProcServer
from xds_server import server as ads
from xds_server.bootstrap import bootstrap
from xds_server.reconcile import reconcile
from xds_server.resolve.context import IN_CLUSTER, MERGED
from xds_server.sources import files

log = logging.getLogger("penstock")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway, while the block lasts. What fails for good ends the block with an ExceptionGroup."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-")))
        gateway = Gateway(settings, folder)
        cluster = await _join(gateway, settings.kubernetes, stack) if settings.kubernetes else None
        plane = settings.plane(folder, cluster.trust if cluster else None)
        xds = f"unix:{folder / 'xds.sock'}"
        await _serve_xds(gateway, stack, xds, cluster)
        await _serve_picker(gateway, stack, cluster)
        await _serve_telemetry(gateway, stack)
        exporting = await export.opened(settings, gateway.registry)
        for listen in exporting.listen:
            listen(gateway.facts)
        telling = await stack.enter_async_context(gateway.autoscaling.serving(settings, folder, cluster))
        logs = _logs(gateway, stack)
        tasks = await stack.enter_async_context(_cancelled())  # ends first: the last lines are written to an open file
        for work in (
            *_sources(gateway, cluster),
            reconcile(
                gateway.states,
                gateway.graphs,
                gateway.snapshots,
                plane,
                gateway.facts.tell,
                settings.pace,
                IN_CLUSTER if cluster else MERGED,
            ),
            _follow(gateway),
            gateway.scraper.run(),
            gateway.model_lists.run(),
            gateway.exporters.run(),
            gateway.kv_events.run(),
            gateway.tokenizer.run(),
            _heal(gateway),
            _measure_lag(gateway.registry),
            *(work() for work in exporting.work),
            *(work() for work in telling),
            *(log.run() for log in logs),
        ):
            tasks.create_task(work)
        await gateway.snapshots.get()  # an Envoy that comes before the first sync is sent away and waits
        if settings.proxy.start:
            graph = await gateway.graphs.get()
            for problem in taken(plane.socket(port.number) for port in graph.ports):
                log.error("%s", problem)
            gateway.envoy = await stack.enter_async_context(_envoy(settings, folder, xds))
            tasks.create_task(gateway.envoy.wait())
            await _programmed(gateway)
        yield gateway


def _logs(gateway: Gateway, stack: AsyncExitStack) -> list[Lines[Any]]:
    """The logs that the settings ask for, as listeners; what they write still has to run."""
    settings, found = gateway.settings, list[Lines[Any]]()
    project = settings.export.project
    if settings.request_log:
        stream = stack.enter_context(_stream(settings.request_log))
        requests = RequestLog(stream, rate=settings.request_log_rate, project=project)
        gateway.facts.on(Outcome, requests.outcome)
        found.append(requests.lines)
    if settings.decisions:
        decisions = DecisionLog(stack.enter_context(_stream(settings.decisions)), project=project)
        gateway.decisions.on_record = decisions.offer
        found.append(decisions.lines)
    for each in found:
        gateway.registry.collect(each.collect)
    return found


async def _join(gateway: Gateway, settings: Kubernetes, stack: AsyncExitStack) -> Joined:
    found = await stack.enter_async_context(joined(settings, gateway.states, gateway.graphs, gateway.facts.tell))
    found.listen(gateway.facts)
    return found


def _sources(gateway: Gateway, cluster: Joined | None) -> list[Coroutine[Any, Any, Any]]:
    """What brings objects in; a cluster also takes statuses and Envoys."""
    found = [work() for work in cluster.work] if cluster else []
    if gateway.settings.manifests:
        found.append(files.watch(gateway.settings.manifests, gateway.states, gateway.settings.poll))
    return found


async def _programmed(gateway: Gateway, patience: float = 10.0) -> None:
    """Until our Envoy has taken its routes, or refused them: "ready" means that requests are answered."""
    try:
        async with asyncio.timeout(patience):
            await gateway.programmed.wait()
    except TimeoutError:
        log.warning(
            "Envoy has not taken its configuration within %.0f s: %s", patience, gateway.report.status()["proxies"]
        )


@asynccontextmanager
async def _cancelled() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup whose tasks end with the block."""
    tasks: set[asyncio.Task[Any]] = set()

    class Group(asyncio.TaskGroup):
        def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
            task = super().create_task(coro, **options)
            tasks.add(task)
            return task

    async with Group() as group:
        try:
            yield group
        finally:
            for task in tasks:
                task.cancel()


def taken(sockets: Iterable[tuple[str, int]]) -> list[str]:
    """What else listens there. Envoy would not say: it shares a port (SO_REUSEPORT), and another Envoy gets half the requests."""
    found: list[str] = []
    for host, port in sockets:
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            found.append(f"{host}:{port}: {error.strerror}; end what listens there, or choose another --listen")
    return found


def _stream(name: str) -> BinaryIO:
    return sys.stdout.buffer if name == "-" else Path(name).open("ab", buffering=0)


@contextmanager
def _binding(option: str, where: str) -> Iterator[None]:
    """A port that is taken is for the user to mend."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"cannot listen on {where}: {error}; end what listens there, or choose another {option}"
        ) from error


async def _serve_xds(gateway: Gateway, stack: AsyncExitStack, xds: str, cluster: Joined | None) -> None:
    kubernetes = gateway.settings.kubernetes
    addresses = [f"0.0.0.0:{kubernetes.xds_port}"] if kubernetes else [xds, *gateway.settings.xds]
    credentials, identify = (cluster.credentials(), cluster.identify) if cluster else (None, None)
    with _binding("--xds", ", ".join(addresses)):
        server = await stack.enter_async_context(
            ads.serve(addresses, gateway.snapshots, gateway.facts.tell, credentials=credentials, identify=identify)
        )
    gateway.report.proxies = server.fleet
    if cluster:
        cluster.proxies = server.fleet


async def _serve_picker(gateway: Gateway, stack: AsyncExitStack, cluster: Joined | None) -> None:
    settings = gateway.settings
    server = ExtProcServer(
        gateway.picker,
        gateway.asked,
        gateway.serving,
        ended=gateway.ended,
        max_body=settings.max_body,
        tracing=settings.export.tracing,
        admit=cluster.admit_asking if cluster else None,
    )
    where = settings.picker or f"unix:{gateway.folder / 'picker.sock'}"
    address = Address(where)
    if cluster and settings.kubernetes:
        address = Address(f"0.0.0.0:{settings.kubernetes.picker_port}", cluster.credentials())
    gateway.wake = gateway.signals.on_scrape = server.wake
    beside: list[grpc.GenericRpcHandler] = [access_log_handler(gateway.ended, cluster.admit if cluster else None)]
    with _binding("--picker", address.target):
        await stack.enter_async_context(server.listen([address], beside))


async def _serve_telemetry(gateway: Gateway, stack: AsyncExitStack) -> None:
    if not gateway.settings.telemetry:
        return
    ready = lambda: bool(gateway.serving.value)  # noqa: E731
    aliases = Aliases(gateway.settings.metric_aliases)
    report = gateway.report
    app = application(
        gateway.registry,
        ready=ready,
        status=report.status,
        decisions=gateway.decisions,
        view=report.view,
        aliases=aliases,
    )
    gateway.autoscaling.add_page(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    host, _, port = gateway.settings.telemetry.rpartition(":")
    with _binding("--telemetry", gateway.settings.telemetry):
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()


@asynccontextmanager
async def _envoy(settings: Settings, folder: Path, xds: str) -> AsyncIterator[envoy.Envoy]:
    admin = settings.proxy.admin or f"unix:{folder / 'admin.sock'}"
    config = bootstrap(xds, node_id="penstock-standalone", admin=admin)
    async with envoy.running(config, folder, workers=settings.proxy.workers) as process:
        yield process


async def _follow(gateway: Gateway) -> None:
    async for graph in gateway.graphs.values():
        if gateway.opens(graph):
            await gateway.told()
        if not gateway.serving.value:
            await gateway.prepare(graph)
        gateway.apply(graph)
        gateway.report.changed(graph)


async def _heal(gateway: Gateway, every: float = 5.0) -> None:
    """An access log entry that never comes is given up."""
    while True:
        await asyncio.sleep(every)
        for outcome in gateway.signals.expired(time.monotonic()):
            gateway.facts.tell(outcome)
            gateway.wake()


async def _measure_lag(registry: Registry, every: float = 0.5) -> None:
    lag = registry.histogram(catalogue.LOOP_LAG_SECONDS).bind()
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every
        await asyncio.sleep(every)
        lag.observe(max(loop.time() - due, 0.0))
