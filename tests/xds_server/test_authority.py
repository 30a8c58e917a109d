"""The authority: made once, kept in a Secret; certificates that gRPC and a real Envoy take; tokens that Envoy sends and renews."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from penstock.envoy import find_envoy
from tests.xds_server.test_admission import fleet_of
from tests.xds_server.tokens import Api, token, vouched
from xds_server.admission import Admission
from xds_server.authority import (
    KeyPair,
    ServerCertificate,
    issue,
    new_authority,
    obtain,
    read_secret,
    secret,
    service_names,
)
from xds_server.bootstrap import Status, Trust, bootstrap, token_secret
from xds_server.latest import Latest
from xds_server.model.objects import InvalidObject
from xds_server.server import Fleets, serve
from xds_server.snapshot import Snapshot

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = service_names("penstock", "penstock-system")
NAME = "penstock.penstock-system.svc"


class Store:
    """The one Secret; `lost` replicas find that another was first."""

    def __init__(self, winner: dict[str, Any] | None = None) -> None:
        self.manifest: Any = None
        self.winner = winner

    async def read(self) -> Any:
        return self.manifest

    async def create(self, manifest: Any) -> bool:
        self.manifest = self.winner or manifest
        return self.winner is None


async def test_the_first_replica_makes_it_and_the_others_read_it() -> None:
    store = Store()
    made = await obtain(store.read, store.create, NOW, "sys", "authority")
    found = await obtain(store.read, store.create, NOW, "sys", "authority")
    assert (made.certificate, made.key) == (found.certificate, found.key)
    beaten = Store(winner=store.manifest)
    assert (await obtain(beaten.read, beaten.create, NOW, "sys", "authority")).key == made.key
    assert "PRIVATE" not in repr(made)


@pytest.mark.parametrize("data", [{}, {"tls.crt": "eA==", "tls.key": "eA=="}, {"tls.crt": "%", "tls.key": 1}, None])
def test_a_secret_that_is_no_authority_is_said_with_the_remedy(data: Any) -> None:
    with pytest.raises(InvalidObject, match=r"Secret sys/a: .*delete the Secret"):
        read_secret({"metadata": {"namespace": "sys", "name": "a"}, "data": data}, NOW)


def test_a_key_of_another_and_an_end_that_has_come_are_refused() -> None:
    one, two = new_authority(NOW), new_authority(NOW)
    with pytest.raises(InvalidObject, match="does not belong"):
        read_secret(secret(KeyPair(one.certificate, two.key), "sys", "a"), NOW)
    with pytest.raises(InvalidObject, match="ended on 2035"):
        read_secret(secret(one, "sys", "a"), NOW + timedelta(days=3650))


def test_a_certificate_ends_no_later_than_its_authority() -> None:
    authority = new_authority(NOW)
    late = NOW + timedelta(days=3645)
    found = x509.load_pem_x509_certificate(issue(authority, NAMES, late).certificate)
    assert found.not_valid_after_utc == x509.load_pem_x509_certificate(authority.certificate).not_valid_after_utc
    found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    assert issue(authority, ["x" * 200 + ".svc"], NOW)  # a long name fits


async def test_a_new_certificate_comes_before_the_old_one_ends_and_the_server_stays() -> None:
    moment = [datetime.now(UTC) - timedelta(days=21)]
    authority = new_authority(moment[0])
    certificate = ServerCertificate(authority, NAMES, lambda: moment[0])
    snapshots = Latest[Fleets]()

    async def serial(port: int) -> int:
        channel = await asyncio.open_connection("127.0.0.1", port, ssl=_context(authority), server_hostname=NAME)
        found = x509.load_der_x509_certificate(channel[1].get_extra_info("ssl_object").getpeercert(binary_form=True))
        channel[1].close()
        return found.serial_number

    async with (
        asyncio.timeout(30),
        serve(["127.0.0.1:0"], snapshots, lambda _: None, credentials=certificate.credentials()) as server,
    ):
        first = await serial(server.ports[0])
        assert await serial(server.ports[0]) == first
        moment[0] += timedelta(days=21)
        second = await serial(server.ports[0])
        assert second != first
        assert x509.load_pem_x509_certificate(certificate.current.certificate).serial_number == second


def _context(authority: KeyPair) -> Any:
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    return context


class Mounted:
    """What the pod's volumes hold, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "token"
        self.folder.mkdir()
        self.turn = 0

    def write(self, text: str) -> None:
        """As kubelet: a new folder, then one move of the link to it."""
        self.turn += 1
        fresh = self.folder / f"..{self.turn}"
        fresh.mkdir()
        (fresh / "token").write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(fresh.name)
        link.rename(self.folder / "..data")
        if self.turn == 1:
            (self.folder / "token").symlink_to("..data/token")


