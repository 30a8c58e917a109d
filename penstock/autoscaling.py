"""Autoscaling, wired: what this replica and its peers know of a pool, and the servers that tell autoscalers.

A figure is of all replicas of the gateway or it is none: a replica that does not answer makes it Unavailable.
"""

import asyncio
import logging
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import grpc.aio
from aiohttp import web

from observability import catalogue
from observability.autoscaling import explain, external_metrics, front_proxy, keda, pages, signals
from observability.autoscaling.signals import Known, Readings, Unavailable, UnknownPool
from observability.registry import Registry, Sample
from penstock.cluster import Joined
from penstock.process import UserError
from penstock.settings import Settings
from picker.demand import Demand, merged, of_plain
from picker.picker import Picker
from xds_server.authority import ServerCertificate
from xds_server.kubernetes.api import Api, ApiError
from xds_server.latest import Latest
from xds_server.model.graph import Graph

log = logging.getLogger("penstock")
_PEER = 1.0  # seconds that another replica may take to answer
_REFRESH = 600.0  # seconds between two looks at certificates and authorities
_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/" + external_metrics.API_SERVICE
NO_LABELS: Mapping[str, str] = MappingProxyType({})

Peers = Callable[[], Awaitable[list[str]]]  # "host:port" of the other replicas' telemetry


async def _alone() -> list[str]:
    return []


