"""One running gateway: what its parts share, and what happens when a fact, a log entry or a new Graph comes. Wired by run.py."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from observability import catalogue, usage
from observability.decisions import Decisions
from observability.hub import Hub
from observability.record import Recorder, load_samples, model_samples, precise_samples
from observability.registry import Registry, Sample
from penstock import autoscaling, envoy
from penstock.report import Report, log_facts
from penstock.settings import Settings
from picker import own_scorers
from picker.exporters import Exporters, measured
from picker.facts import Decision, Outcome
from picker.inflight import LogEntry
from picker.kv_events import KvEvents
from picker.model_lists import ModelLists
from picker.picker import Picker
from picker.scrape import Scraper
from picker.signals import Signals
from picker.tokenizer import Tokenizer
from xds_server.facts import Acked, Nacked, Reconciled
from xds_server.latest import Latest
from xds_server.model.graph import EVERYTHING, Graph, Pool
from xds_server.model.objects import ClusterState
from xds_server.snapshot import EDS, LDS, RDS, Snapshot
from xds_server.sources import files

_HEARD = 0.02  # seconds until the sessions have seen a new snapshot
_LISTED = 0.5  # seconds that a slow model server may keep the others waiting at the start
_TOLD = 1.0  # seconds that a slow proxy may keep the others waiting
_STALE = 10.0  # seconds: twice the slowest scrape, then an endpoint's figures count as stale in the metrics


class Gateway:
    """One running gateway. `facts` tells who listens what happens."""

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
        own, served = own_scorers.own(settings.scorers), self.signals.served
        self.picker = Picker(self.signals, own=own, records=self.decisions, served=served)
        self.model_lists = ModelLists(served)
        self.signals.on_other_models = self.model_lists.hurry
        self.signals.on_return = self._returned
        self.kv_events = KvEvents(self.picker)
        self.tokenizer = Tokenizer(self.picker, self.signals.loads, lacks=served.lacks)
        self.picker.on_unlinked = self.tokenizer.ask
        self.wake: Callable[[], None] = lambda: None  # requests that wait: something has changed that may let them go
        self.envoy: envoy.Envoy | None = None
        located = [partial(files.located, directory=settings.manifests)] if settings.manifests else []
        self.report = Report(self.graphs, self.snapshots, self.picker, self.signals, *located)
        self.report.note = self.tokenizer.note
        self.facts = Hub()
        self._listen()
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

    def _listen(self) -> None:
        """Those who always do; run.py adds others."""
        durations = self.registry.histogram(catalogue.TRANSLATE_DURATION_SECONDS).bind()
        self.facts.on(Reconciled, lambda fact: durations.observe(fact.seconds))
        self.facts.on(Acked, self._took)
        self.facts.on(Nacked, self._took)
        self.recorder.listen(self.facts)
        log_facts(self.facts)
        self.facts.on(Outcome, self.kv_events.observe)

    def _took(self, fact: Acked | Nacked) -> None:
        """A proxy took something, or refused it."""
        self._answered.set()
        if fact.type_url == self._last_type():
            self.programmed.set()

    def asked(self, fact: object) -> None:
        """The picker was asked: a Decision, or the Outcome of a request that it answered itself."""
        if isinstance(fact, Outcome):
            self.signals.reported(fact)
        self.facts.tell(fact)
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
            self.facts.tell(outcome)
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

    def _returned(self, endpoint: str) -> None:
        """A server says something again: what else it says may have changed."""
        self.model_lists.hurry((endpoint,))
        self.kv_events.hurry(endpoint)

    async def prepare(self, graph: Graph) -> None:
        """Until the servers of the first graph have said which models they have: before that adapters would go anywhere."""
        self._found(graph)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LISTED):
                await self.model_lists.all_asked()

    def _found(self, graph: Graph) -> None:
        self.signals.update({name: pool.endpoints for name, pool in graph.pools.items()})
        self.model_lists.update(endpoint for pool in graph.pools.values() for endpoint in pool.endpoints)

    def apply(self, graph: Graph) -> None:
        """The picker's side of a new graph."""
        self._pools = graph.pools
        self.picker.update(graph.pools)
        self._found(graph)
        self.kv_events.update(graph.pools.values())
        self.scraper.update(endpoint for pool in graph.pools.values() for endpoint in pool.endpoints)
        self.exporters.update(measured(graph.pools.values(), self.picker.profile))
        self.recorder.configured(graph.pools.values())
        self.serving.set(True)
        self.wake()

    def _samples(self) -> Iterator[Sample]:
        now = time.monotonic()
        yield Sample(catalogue.BUILD_INFO, {"version": self.report.version}, 1)
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
            yield from model_samples(name, self.signals.loads(name), self.signals.served)
        yield from self.report.samples()
