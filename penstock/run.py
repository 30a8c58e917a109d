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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import grpc
from aiohttp import web

from observability import catalogue, usage
from observability.aliases import Aliases
from observability.decisions import DecisionLog, Decisions
from observability.log import RequestLog
from observability.record import Recorder, load_samples, precise_samples
from observability.registry import Registry, Sample
from observability.server import application
from penstock import autoscaling, envoy, export
from penstock.cluster import Joined, joined
from penstock.process import UserError
from penstock.report import Report
from penstock.settings import Kubernetes, Settings
from picker import own_scorers
from picker.completions import access_log_handler
from picker.exporters import Exporters, measured
from picker.facts import Decision, Outcome
from picker.inflight import LogEntry
from picker.kv_events import KvEvents
from picker.picker import Picker
from picker.scrape import Scraper
from picker.server import Address, ExtProcServer
from picker.signals import Signals
from picker.tokenizer import Tokenizer
from xds_server import server as ads
from xds_server.bootstrap import bootstrap
from xds_server.facts import Acked, Nacked
from xds_server.latest import Latest
from xds_server.model.graph import EVERYTHING, Graph, Pool
from xds_server.model.objects import ClusterState
from xds_server.reconcile import Reconciled, reconcile
from xds_server.resolve.context import IN_CLUSTER, MERGED
from xds_server.snapshot import EDS, LDS, RDS, Snapshot
from xds_server.sources import files

log = logging.getLogger("penstock")
_HEARD = 0.02  # seconds until the sessions have seen a new snapshot
_TOLD = 1.0  # seconds that a slow proxy may keep the others waiting
_STALE = 10.0  # seconds: twice the slowest scrape, then an endpoint's figures count as stale in the metrics
Observe = Callable[[object], None]


