"""A gateway in a Kubernetes cluster: `penstock controller`. Objects come from the API server, statuses and Envoys go back to it.

API server --watch--> Latest[ClusterState];  Latest[Graph] --refusals--> status writer, provisioner (of the replica that leads)
Envoy --TLS, ServiceAccount token--> admission --> the fleet of its Gateway
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import grpc

from observability.hub import Hub
from penstock.process import UserError
from penstock.settings import Kubernetes
from xds_server import authority
from xds_server.admission import Admission, Identify, admitted
from xds_server.bootstrap import Trust
from xds_server.facts import Acked, Disconnected, Nacked, NodeStatus, Observe
from xds_server.identity import Account
from xds_server.infrastructure import Infrastructure, fleet_of, manifests, owners, resource_name, trust
from xds_server.kubernetes.access import Access, AccessError, load
from xds_server.kubernetes.api import Api, ApiError, connect
from xds_server.kubernetes.lease import Leading, Lease
from xds_server.kubernetes.provision import Provisioner
from xds_server.kubernetes.source import Source
from xds_server.kubernetes.writer import Writer
from xds_server.latest import Latest
from xds_server.model.graph import CONTROLLER, Fleet, Graph
from xds_server.model.objects import (
    GATEWAY_GROUP,
    ClusterState,
    ConfigMap,
    Gateway,
    GatewayClass,
    InvalidObject,
    ObjectRef,
)
from xds_server.overlay import Overlays, read_overlays
from xds_server.parse import parse
from xds_server.refusals import refusals, with_refusals
from xds_server.resolve.wanted import wanted

log = logging.getLogger("penstock")
AUTHORITY = "penstock-authority"  # the Secret
LEASE = "penstock"
_LINGER = 300.0  # seconds
Keeps = Callable[[str], bool]  # whether a fleet that no Graph has now is to stay
_ATTACHED = frozenset({"ServiceAccount", "ConfigMap"})


@dataclass(slots=True)
class Joined:
    """What a cluster adds to a gateway: how streams are let in, what runs beside, and where the statuses come from."""

    credentials: Callable[[], Any]  # new grpc.ServerCredentials: each serves one port
    identify: Identify
    trust: Trust  # for the Envoys, of this process
    api: Api
    certificate: authority.ServerCertificate  # of this replica
    authority: bytes  # PEM: what it is known by
    work: tuple[Callable[[], Coroutine[Any, Any, Any]], ...]
    changed: asyncio.Event  # proxies, or what they refuse
    pools: Callable[
        [str], Collection[str]
    ]  # "ns/name" of every pool that a fleet's routes lead to and that we pick for
    proxies: Iterable[NodeStatus] = ()  # the live ones; the ADS server sets its own view
    refusing: bool = field(default=False)

    async def admit(self, context: Any) -> str:
        """The fleet of a stream; a stream of nobody's is ended."""
        return await admitted(context, self.identify)

    async def admit_asking(self, context: Any, pool: str) -> None:
        """A stream that asks the picker: an Envoy asks for the pools that its own Gateway routes to, and for no other."""
        fleet = await self.admit(context)
        if pool not in self.pools(fleet):
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"no route of Gateway {fleet} leads to InferencePool {pool or '(none)'}",
            )

    def listen(self, hub: Hub) -> None:
        """Statuses tell what proxies refuse."""
        hub.on(Nacked, lambda _: self.changed.set())
        hub.on(Acked, self._may_take)
        hub.on(Disconnected, self._may_take)

    def _may_take(self, _: Acked | Disconnected) -> None:
        """One that refused something may have been the last."""
        if self.refusing:
            self.changed.set()


async def attachment(settings: Kubernetes, gateway: str) -> dict[str, Any]:
    """The ServiceAccount and the ConfigMap that Envoys of somebody else need to serve a Gateway ("namespace/name"), as a List."""
    namespace, _, name = gateway.partition("/")
    if not name:
        raise UserError(f"{gateway} names no Gateway; write NAMESPACE/NAME")
    path = f"/apis/{GATEWAY_GROUP}/v1/namespaces/{namespace}/gateways/{name}"
    async with connect(await _access(settings)) as api:
        try:
            document = await api.get(path)
        except ApiError as error:
            raise UserError(f"Gateway {gateway}: {error}; name one that exists") from error
        found = parse(document, strict=False)
        keys = await _authority(api, settings, make=False)
    if not isinstance(found, Gateway):
        raise UserError(f"{gateway} is no Gateway")
    made = manifests(found, (), _infrastructure(settings, keys), uid=document["metadata"]["uid"])
    return {"apiVersion": "v1", "kind": "List", "items": [each for each in made if each["kind"] in _ATTACHED]}


