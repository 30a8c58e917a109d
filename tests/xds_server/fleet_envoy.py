"""A Graph served by a real Envoy, without a control plane in between: its Snapshot as files that Envoy reads."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret

from penstock import envoy
from tests.e2e.waiting import eventually, free_port, listens
from xds_server.model.graph import (
    EVERYTHING,
    Authorities,
    Backend,
    Certificate,
    Chain,
    Endpoint,
    Fleet,
    Forward,
    Graph,
    Port,
    Route,
    VirtualHost,
    WeightedBackend,
)
from xds_server.model.objects import HTTPMatch, ObjectRef, PathMatch
from xds_server.snapshot import CDS, EDS, LDS, RDS, SDS, Snapshot
from xds_server.translate import DataPlane, translate

_TYPES = {CDS: Cluster, EDS: ClusterLoadAssignment, LDS: Listener, RDS: RouteConfiguration, SDS: Secret}
_SOURCES = {"edsConfig": EDS, "configSource": RDS, "sdsConfig": SDS}
_INTERNAL = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
HOME = "127.0.0.1"


def backend(name: str, **more: Any) -> Backend:
    return Backend(f"service/default/{name}/80", ObjectRef("", "Service", "default", name), **more)


def graph(
    *ports: Port, backends: Iterable[Backend] = (), endpoints: dict[str, tuple[Endpoint, ...]] | None = None
) -> Graph:
    return Graph(
        fleets={EVERYTHING: Fleet(ports, {each.cluster: each for each in backends})}, endpoints=endpoints or {}
    )


def on_port_80(*routes: Route, **chain: Any) -> Port:
    return Port(80, (Chain("", None, hosts=(VirtualHost("*", routes),), **chain),))


def to(path: str, *found: Backend, **more: Any) -> Route:
    """A route of a path prefix to these; what is no field of Route is one of its Forward."""
    own = {name: more.pop(name) for name in list(more) if name in Route.__dataclass_fields__}
    action = Forward(tuple(map(WeightedBackend, found)), **more)
    return Route(f"default{path}", HTTPMatch(PathMatch("PathPrefix", path)), **({"action": action} | own))


def at(*ports: int) -> tuple[Endpoint, ...]:
    """Endpoints on this machine."""
    return tuple(Endpoint(HOME, port) for port in sorted(ports))


@asynccontextmanager
async def served(given: Graph, folder: Path, **plane: Any) -> AsyncIterator[dict[int, int]]:
    """Envoy on this Graph; gives where each of its ports is."""
    bound = {port.number: free_port() for port in given.ports}
    binds = tuple((port, HOME, number) for port, number in bound.items())
    snapshot = translate(given, DataPlane(bind=HOME, binds=binds, **plane))[EVERYTHING]
    async with envoy.running(bootstrap(snapshot, folder), folder, workers=1) as process:
        dead = asyncio.ensure_future(process.wait())
        tcp = [bound[port.number] for port in given.ports if port.transport == "TCP"]

        async def up() -> bool:
            assert not dead.done(), process.last_words(20)
            return all([await listens(number) for number in tcp])

        await eventually(up, f"the listeners; see {process.log}")
        yield bound
        await process.stop()
        await dead


def bootstrap(snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    """Files in `folder`, and a bootstrap that names them. Envoy wants one resource a file, except of clusters and listeners."""
    for url, kind in _TYPES.items():
        found = [{"@type": url} | kind.parse(each.body).to_dict() for each in snapshot.of_type(url).values()]
        if url in {CDS, LDS}:
            _write(_file(folder, url), [_from_files(each, folder, str(each["name"])) for each in found])
        else:
            for each in found:
                _write(_file(folder, url, each.get("name") or each["clusterName"]), [each])
    return {
        "node": {"id": "n", "cluster": "c"},
        "dynamicResources": {"cdsConfig": _source(_file(folder, CDS)), "ldsConfig": _source(_file(folder, LDS))},
        "bootstrapExtensions": [{"name": "envoy.bootstrap.internal_listener", "typedConfig": {"@type": _INTERNAL}}],
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
    }


def _from_files(value: Any, folder: Path, name: str) -> Any:
    """`name`: of the resource that a source without a name beside it is for."""
    if isinstance(value, list):
        return [_from_files(each, folder, name) for each in value]
    if not isinstance(value, dict):
        return value
    named = value.get("routeConfigName") or value.get("name") or name
    return {
        key: _source(_file(folder, _SOURCES[key], named))
        if isinstance(each, dict) and "ads" in each
        else _from_files(each, folder, name)
        for key, each in value.items()
    }


def _write(file: Path, resources: list[Any]) -> None:
    file.write_bytes(orjson.dumps({"resources": resources}))


def _source(file: Path) -> dict[str, Any]:
    return {"pathConfigSource": {"path": str(file)}, "resourceApiVersion": "V3"}


def _file(folder: Path, url: str, name: str = "all") -> Path:
    return folder / f"{url.rpartition('.')[2]}-{name.replace('/', '_').replace('*', '_')}.json"


# --- certificates -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A CA that lives as long as a test."""

    key: ec.EllipticCurvePrivateKey
    root: x509.Certificate

    @classmethod
    def new(cls) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(key, _sign(_name("ca"), _name("ca"), key, key, [], ca=True))

    @property
    def pem(self) -> bytes:
        return self.root.public_bytes(serialization.Encoding.PEM)

    @property
    def trusted(self) -> Authorities:
        return Authorities("authorities/test", self.pem)

    def certificate(self, name: str, *uris: str) -> Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        address = x509.IPAddress(ipaddress.ip_address(HOME))
        names = [x509.DNSName(name), address, *map(x509.UniformResourceIdentifier, uris)]
        found = _sign(_name(name), _name("ca"), key, self.key, names, ca=False)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        chain = found.public_bytes(serialization.Encoding.PEM)
        return Certificate(f"default/{name}", chain, key.private_bytes(*form))

    def server(self, folder: Path, certificate: Certificate, *, ask: bool = False) -> ssl.SSLContext:
        """For a backend; `ask`: only clients that this CA vouches for."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if ask:
            context.load_verify_locations(cadata=self.pem.decode())
            context.verify_mode = ssl.CERT_REQUIRED
        return _loaded(context, folder, certificate)

    def client(self, folder: Path, certificate: Certificate | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.pem.decode())
        return _loaded(context, folder, certificate) if certificate else context


def _loaded(context: ssl.SSLContext, folder: Path, certificate: Certificate) -> ssl.SSLContext:
    file = folder / f"{certificate.name.replace('/', '-')}.pem"
    file.write_bytes(certificate.key + certificate.chain)
    context.load_cert_chain(file)
    return context


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _sign(subject: x509.Name, issuer: x509.Name, key: Any, by: Any, names: list[Any], *, ca: bool) -> x509.Certificate:
    found = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2126, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    found = found.add_extension(x509.SubjectAlternativeName(names), critical=False) if names else found
    return found.sign(by, hashes.SHA256())


# --- backends ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def talkers(*words: str, **options: Any) -> AsyncIterator[list[int]]:
    """A TCP server a word: it says the word and closes."""
    async with AsyncExitStack() as stack:
        found = []
        for word in words:
            server = await asyncio.start_server(_talker(word), HOME, 0, **options)
            stack.push_async_callback(_closed, server)
            found.append(server.sockets[0].getsockname()[1])
        yield found


def _talker(word: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(word.encode())
        writer.close()

    return talk


@asynccontextmanager
async def answering(handler: Callable[[web.Request], Any], **options: Any) -> AsyncIterator[int]:
    """An HTTP server that answers everything by `handler`."""
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, HOME, 0, **options).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _closed(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()


async def heard(port: int, **options: Any) -> str:
    """All that the other side says; "" if it hangs up."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection(HOME, port, **options)
        try:
            return (await reader.read()).decode()
        except OSError:
            return ""
        finally:
            writer.close()
