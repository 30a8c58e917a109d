"""TLS in a real Envoy: what clients must show, and which backends are believed."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.xds_server.fleet_envoy import HOME, Authority, answering, at, backend, graph, served, to
from xds_server.model.graph import (
    Authorities,
    Chain,
    ClientCheck,
    Port,
    Reply,
    RetryBudget,
    Route,
    ServerTLS,
    UpstreamTLS,
    VirtualHost,
)
from xds_server.model.objects import HTTPMatch
from xds_server.translate import DataPlane, tls
from xds_server.translate.cluster import cluster

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize("required", [True, False])
async def test_clients_show_a_certificate_that_our_authorities_issued_or_any_if_it_is_not_required(
    tmp_path: Path, required: bool
) -> None:
    ca, other = Authority.new(), Authority.new()
    server = ServerTLS((ca.certificate("web.test"),), ClientCheck(ca.trusted, required))
    host = VirtualHost("*", (Route("r", HTTPMatch(), Reply(418)),))
    port = Port(443, (Chain("web.test", server, hosts=(host,)),), sni=True)
    shown = {"ours": ca.certificate("ours"), "theirs": other.certificate("theirs"), "none": None}
    seen = {}
    async with served(graph(port), tmp_path) as bound, aiohttp.ClientSession() as session:
        for name, certificate in shown.items():
            client, url = ca.client(tmp_path, certificate), f"https://{HOME}:{bound[443]}/"
            try:
                async with session.get(url, ssl=client, server_hostname="web.test") as answer:
                    seen[name] = answer.status
            except (aiohttp.ClientError, OSError):
                seen[name] = 0
    assert seen == ({"ours": 418, "theirs": 0, "none": 0} if required else dict.fromkeys(shown, 418))


@asynccontextmanager
async def tls_backend(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Answers with the subject of the client's certificate."""

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        shown = request.transport.get_extra_info("peercert") or {}
        return web.Response(text=str(dict(part[0] for part in shown.get("subject", ())).get("commonName", "nobody")))

    async with answering(answer, ssl_context=context) as port:
        yield port


async def test_a_backend_is_believed_by_its_issuer_and_its_name(tmp_path: Path) -> None:
    ca, other = Authority.new(), Authority.new()
    plain = UpstreamTLS("backend.test", ca.trusted)
    cases = {
        "good": plain,
        "shows": replace(plain, certificate=ca.certificate("gateway")),
        "name": replace(plain, hostname="other.test"),
        "issuer": replace(plain, authorities=Authorities("authorities/other", other.pem)),
        "system": replace(plain, authorities=None),
        "uri": replace(plain, hostname="any.test", names=(("URI", "spiffe://x/backend"),)),
        "second-name": replace(
            plain, hostname="any.test", names=(("Hostname", "no.test"), ("Hostname", "backend.test"))
        ),
        "wrong-uri": replace(plain, names=(("URI", "spiffe://x/other"),)),
        "unverified": UpstreamTLS("any.test", None, verify=False),
    }
    backends = {name: backend(name, tls=each) for name, each in cases.items()}
    port = Port(
        80,
        (Chain("", None, hosts=(VirtualHost("*", tuple(to(f"/{name}", each) for name, each in backends.items())),)),),
    )
    context = ca.server(tmp_path, ca.certificate("backend.test", "spiffe://x/backend"))
    context.load_verify_locations(cadata=ca.pem.decode())
    context.verify_mode = ssl.CERT_OPTIONAL
    seen = {}
    async with tls_backend(context) as where, aiohttp.ClientSession() as session:
        endpoints = {each.cluster: at(where) for each in backends.values()}
        async with served(graph(port, backends=backends.values(), endpoints=endpoints), tmp_path) as bound:
            for name in cases:
                async with session.get(f"http://{HOME}:{bound[80]}/{name}") as answer:
                    seen[name] = await answer.text() if answer.status == 200 else answer.status
    good = dict.fromkeys(("good", "uri", "second-name", "unverified"), "nobody")
    bad = dict.fromkeys(("name", "issuer", "system", "wrong-uri"), 503)
    assert seen == good | bad | {"shows": "gateway"}


async def test_a_name_outside_of_the_cluster_is_resolved_by_envoy_and_one_that_is_not_holds_up_nothing(
    tmp_path: Path,
) -> None:
    ca = Authority.new()
    found = UpstreamTLS("localhost", ca.trusted)
    context = ca.server(tmp_path, ca.certificate("localhost"))
    async with tls_backend(context) as where, aiohttp.ClientSession() as session:
        outside = backend("outside", tls=found, hostname="localhost", port=where)
        gone = backend("gone", hostname="does-not-exist.invalid", port=80)
        port = Port(80, (Chain("", None, hosts=(VirtualHost("*", (to("/outside", outside), to("/gone", gone))),)),))
        async with served(graph(port, backends=(outside, gone)), tmp_path) as bound:

            async def status(name: str) -> int:
                async with session.get(f"http://{HOME}:{bound[80]}/{name}") as answer:
                    return answer.status

            async with asyncio.timeout(30):
                while await status("outside") != 200:  # until the name is resolved
                    await asyncio.sleep(0.01)
            assert await status("gone") == 503


def test_a_retry_budget_replaces_the_limit() -> None:
    found = cluster(backend("a", budget=RetryBudget(20, 10.0, 3)), DataPlane()).to_dict()
    limits = found["circuitBreakers"]["thresholds"][0]
    assert "maxRetries" not in limits
    assert limits["retryBudget"] == {
        "budgetPercent": {"value": 20.0},
        "budgetInterval": "10s",
        "minRetryConcurrency": 3,
    }


def test_secrets_are_those_that_somebody_refers_to() -> None:
    ca = Authority.new()
    mine, shown = ca.certificate("mine"), ca.certificate("shown")
    chain = Chain("", ServerTLS((mine,), ClientCheck(Authorities("authorities/clients", ca.pem))))
    backends = [
        backend("a", tls=UpstreamTLS("a", ca.trusted, certificate=shown)),
        backend("b", tls=UpstreamTLS("b", None)),
        backend("c", tls=UpstreamTLS("c", Authorities("authorities/unused", ca.pem), verify=False)),
    ]
    names = {"default/mine", "authorities/clients", "default/shown", "authorities/test"}
    assert set(tls.secrets([chain], backends)) == names