class Gateway:
    """One running gateway. `watch` adds a subscriber of facts."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.states: Latest[ClusterState] = Latest()
        self.graphs: Latest[Graph] = Latest()
        self.snapshots: Latest[Mapping[str, Snapshot]] = Latest()
        self.serving: Latest[bool] = Latest()
        self._pools: Mapping[str, Pool] = {}  # as the picker knows them
        self._answered = asyncio.Event()  # some proxy took, or refused, something
        self.programmed = asyncio.Event()  # some proxy has taken, or refused, all that there is
        self.registry = Registry()
        self.recorder = Recorder(self.registry)
        self.signals = Signals()
        self.scraper = Scraper(self.signals)
        self.exporters = Exporters(self.signals)
        self.decisions = Decisions(settings.decisions_rate, header=settings.explain)
        self.picker = Picker(self.signals, own=own_scorers.own(settings.scorers), records=self.decisions)
        self.kv_events = KvEvents(self.picker)
        self.tokenizer = Tokenizer(self.picker, self.signals.loads)
        self.picker.on_unlinked = self.tokenizer.ask
        self.wake: Callable[[], None] = lambda: None  # requests that wait: something has changed that may let them go
        self.envoy: envoy.Envoy | None = None
        located = [partial(files.located, directory=settings.manifests)] if settings.manifests else []
        self.report = Report(self.graphs, self.snapshots, self.picker, self.signals, *located)
        self.report.note = self.tokenizer.note
        self._observers: list[Observe] = [self.recorder.observe, self.report.observe, self.kv_events.observe]
        self._duration = self.registry.histogram(catalogue.TRANSLATE_DURATION_SECONDS).bind()
        self._version = version("penstock")  # reads a file: not at every scrape
        self.registry.collect(self._samples)
        self.registry.collect(usage.collect)
        self.autoscaling = autoscaling.Autoscaling(self.picker, self.graphs, self.registry)

    def addresses(self) -> str:
        """Where the gateway, Envoy's admin and the telemetry are."""
        settings, graph = self.settings, self.graphs.value
        if cluster := settings.kubernetes:
            where = f"namespace {', '.join(cluster.watch)}" if cluster.watch else "every namespace"
            return (
                f"gateways of {where}; xDS on port {cluster.xds_port}, picker {cluster.address}:{cluster.picker_port}"
            )
        plane = settings.plane(self.folder)
        sockets = [plane.socket(port.number) for port in graph.ports] if graph else []
        listeners = ", ".join(f"{host}:{port}" for host, port in sockets) or "no listener yet"
        if not settings.proxy.start:
            listeners = (
                f"for Envoys that listen on {listeners}; xDS {', '.join(settings.xds)}, picker {settings.picker}"
            )
        proxy = settings.proxy
        admin = f", Envoy's admin http://{proxy.admin}" if proxy.start and proxy.admin else ""
        telemetry = f", telemetry http://{settings.telemetry}/metrics and /status" if settings.telemetry else ""
        return f"gateway {listeners}{admin}{telemetry}"

    def watch(self, observe: Observe) -> None:
        self._observers.append(observe)

    def observe(self, fact: object) -> None:
        if isinstance(fact, Reconciled):
            self._duration.observe(fact.seconds)
        elif isinstance(fact, Acked | Nacked):
            self._answered.set()
            if fact.type_url == self._last_type():
                self.programmed.set()
        for each in self._observers:
            each(fact)

    def asked(self, fact: object) -> None:
        """The picker was asked: a Decision, or the Outcome of a request that it answered itself."""
        if isinstance(fact, Outcome):
            self.signals.reported(fact)
        self.observe(fact)
        if isinstance(fact, Decision) and (entry := self.signals.early(fact)) is not None:
            self.ended(entry)  # the client had left already

    def _last_type(self) -> str:
        """The type that a proxy takes last: routes, if there are any."""
        snapshot = (self.snapshots.value or {}).get(EVERYTHING, Snapshot())
        return RDS if snapshot.of_type(RDS) else LDS

    def ended(self, entry: LogEntry) -> None:
        """A request ended, says Envoy."""
        outcome = self.signals.finished(entry)
        if outcome is not None:
            self.observe(outcome)
        self.wake()

    def opens(self, graph: Graph) -> bool:
        """Whether a pool that had no endpoint gets its first: requests may be waiting for it."""
        empty = {name for name, pool in self._pools.items() if not pool.endpoints}
        return any(pool.endpoints for name, pool in graph.pools.items() if name in empty)

    async def told(self) -> None:
        """Until every proxy has taken its endpoints, or would have: one that is chosen before Envoy knows it cannot be reached."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TOLD):
                await asyncio.sleep(_HEARD)
                while any(
                    kind.type_url == EDS and kind.state == "PENDING"
                    for proxy in self.report.proxies
                    for kind in proxy.types
                ):
                    self._answered.clear()
                    await self._answered.wait()

    def apply(self, graph: Graph) -> None:
        """The picker's side of a new graph."""
        self._pools = graph.pools
        self.picker.update(graph.pools)
        self.signals.update({name: pool.endpoints for name, pool in graph.pools.items()})
        self.kv_events.update(graph.pools.values())
        self.scraper.update(endpoint for pool in graph.pools.values() for endpoint in pool.endpoints)
        self.exporters.update(measured(graph.pools.values(), self.picker.profile))
        self.recorder.configured(graph.pools.values())
        self.serving.set(True)
        self.wake()

    def _samples(self) -> Iterator[Sample]:
        now = time.monotonic()
        yield Sample(catalogue.BUILD_INFO, {"version": self._version}, 1)
        for name, pool in self.graphs.value.pools.items() if self.graphs.value else ():
            yield from load_samples(
                name,
                self.signals.loads(name),
                now,
                stale_after=_STALE,
                saturation=self.picker.saturation(name, now),
                draining=sum(endpoint.draining for endpoint in pool.endpoints),
                failures=self.signals.failures,
                queued=self.picker.queued(name),
                causes=self.picker.causes(name, now),
            )
            yield from precise_samples(name, self.picker.precise(name))
        yield from self.report.samples()


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
        for observe in exporting.observe:
            gateway.watch(observe)
        telling = await stack.enter_async_context(gateway.autoscaling.serving(settings, folder, cluster))
        log_to = stack.enter_context(_stream(settings.request_log)) if settings.request_log else None
        tasks = await stack.enter_async_context(_cancelled())  # ends first: the last lines are written to an open file
        for work in (
            *_sources(gateway, cluster),
            reconcile(
                gateway.states,
                gateway.graphs,
                gateway.snapshots,
                plane,
                gateway.observe,
                settings.pace,
                IN_CLUSTER if cluster else MERGED,
            ),
            _follow(gateway),
            gateway.scraper.run(),
            gateway.exporters.run(),
            gateway.kv_events.run(),
            gateway.tokenizer.run(),
            _heal(gateway),
            _measure_lag(gateway.registry),
            *(work() for work in exporting.work),
            *(work() for work in telling),
        ):
            tasks.create_task(work)
        if log_to:
            request_log = RequestLog(log_to, rate=settings.request_log_rate, project=settings.export.project)
            gateway.watch(request_log.observe)
            gateway.registry.collect(request_log.collect)
            tasks.create_task(request_log.run())
        if settings.decisions:
            decision_log = DecisionLog(
                stack.enter_context(_stream(settings.decisions)), project=settings.export.project
            )
            gateway.decisions.on_record = decision_log.offer
            gateway.registry.collect(decision_log.collect)
            tasks.create_task(decision_log.run())
        await gateway.snapshots.get()  # an Envoy that comes before the first sync is sent away and waits
        if settings.proxy.start:
            graph = await gateway.graphs.get()
            for problem in taken(plane.socket(port.number) for port in graph.ports):
                log.error("%s", problem)
            gateway.envoy = await stack.enter_async_context(_envoy(settings, folder, xds))
            tasks.create_task(gateway.envoy.wait())
            await _programmed(gateway)
        yield gateway


async def _join(gateway: Gateway, settings: Kubernetes, stack: AsyncExitStack) -> Joined:
    found = await stack.enter_async_context(joined(settings, gateway.states, gateway.graphs, gateway.observe))
    gateway.watch(found.observe)
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
            ads.serve(addresses, gateway.snapshots, gateway.observe, credentials=credentials, identify=identify)
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
        gateway.apply(graph)
        gateway.report.changed(graph)


async def _heal(gateway: Gateway, every: float = 5.0) -> None:
    """An access log entry that never comes is given up."""
    while True:
        await asyncio.sleep(every)
        for outcome in gateway.signals.expired(time.monotonic()):
            gateway.observe(outcome)
            gateway.wake()


async def _measure_lag(registry: Registry, every: float = 0.5) -> None:
    lag = registry.histogram(catalogue.LOOP_LAG_SECONDS).bind()
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + every
        await asyncio.sleep(every)
        lag.observe(max(loop.time() - due, 0.0))
