"""Gateway API beside inference: TLS, filters, timeouts, retries and grants, for a plain Service behind the real Envoy."""

import base64
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, route, rule, service, to_service
from tests.e2e.waiting import eventually, until
from tests.e2e.world import World, world

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]
NAME = "secure.example"
HTTPS = "  - {name: https, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}\n"
HEADERS = """filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-set, value: "100% ours"}]
        add: [{name: x-add, value: two}]
        remove: [x-remove]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: x-backend, value: hidden}]
        add: [{name: x-more, value: "yes"}]"""
TO_HTTPS = "filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]"
ELSEWHERE = (
    "filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, port: 8081, "
    "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]"
)
MIRRORED = "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}}}]"
GRANT = """
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: from-default, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: "", kind: Service}]
"""


def certificate(name: str) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), secret


def secret(found: tuple[bytes, bytes]) -> str:
    chain, key = (base64.b64encode(each).decode() for each in found)
    return f"""
apiVersion: v1
kind: Secret
metadata: {{name: cert}}
type: kubernetes.io/tls
data: {{tls.crt: {chain}, tls.key: {key}}}
"""


@pytest.fixture(scope="module")
def pair() -> tuple[bytes, bytes]:
    return certificate(NAME)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web() -> AsyncIterator[Backend]:
    async with backend("web") as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shadow() -> AsyncIterator[Backend]:
    async with backend("shadow") as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, web: Backend, shadow: Backend, pair: tuple[bytes, bytes]
) -> AsyncIterator[World]:
    to = to_service("web")
    routes = route(
        "all",
        rule("/plain", to),
        rule("/headers", to, more=HEADERS),
        rule("/to-https", more=TO_HTTPS),
        rule("/elsewhere", more=ELSEWHERE),
        rule("/mirrored", to, more=MIRRORED),
        rule("/in-time", to, more="timeouts: {request: 200ms}"),
        rule("/retried", to, more="retry: {codes: [503], attempts: 2, backoff: 10ms}"),
        rule("/granted", to_service("web", "other")),
    )
    text = documents(
        GATEWAY.rstrip() + "\n" + HTTPS,
        secret(pair),
        *(service("web", web.address), service("shadow", shadow.address), service("web", web.address, "other")),
        routes,
    )
    folder = Path(tmp_path_factory.mktemp("manifests"))
    async with world(folder, {"all.yaml": text}, ports=(8080, 8443)) as found:
        yield found


async def test_a_service_is_served_through_its_endpoint_slice(gateway: World, web: Backend) -> None:
    answer = await gateway.send("POST", "/plain/a%20b?q=1", {"x": 1}, host="any.example:8080")
    assert (answer.status, answer.header("x-backend")) == (200, "web")
    last = web.seen[-1]
    assert (last.method, last.path, last.host, last.body) == (
        "POST",
        "/plain/a%20b?q=1",
        "any.example:8080",
        b'{"x": 1}',
    )


async def test_header_filters(gateway: World, web: Backend) -> None:
    answer = await gateway.send("GET", "/headers", x_set="theirs", x_add="one", x_remove="gone")
    seen = web.seen[-1].headers
    assert (seen["x-set"], "x-remove" in seen) == ("100% ours", False)
    assert seen["x-add"] == "one,two"
    assert (answer.header("x-backend"), answer.header("x-more")) == ("hidden", "yes")


async def test_redirects(gateway: World) -> None:
    for host in ("site.example", "site.example:8080"):  # the listener's port must not be taken along to https
        secure = await gateway.send("GET", "/to-https/page?q=1", host=host)
        assert (secure.status, secure.header("location")) == (301, "https://site.example:443/to-https/page?q=1")
    other = await gateway.send("GET", "/elsewhere/page")
    assert (other.status, other.header("location")) == (302, "http://other.example:8081/new/page")


async def test_a_mirror_gets_a_copy_and_the_client_never_waits_for_it(
    gateway: World, web: Backend, shadow: Backend
) -> None:
    shadow.hang = True
    answer = await gateway.post("/mirrored", {"hello": "world"})
    assert (answer.status, answer.header("x-backend")) == (200, "web")
    await until(lambda: shadow.seen, "the copy")
    assert shadow.seen[-1].body == web.seen[-1].body == b'{"hello": "world"}'


async def test_a_timeout_is_504(gateway: World, web: Backend) -> None:
    assert (await gateway.send("GET", "/in-time")).status == 200
    web.hang = True
    try:
        assert (await gateway.send("GET", "/in-time")).status == 504
    finally:
        web.hang = False


@pytest.mark.parametrize(("failures", "status", "tries"), [(0, 200, 1), (2, 200, 3), (3, 503, 3)])
async def test_retries(gateway: World, web: Backend, failures: int, status: int, tries: int) -> None:
    before, web.failures = len(web.seen), failures
    try:
        assert (await gateway.send("GET", "/retried")).status == status
        assert len(web.seen) - before == tries
    finally:
        web.failures = 0


async def test_without_a_retry_policy_a_503_of_a_service_is_the_clients(gateway: World, web: Backend) -> None:
    before, web.failures = len(web.seen), 1
    assert (await gateway.send("GET", "/plain")).status == 503
    assert len(web.seen) - before == 1


async def test_another_namespace_serves_only_with_its_grant(gateway: World) -> None:
    assert (await gateway.send("GET", "/granted")).status == 500
    assert any("ReferenceGrant" in problem for problem in gateway.problems)
    gateway.write("grant.yaml", GRANT)

    async def granted() -> bool:
        return (await gateway.send("GET", "/granted")).status == 200

    await eventually(granted, "the grant")
    assert gateway.problems == []
    (gateway.manifests / "grant.yaml").unlink()

    async def refused() -> bool:
        return (await gateway.send("GET", "/granted")).status == 500

    await eventually(refused, "the end of the grant")


def trusting(pem: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=pem.decode())


async def over_tls(gateway: World, pem: bytes) -> int:
    """The status of a request on a new connection that trusts `pem` alone."""
    url = gateway.url("/plain", 8443, "https")
    options: dict[str, Any] = {"ssl": trusting(pem), "server_hostname": NAME, "headers": {"host": NAME}}
    async with aiohttp.ClientSession() as session, session.get(url, **options) as response:
        return response.status


async def test_https_with_the_certificate_of_the_secret(gateway: World, pair: tuple[bytes, bytes]) -> None:
    assert await over_tls(gateway, pair[0]) == 200


async def test_a_certificate_is_rotated_live(gateway: World, pair: tuple[bytes, bytes]) -> None:
    text = (gateway.manifests / "all.yaml").read_text()
    newer = certificate(NAME)
    gateway.write("all.yaml", text.replace(secret(pair).strip(), secret(newer).strip()))

    async def trusted() -> bool:
        try:
            return await over_tls(gateway, newer[0]) == 200
        except aiohttp.ClientConnectorCertificateError:
            return False

    await eventually(trusted, "the newer certificate")