class Autoscaling:
    """Reads demands. For one event loop; `session` is needed where there are peers."""

    def __init__(self, picker: Picker, graphs: Latest[Graph], registry: Registry) -> None:
        self._picker, self._graphs = picker, graphs
        self.peers: Peers = _alone
        self.session: aiohttp.ClientSession | None = None
        self._starved: dict[str, asyncio.Event] = {}
        self._served = registry.counter(catalogue.AUTOSCALE_SERVED_TOTAL)
        picker.on_starved = self._on_starved
        registry.collect(self.samples)

    def pools(self) -> list[str]:
        graph = self._graphs.value
        return sorted(graph.pools) if graph is not None else []

    def here(self, pool: str, labels: Mapping[str, str] = NO_LABELS) -> Demand:
        """What this replica knows. Raises UnknownPool, and Unavailable before the first objects are read."""
        if self._graphs.value is None:
            raise Unavailable("the gateway has not read its objects yet")
        found = self._picker.demand(pool, time.monotonic(), labels)
        if found is None:
            raise UnknownPool(f"there is no InferencePool {pool}; there are {', '.join(self.pools()) or 'none'}")
        return found

    async def read(self, pool: str, labels: Mapping[str, str] = NO_LABELS) -> Readings:
        """What all replicas know. Raises UnknownPool and Unavailable."""
        return (await self._read(pool, labels))[0]

    async def explain(self, pool: str, labels: Mapping[str, str] = NO_LABELS) -> Mapping[str, Any]:
        return explain.document(*await self._read(pool, labels))

    async def _read(self, pool: str, labels: Mapping[str, str]) -> tuple[Readings, int]:
        self.here(pool, labels)  # before the others are asked
        addresses = await self.peers()
        others = await asyncio.gather(*(self._ask(address, pool, labels) for address in addresses))
        return signals.read(merged([self.here(pool, labels), *others])), 1 + len(others)

    async def _ask(self, address: str, pool: str, labels: Mapping[str, str]) -> Demand:
        assert self.session is not None  # noqa: S101 -- whoever sets `peers` sets it
        query = {"pool": pool, "here": "1", "labels": ",".join(f"{name}={value}" for name, value in labels.items())}
        try:
            async with self.session.get(
                f"http://{address}{pages.PATH}", params=query, timeout=aiohttp.ClientTimeout(_PEER)
            ) as answer:
                data = await answer.json()
                if answer.status != 200:
                    raise Unavailable(f"replica {address}: {data.get('error', answer.status)}")
                return of_plain(data)
        except (aiohttp.ClientError, TimeoutError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise Unavailable(
                f"replica {address} does not say what it holds: {error or type(error).__name__}"
            ) from error

    @asynccontextmanager
    async def serving(
        self, settings: Settings, folder: Path, cluster: Joined | None
    ) -> AsyncIterator[list[Callable[[], Coroutine[Any, Any, None]]]]:
        """The servers that the settings want; gives what is to run beside them. Raises UserError."""
        wanted, kubernetes = settings.autoscaling, settings.kubernetes
        work: list[Callable[[], Coroutine[Any, Any, None]]] = []
        async with AsyncExitStack() as stack:
            if kubernetes and settings.telemetry:
                self.session = await stack.enter_async_context(aiohttp.ClientSession())
                port = int(settings.telemetry.rpartition(":")[2])
                self.peers = named_peers(kubernetes.replicas, port, kubernetes.address)
            try:
                if wanted.scaler:
                    credentials = cluster.credentials() if cluster and wanted.scaler_tls else None
                    await stack.enter_async_context(serving_scaler(self, wanted.scaler, credentials))
                if wanted.external_metrics and cluster:
                    host, port = _where(wanted.external_metrics)
                    api = ExternalMetrics(self, cluster.api, cluster.certificate, cluster.authority, folder)
                    await stack.enter_async_context(api.serving(host, port))
                    work.append(lambda: api.run(host, port))
            except (OSError, RuntimeError) as error:
                remedy = "end what listens there, or choose another --scaler or --external-metrics"
                raise UserError(f"cannot listen on {wanted.addresses}: {error}; {remedy}") from error
            yield work

    def add_page(self, app: web.Application) -> None:
        """/autoscale, for the telemetry server."""
        pages.add_page(app, self.pools, lambda pool, labels: self.here(pool, labels).plain(), self.explain)

    async def woken(self, pool: str, seconds: float) -> None:
        """Until a request waits for the pool, which has no endpoint, or the time is over."""
        event = asyncio.Event()
        if pool in self.pools():  # others are a client's words, and are not kept
            event = self._starved.setdefault(pool, event)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        event.clear()

    def _on_starved(self, pool: str) -> None:
        if event := self._starved.get(pool):
            event.set()

    def counting(self, api: str) -> Callable[[str], None]:
        """For the metric of what was served: by result."""
        series = {result: self._served.bind(api=api, result=result) for result in catalogue.SERVED.values}
        return lambda result: series[result].inc()

    def samples(self) -> Iterator[Sample]:
        """The part of this replica, for those who scrape all replicas; what is not known has no sample."""
        exported = (signals.QUEUE, signals.INFLIGHT, signals.BACKLOG, signals.DESIRED)
        for pool in self.pools():
            with suppress(UnknownPool):
                demand = self.here(pool)
                found = signals.read(demand)
                for signal in exported:
                    value = found.values[signal.name]
                    if isinstance(value, Known):
                        yield Sample(signal.metric, {"pool": pool}, value.value)
                for endpoint, each in demand.endpoints.items():
                    if each.utilization is not None:
                        labels = {"pool": pool, "endpoint": endpoint}
                        yield Sample(catalogue.ENDPOINT_ACCELERATOR_UTILIZATION, labels, each.utilization)


def _where(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise UserError(f"--external-metrics {address}: the API server asks by TCP; write HOST:PORT")
    return host.strip("[]"), int(port)


def named_peers(name: str, port: int, own: str) -> Peers:
    """The addresses of a headless Service, without our own; where nobody has the name, there are no others.

    Raises Unavailable where DNS does not answer.
    """

    async def find() -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
                return []
            raise Unavailable(f"{name}: {error}; the other replicas cannot be asked") from error
        addresses = sorted({str(address[0]) for *_, address in found} - {own})
        return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in addresses]

    return find


# --- servers ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving_scaler(scaling: Autoscaling, address: str, credentials: Any = None) -> AsyncIterator[int]:
    """KEDA's external scaler; gives the port. Raises OSError or RuntimeError where the port is taken."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    scaler = keda.Scaler(scaling.read, scaling.woken, scaling.counting("keda"))
    server.add_generic_rpc_handlers((scaler.handler(),))
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0.5)


class ExternalMetrics:
    """The aggregated API over TLS: a certificate of our authority, clients of the API server's front proxy only."""

    def __init__(
        self, scaling: Autoscaling, api: Api, certificate: ServerCertificate, authority: bytes, folder: Path
    ) -> None:
        self._scaling, self._api, self._certificate, self._authority = scaling, api, certificate, authority
        self._file = folder / "external-metrics.pem"
        self._trusted: front_proxy.FrontProxy | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.BaseSite | None = None

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[None]:
        """Raises UserError where the cluster does not say whom to trust."""
        try:
            trusted = await self._front_proxy()
        except (ApiError, front_proxy.NoFrontProxy) as error:
            raise UserError(f"external metrics: {error}") from error
        app = external_metrics.application(
            self._scaling.read,
            admit=front_proxy.admission(lambda: self._trusted or trusted),
            count=self._scaling.counting("external_metrics"),
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await self._listen(host, port, trusted)
            yield
        finally:
            await self._runner.cleanup()

    async def run(self, host: str, port: int) -> None:
        """Tell the API server whom to expect here; and follow what changes: our certificate, and its authority."""
        while True:
            try:
                await self._announce()
                trusted = await self._front_proxy()
                if trusted != self._trusted or self._current() != self._file.read_bytes():
                    await self._listen(host, port, trusted)
            except (ApiError, front_proxy.NoFrontProxy) as error:
                log.warning("external metrics, again in %.0f s: %s", _REFRESH, error)
            await asyncio.sleep(_REFRESH)

    async def _listen(self, host: str, port: int, trusted: front_proxy.FrontProxy) -> None:
        """Connections that there are stay as they are."""
        assert self._runner is not None  # noqa: S101 -- set by `serving`
        self._file.touch(mode=0o600)
        self._file.write_bytes(self._current())
        made = front_proxy.context(trusted, self._file)
        if self._site is not None:
            await self._site.stop()
        self._site, self._trusted = web.TCPSite(self._runner, host, port, ssl_context=made), trusted
        await self._site.start()

    def _current(self) -> bytes:
        pair = self._certificate.current
        return pair.certificate + pair.key

    async def _front_proxy(self) -> front_proxy.FrontProxy:
        return front_proxy.read(await self._api.get(front_proxy.CONFIG_MAP))

    async def _announce(self) -> None:
        """Our authority into the APIService that points to us, so that the API server knows us by it."""
        await announce(self._api, self._authority)


async def announce(api: Api, authority: bytes) -> bool:
    """Whether the APIService has, or now has, our authority. One that is not ours, or skips TLS on purpose, is left alone."""
    found = await api.get(_SERVICE)
    spec, bundle = found.get("spec") or {}, b64encode(authority).decode()
    if (found.get("metadata") or {}).get("labels", {}).get("app.kubernetes.io/name") != "penstock":
        log.warning(
            "APIService %s is not ours: another adapter serves it, and ours is not asked", external_metrics.API_SERVICE
        )
        return False
    if spec.get("insecureSkipTLSVerify"):
        return False
    if spec.get("caBundle") != bundle:
        await api.patch(_SERVICE, {"spec": {"caBundle": bundle}})
        log.info("APIService %s has our authority", external_metrics.API_SERVICE)
    return True