async def _access(settings: Kubernetes) -> Access:
    try:
        return await load(settings.kubeconfig or None, settings.context or None)
    except AccessError as error:
        raise UserError(str(error)) from error


def _infrastructure(settings: Kubernetes, keys: authority.KeyPair) -> Infrastructure:
    """With what Envoys must know of us."""
    name = authority.service_names(settings.service, settings.namespace)[1]
    pem = keys.certificate.decode()
    return replace(settings.infrastructure, xds=f"{name}:{settings.xds_port}", server_name=name, authority=pem)


@asynccontextmanager
async def joined(
    settings: Kubernetes, states: Latest[ClusterState], graphs: Latest[Graph], observe: Observe
) -> AsyncIterator[Joined]:
    """Raises UserError where the API server cannot be reached as configured."""
    async with connect(await _access(settings)) as api:
        keys = await _authority(api, settings)
        names = authority.service_names(settings.service, settings.namespace)
        certificate = authority.ServerCertificate(keys, names, lambda: datetime.now(UTC))
        infrastructure = _infrastructure(settings, keys)
        leading = Leading()
        told: Latest[Graph] = Latest()
        source = Source(api, states, wanted, observe, namespaces=settings.watch)
        lease = Lease(api, settings.namespace, LEASE, settings.identity, leading, observe)
        writer = Writer(api, told, source.held, leading, observe)
        work: list[Callable[[], Coroutine[Any, Any, Any]]] = [source.run, lease.run, writer.run]

        def keeps(name: str) -> bool:
            return stays(states.value, name)

        if settings.provision:
            makes = _Maker(states, graphs, source, infrastructure)
            work.append(Provisioner(api, graphs, leading, makes, observe, keeps=keeps).run)
        found = Joined(
            credentials=certificate.credentials,
            identify=_admission(api, graphs, keeps),
            trust=trust(infrastructure),
            api=api,
            certificate=certificate,
            authority=keys.certificate,
            work=(),
            changed=asyncio.Event(),
            pools=_Pools(graphs, keeps=keeps),
        )
        work += [lambda: _tell(graphs, told, found), lambda: _follow(graphs, found.changed)]
        found.work = tuple(work)
        yield found


def _admission(api: Api, graphs: Latest[Graph], keeps: Keeps) -> Admission:
    """By the newest Graph. The Envoys of a Gateway that is to stay, though no Graph has it now, go on with what they have."""

    async def review(body: Mapping[str, Any]) -> Mapping[str, Any]:
        return await api.create("/apis/authentication.k8s.io/v1/tokenreviews", dict(body))

    held = _Owners(graphs, keeps)

    def fleet(account: Account) -> str | None:
        name, graph = fleet_of(held())(account), graphs.value
        gone = name is None or graph is None or (name not in graph.fleets and not keeps(name))
        return None if gone else name

    return Admission(review, fleet, clock=time.time)


class _Pools:
    """The pools that each fleet may ask for. One that its last route has just left is asked for until its Envoys know that."""

    def __init__(
        self, graphs: Latest[Graph], clock: Callable[[], float] = time.monotonic, keeps: Keeps = lambda _: False
    ) -> None:
        self._graphs, self._clock, self._keeps = graphs, clock, keeps
        self._of: Graph | None = None
        self._until: dict[str, dict[str, float]] = {}  # fleet -> pool -> when it is no longer asked for
        self._next = math.inf  # when the first of these is

    def __call__(self, fleet: str) -> Collection[str]:
        graph, now = self._graphs.value, self._clock()
        if graph is not None and (graph is not self._of or now >= self._next):
            self._of = graph
            self._update(graph, now)
        return self._until.get(fleet, {})

    def _update(self, graph: Graph, now: float) -> None:
        rest = {
            name: {pool: until for pool, until in pools.items() if until > now} for name, pools in self._until.items()
        }
        found = {name: pools for name, pools in rest.items() if name not in graph.fleets and self._keeps(name)}
        for name, fleet in graph.fleets.items():
            used = [backend.ref for backend in fleet.backends.values() if backend.pool]
            left = {pool: min(until, now + _LINGER) for pool, until in rest.get(name, {}).items()}
            found[name] = left | {f"{ref.namespace}/{ref.name}": math.inf for ref in used}
        self._until = found
        self._next = min((until for pools in found.values() for until in pools.values()), default=math.inf)


