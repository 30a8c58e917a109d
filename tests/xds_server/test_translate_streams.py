"""TCP, TLS and UDP listeners in a real Envoy: who gets a connection, by weight and by server name."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.xds_server.fleet_envoy import HOME, Authority, at, backend, graph, heard, served, talkers
from xds_server.model.graph import (
    Chain,
    Port,
    Reply,
    Route,
    ServerTLS,
    Stream,
    VirtualHost,
    WeightedBackend,
)
from xds_server.model.objects import HTTPMatch
from xds_server.translate import stream

pytestmark = pytest.mark.envoy
A, B = backend("a"), backend("b")


def to(*shares: WeightedBackend) -> Chain:
    return Chain("", None, stream=Stream("default/r", shares))


async def test_connections_go_by_weight_and_a_share_without_a_backend_closes_them(tmp_path: Path) -> None:
    ports = (
        Port(9000, (to(WeightedBackend(A, 3), WeightedBackend(B, 1), WeightedBackend(backend("no"), 0)),)),
        Port(9001, (to(WeightedBackend(None, 1)),)),
        Port(9002, (to(),)),
        Port(9003, (to(WeightedBackend(A, 1)),)),
    )
    async with talkers("a", "b") as (a, b):
        found = graph(*ports, backends=(A, B), endpoints={A.cluster: at(a), B.cluster: at(b)})
        async with served(found, tmp_path) as bound:
            heads = Counter([await heard(bound[9000]) for _ in range(200)])
            assert set(heads) == {"a", "b"}
            assert heads["a"] > heads["b"]
            assert await heard(bound[9001]) == ""
            assert await heard(bound[9002]) == ""
            assert await heard(bound[9003]) == "a"


async def test_one_port_serves_https_and_tls_both_ended_here_and_passed_through(tmp_path: Path) -> None:
    ca = Authority.new()
    mine = ServerTLS((ca.certificate("*.x.test"),))
    host = VirtualHost("*", (Route("r", HTTPMatch(), Reply(418)),))
    through, ended = (Stream(f"default/{name}", (WeightedBackend(which),)) for name, which in (("t", A), ("e", B)))
    port = Port(
        443,
        (
            Chain("web.x.test", mine, hosts=(host,)),
            Chain("ended.x.test", mine, stream=ended),
            Chain("through.x.test", None, stream=through),
        ),
        sni=True,
    )
    passed = ca.server(tmp_path, ca.certificate("through.x.test"))
    async with talkers("through", ssl=passed) as (a,), talkers("ended") as (b,), aiohttp.ClientSession() as web:
        found = graph(port, backends=(A, B), endpoints={A.cluster: at(a), B.cluster: at(b)})
        async with served(found, tmp_path) as bound:
            client = ca.client(tmp_path)
            for name in ("through", "ended"):
                assert await heard(bound[443], ssl=client, server_hostname=f"{name}.x.test") == name
            url, headers = f"https://{HOME}:{bound[443]}/", {"host": "web.x.test"}
            async with web.get(url, ssl=client, headers=headers, server_hostname="web.x.test") as answer:
                assert answer.status == 418
            with pytest.raises(OSError):
                await heard(bound[443], ssl=client, server_hostname="unknown.x.test")


# --- UDP --------------------------------------------------------------------------------------------------------------


class Echo(asyncio.DatagramProtocol):
    """Answers with its name, or keeps what it hears."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.heard: asyncio.Queue[str] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        if self.name:
            self.transport.sendto(self.name.encode(), sender)
        self.heard.put_nowait(data.decode())


@asynccontextmanager
async def echoes(*names: str) -> AsyncIterator[list[int]]:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            transport, _ = await loop.create_datagram_endpoint(lambda name=name: Echo(name), local_addr=(HOME, 0))
            stack.callback(transport.close)
            found.append(transport.get_extra_info("sockname")[1])
        yield found


async def asked(port: int) -> str:
    """Who answers a datagram of a new client; it is sent again until somebody does."""
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(Echo, remote_addr=(HOME, port))
    try:
        async with asyncio.timeout(30):
            while True:
                transport.sendto(b"who")
                try:
                    return await asyncio.wait_for(client.heard.get(), 1)
                except TimeoutError:
                    continue
    finally:
        transport.close()


async def test_datagrams_go_by_weight(tmp_path: Path) -> None:
    shares = (WeightedBackend(A, 3), WeightedBackend(B, 1), WeightedBackend(backend("no"), 0))
    ports = (
        Port(5300, (to(*shares),), transport="UDP"),
        Port(5301, (to(WeightedBackend(B, 1)),), transport="UDP"),
        Port(5302, (to(),), transport="UDP"),
    )
    async with echoes("a", "b") as (a, b):
        found = graph(*ports, backends=(A, B), endpoints={A.cluster: at(a), B.cluster: at(b)})
        async with served(found, tmp_path) as bound:
            assert await asked(bound[5301]) == "b"
            heads = Counter([await asked(bound[5300]) for _ in range(200)])
            assert set(heads) == {"a", "b"}
            assert heads["a"] > heads["b"]


def test_a_share_without_endpoints_keeps_its_weight_and_goes_nowhere() -> None:
    shares = (WeightedBackend(A, 3), WeightedBackend(B, 2), WeightedBackend(None, 1), WeightedBackend(A, 1))
    found = stream.split_assignment(Stream("default/r", shares), {A.cluster: at(7000, 7001)})
    seen = {
        each.load_balancing_weight.value: [
            host.endpoint.address.socket_address.port_value for host in each.lb_endpoints
        ]
        for each in found.endpoints
    }
    assert seen == {4: [7000, 7001], 3: [9]}