@asynccontextmanager
async def envoy(config: dict[str, Any], folder: Path) -> AsyncIterator[Path]:
    (folder / "envoy.json").write_text(json.dumps(config))
    arguments = ["-c", str(folder / "envoy.json"), "--log-path", str(folder / "log"), "--disable-hot-restart"]
    arguments += ["--concurrency", "1", "--service-node", "web-1.prod", "--service-cluster", "prod/web"]
    process = await asyncio.create_subprocess_exec(find_envoy(), *arguments)
    try:
        yield folder / "log"
    finally:
        process.kill()
        await process.wait()


def trusted(folder: Path, authority: KeyPair, name: str = NAME) -> Trust:
    trust = Trust(authority.certificate.decode(), name, str(folder / "token" / "token"), str(folder / "sds.json"))
    (folder / "sds.json").write_text(json.dumps(token_secret(trust)))
    return trust


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.mark.envoy
async def test_envoy_sends_its_token_over_tls_and_the_new_one_once_it_is_renewed(tmp_path: Path) -> None:
    mounted, authority = Mounted(tmp_path), new_authority(datetime.now(UTC))
    mounted.write(token())
    seen = Latest[str]()

    async def record(metadata: Any) -> None:  # refuses: Envoy comes again
        seen.set(dict(metadata)["authorization"])

    certificate = ServerCertificate(authority, NAMES, lambda: datetime.now(UTC))
    async with (
        asyncio.timeout(60),
        serve(["127.0.0.1:0"], Latest[Fleets](), lambda _: None, credentials=certificate.credentials(), identify=record) as server,
        envoy(bootstrap(f"127.0.0.1:{server.ports[0]}", admin=f"unix:{tmp_path}/a", trust=trusted(tmp_path, authority)), tmp_path),
    ):  # fmt: skip
        assert await seen.get() == f"Bearer {token()}"
        renewed = token(exp=4102444801)
        mounted.write(renewed)
        async for value in seen.values():
            if value == f"Bearer {renewed}":
                break


@pytest.mark.envoy
async def test_envoy_becomes_ready_without_a_listener_and_shows_nothing_of_its_admin(tmp_path: Path) -> None:
    Mounted(tmp_path).write(token())
    authority, snapshots, port = new_authority(datetime.now(UTC)), Latest[Fleets](), free_port()
    snapshots.set({"prod/web": Snapshot()})
    certificate = ServerCertificate(authority, NAMES, lambda: datetime.now(UTC))
    admission = Admission(Api({token(): vouched()}), fleet_of)
    credentials = certificate.credentials()
    async with (
        asyncio.timeout(60),
        serve(["127.0.0.1:0"], snapshots, lambda _: None, credentials=credentials, identify=admission) as server,
    ):
        config = bootstrap(
            f"127.0.0.1:{server.ports[0]}",
            admin=f"unix:{tmp_path}/a",
            trust=trusted(tmp_path, authority),
            status=Status(port, "127.0.0.1"),
        )
        async with envoy(config, tmp_path), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            await answers(client, "/ready")
            (proxy,) = server.fleet
            assert (proxy.node.id, proxy.node.cluster) == ("web-1.prod", "prod/web")
            for path in ("/stats", "/config_dump", "/", "/stats/prometheus/..", "/stats/prometheus/../config_dump"):
                async with client.get(path) as refused:
                    assert refused.status == 404, path
            async with client.post("/stats/prometheus") as refused:
                assert refused.status == 404
            async with client.get("/stats/prometheus") as found:
                assert "envoy_server_live{} 1" in await found.text()


async def answers(client: aiohttp.ClientSession, path: str) -> None:
    """Until Envoy has opened its listener; the test's timeout ends it."""
    while True:
        try:
            async with client.get(path) as found:
                assert found.status == 200
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)


@pytest.mark.envoy
async def test_envoy_trusts_neither_another_authority_nor_another_name(tmp_path: Path) -> None:
    Mounted(tmp_path).write(token())
    authority, other = new_authority(datetime.now(UTC)), new_authority(datetime.now(UTC))
    asked: list[Any] = []

    async def record(metadata: Any) -> None:
        asked.append(metadata)

    certificate = ServerCertificate(authority, NAMES, lambda: datetime.now(UTC))
    async with (
        asyncio.timeout(60),
        serve(["127.0.0.1:0"], Latest[Fleets](), lambda _: None, credentials=certificate.credentials(), identify=record) as server,
    ):  # fmt: skip
        for index, trust in enumerate((("x.other.svc", authority), (NAME, other))):
            folder = tmp_path / str(index)
            folder.mkdir()
            Mounted(folder).write(token())
            config = bootstrap(
                f"127.0.0.1:{server.ports[0]}", admin=f"unix:{folder}/a", trust=trusted(folder, trust[1], trust[0])
            )
            async with (
                envoy(config, folder),
                aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{folder}/a")) as admin,
            ):
                await counted(admin, ("fail_verify_san", "fail_verify_error")[index])
    assert not asked


async def counted(admin: aiohttp.ClientSession, stat: str) -> None:
    """Until Envoy has counted one; its log would say so only after 40 s."""
    while True:
        try:
            async with admin.get(f"http://envoy/stats?usedonly&filter=^cluster.xds.ssl.{stat}$") as found:
                if await found.text():
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.05)