class _Owners:
    """Whose each name of what is made is, by the newest Graph. Worked out once for a Graph: every stream of a picker asks."""

    def __init__(self, graphs: Latest[Graph], keeps: Keeps = lambda _: False) -> None:
        self._graphs, self._keeps = graphs, keeps
        self._of: Graph | None = None
        self._gateways: dict[str, Gateway] = {}  # by their fleets
        self._owners: Mapping[tuple[str, str], Gateway] = {}

    def __call__(self) -> Mapping[tuple[str, str], Gateway]:
        graph = self._graphs.value
        if graph is not None and graph is not self._of:
            left = {name: each for name, each in self._gateways.items() if self._keeps(name)}
            self._gateways = left | {name: each.gateway for name, each in graph.fleets.items() if each.gateway}
            self._owners = owners(self._gateways.values())
            self._of = graph
        return self._owners


async def _authority(api: Api, settings: Kubernetes, *, make: bool = True) -> authority.KeyPair:
    """Our CA, from the Secret of our namespace; if nobody has made it yet, made, or a UserError."""
    collection = f"/api/v1/namespaces/{settings.namespace}/secrets"

    async def read() -> Mapping[str, Any] | None:
        try:
            return await api.get(f"{collection}/{AUTHORITY}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def create(manifest: Mapping[str, Any]) -> bool:
        if not make:
            raise UserError(
                f"Secret {settings.namespace}/{AUTHORITY} does not exist; start `penstock controller` first"
            )
        try:
            await api.create(collection, dict(manifest))
        except ApiError as error:
            if error.code == 409:
                return False
            raise
        return True

    try:
        return await authority.obtain(read, create, datetime.now(UTC), settings.namespace, AUTHORITY)
    except ApiError as error:
        raise UserError(
            f"Secret {settings.namespace}/{AUTHORITY}: {error}; let our ServiceAccount get and create it"
        ) from error
    except InvalidObject as error:
        raise UserError(str(error)) from error


class _Maker:
    """The manifests of a fleet. A Gateway whose parameters do not fit, or cannot be read, keeps what it has."""

    def __init__(
        self, states: Latest[ClusterState], graphs: Latest[Graph], source: Source, settings: Infrastructure
    ) -> None:
        self._states, self._owners, self._source, self._settings = states, _Owners(graphs), source, settings
        self._made_of: dict[str, object] = {}  # what `_last` was made of: most Graphs change nothing in it
        self._last: dict[
            str, tuple[str, list[dict[str, Any]]]
        ] = {}  # with the Gateway's uid: another one has nothing yet

    def __call__(self, name: str, fleet: Fleet) -> list[dict[str, Any]]:
        gateway, state = fleet.gateway, self._states.value
        if gateway is None or state is None:
            return []
        holder = self._owners().get((gateway.meta.namespace, resource_name(gateway)), gateway)
        if holder != gateway:
            log.warning(
                "%s: its name for what is made is that of the older %s; rename it", gateway.meta.ref, holder.meta.ref
            )
            return []
        entry = self._source.held.entry(gateway.meta.ref)
        uid = entry.uid if entry else ""
        ports = [(port.number, port.transport) for port in fleet.ports]
        config = state.get(ConfigMap, gateway.parameters) if gateway.parameters else None
        readable = config is not None or gateway.parameters is None
        try:
            made_of = (gateway, ports, config, uid)
            # Without a uid it is being deleted, and nothing would own what is made.
            if uid and readable and self._made_of.get(name) != made_of:
                overlays = read_overlays(config) if config else Overlays()
                self._last[name] = uid, manifests(gateway, ports, self._settings, uid=uid, overlays=overlays)
                self._made_of[name] = made_of
        except InvalidObject as error:
            log.warning("%s", error.problem)
        known, made = self._last.get(name, ("", []))
        return made if known == uid or not uid else []


def stays(state: ClusterState | None, name: str) -> bool:
    """Whether a Gateway that has no fleet is still there, and nobody else's: its class is missing, or is not accepted.

    Its Envoys serve what they have until somebody mends the class; deleted with their Services they would lose their addresses.
    """
    namespace, _, gateway_name = name.partition("/")
    gateway = state.get(Gateway, ObjectRef(GATEWAY_GROUP, "Gateway", namespace, gateway_name)) if state else None
    if state is None or gateway is None:
        return state is None
    found = state.get(GatewayClass, ObjectRef(GATEWAY_GROUP, "GatewayClass", "", gateway.gateway_class))
    return found is None or found.controller == CONTROLLER


async def _follow(graphs: Latest[Graph], changed: asyncio.Event) -> None:
    async for _ in graphs.values():
        changed.set()


async def _tell(graphs: Latest[Graph], told: Latest[Graph], found: Joined) -> None:
    """The graph with what its proxies refuse, for the status writer."""
    while True:
        await found.changed.wait()
        found.changed.clear()
        if graphs.value is not None:
            graph = graphs.value
            refused = refusals(found.proxies, graph)
            found.refusing = any(refused.values())
            told.set(with_refusals(graph, refused))
