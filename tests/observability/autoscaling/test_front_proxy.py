"""Who may ask the aggregated API: over real TLS, with certificates as an API server's front proxy and others have them."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from observability.autoscaling.external_metrics import ROOT, application
from observability.autoscaling.front_proxy import FrontProxy, NoFrontProxy, admission, context, read
from observability.autoscaling.signals import Readings, Unavailable
from tests.e2e.waiting import free_port
from xds_server.authority import SERVER_LIFETIME, SKEW, KeyPair, issue, new_authority

NOW = datetime.now(UTC)
OURS, FRONT, OTHER = (new_authority(NOW, name) for name in ("ours", "front", "other"))


def client(authority: KeyPair, name: str, folder: Path) -> Path:
    """PEM of a client's certificate and key."""
    signer = serialization.load_pem_private_key(authority.key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.load_pem_x509_certificate(authority.certificate).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - SKEW)
        .not_valid_after(NOW + SERVER_LIFETIME)
        .sign(signer, hashes.SHA256())  # type: ignore[arg-type]
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / f"{name}.pem"
    file.write_bytes(made.public_bytes(pem) + secret)
    return file


async def unknown(*_: object) -> Readings:
    raise Unavailable("stale")


@asynccontextmanager
async def serving(folder: Path, trusted: FrontProxy) -> AsyncIterator[int]:
    pair, file = issue(OURS, ["penstock.penstock-system.svc"], NOW), folder / "server.pem"
    file.write_bytes(pair.certificate + pair.key)
    runner = web.AppRunner(application(unknown, admit=admission(lambda: trusted)))
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context(trusted, file)).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def ask(port: int, certificate: Path | None = None, path: str = ROOT) -> tuple[int, str]:
    made = ssl.create_default_context(cadata=OURS.certificate.decode())
    if certificate:
        made.load_cert_chain(certificate)
    url = f"https://127.0.0.1:{port}{path}"
    connector = aiohttp.TCPConnector(ssl=made)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(url, server_hostname="penstock.penstock-system.svc") as answer,
    ):
        return answer.status, await answer.text()


async def test_the_front_proxy_is_answered_and_nobody_else(tmp_path: Path) -> None:
    trusted = FrontProxy(FRONT.certificate.decode(), ("front-proxy-client",))
    async with serving(tmp_path, trusted) as port:
        assert (await ask(port, client(FRONT, "front-proxy-client", tmp_path)))[0] == 200
        status, body = await ask(port, client(FRONT, "somebody", tmp_path))
        assert status == 403 and "somebody is not the API server's front proxy" in body
        status, body = await ask(port)
        assert status == 401 and "through the API server" in body
        assert (await ask(port, path="/readyz"))[0] == 200
        with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
            await ask(port, client(OTHER, "front-proxy-client", tmp_path))


async def test_without_names_any_that_the_authority_has_signed_is_the_front_proxy(tmp_path: Path) -> None:
    async with serving(tmp_path, FrontProxy(FRONT.certificate.decode())) as port:
        assert (await ask(port, client(FRONT, "anybody", tmp_path)))[0] == 200
        assert (await ask(port))[0] == 401


def test_the_cluster_says_whom_to_trust() -> None:
    pem = FRONT.certificate.decode()
    data = {"requestheader-client-ca-file": pem, "requestheader-allowed-names": '["a", "b"]'}
    assert read({"data": data}) == FrontProxy(pem, ("a", "b"))
    assert read({"data": data | {"requestheader-allowed-names": ""}}).names == ()
    with pytest.raises(NoFrontProxy, match="--requestheader-client-ca-file"):
        read({"data": {"client-ca-file": "PEM"}})
    with pytest.raises(NoFrontProxy, match="not a JSON list"):
        read({"data": data | {"requestheader-allowed-names": "a,b"}})
    with pytest.raises(NoFrontProxy, match="not a JSON list"):
        read({"data": data | {"requestheader-allowed-names": "5"}})
    for broken in (
        "PEM",
        "PÉM",
        pem.replace("A", "B"),
    ):  # it is read again and again: what is wrong there must end nobody
        with pytest.raises(NoFrontProxy, match="no certificate in PEM"):
            read({"data": data | {"requestheader-client-ca-file": broken}})
