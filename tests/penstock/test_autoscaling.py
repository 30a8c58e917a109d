"""Autoscaling, wired: replicas that ask each other over HTTP, the aggregated API in front of an API server, the scaler's port."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from observability import catalogue
from observability.autoscaling import external_metrics, keda_messages as m
from observability.autoscaling.signals import DESIRED, QUEUE, Unavailable, UnknownPool
from observability.registry import Registry
from observability.server import application
from penstock import settings
from penstock.autoscaling import Autoscaling, ExternalMetrics, _where, announce, named_peers, serving_scaler
from penstock.process import UserError
from penstock.settings import Settings
from picker.load import Load
from picker.picker import Picker
from tests.e2e.waiting import free_port
from tests.observability.autoscaling.test_front_proxy import FRONT, OURS, client
from tests.picker.test_picker import A, FakeSignals, ask, pool
from tests.xds_server.kubernetes import fake_api
from tests.xds_server.kubernetes.fake_api import FakeApi
from xds_server.authority import ServerCertificate
from xds_server.latest import Latest
from xds_server.model.graph import Endpoint, Graph

POOL = "ns/pool"
CONFIG = {"requestheader-client-ca-file": FRONT.certificate.decode(), "requestheader-allowed-names": '["front"]'}
AUTHENTICATION = ("configmaps", "extension-apiserver-authentication", "kube-system")
SERVICE = {"service": {"name": "penstock", "namespace": "penstock-system"}}
OUR_LABEL = {"labels": {"app.kubernetes.io/name": "penstock"}}


@pytest.fixture(autouse=True)
def aggregation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake API server has APIServices here."""
    monkeypatch.setitem(fake_api.KINDS, "apiservices", ("apiregistration.k8s.io", "v1", "APIService", False))


class Replica:
    """One gateway, as far as autoscaling goes."""

    def __init__(self, *endpoints: Endpoint, **load: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.signals = FakeSignals({str(each): Load(**{"scraped": now, **load}) for each in endpoints})
        self.picker, self.graphs, self.registry = Picker(self.signals), Latest[Graph](), Registry()
        self.scaling = Autoscaling(self.picker, self.graphs, self.registry)
        self.served = pool(*endpoints)

    def synced(self, *endpoints: Endpoint) -> "Replica":
        self.served = replace(self.served, endpoints=endpoints or self.served.endpoints)
        self.picker.update({POOL: self.served})
        self.graphs.set(Graph(pools={POOL: self.served}))
        return self

    def samples(self) -> dict[str, float]:
        return {sample.metric.name: sample.value for sample in self.scaling.samples()}


@asynccontextmanager
async def fleet(*replicas: Replica) -> AsyncIterator[list[str]]:
    """Each replica's telemetry server; the first asks the others. Gives their addresses."""
    async with AsyncExitStack() as stack:
        addresses = []
        for each in replicas:
            app = application(each.registry)
            each.scaling.add_page(app)
            server = TestServer(app)
            await stack.enter_async_context(server)
            addresses.append(f"{server.host}:{server.port}")
        first = replicas[0].scaling
        first.session = await stack.enter_async_context(aiohttp.ClientSession())

        async def others() -> list[str]:
            return addresses[1:]

        first.peers = others
        yield addresses


async def test_what_waits_in_any_replica_counts() -> None:
    one, two = Replica().synced(), Replica().synced()
    for number in range(3):
        two.picker.decide(ask(id=str(number)))
    async with fleet(one, two):
        found = await one.scaling.read(POOL)
    assert (found.value(QUEUE), found.value(DESIRED)) == (3, 1)


async def test_a_replica_that_does_not_answer_makes_it_unknown() -> None:
    one, two = Replica(A).synced(), Replica(A)
    async with fleet(one, two) as addresses:
        with pytest.raises(Unavailable, match="has not read its objects yet"):
            await one.scaling.read(POOL)
        two.picker.update({})
        two.graphs.set(Graph())
        with pytest.raises(Unavailable, match="no InferencePool ns/pool"):
            await one.scaling.read(POOL)
        addresses[1:] = [f"127.0.0.1:{free_port()}"]
        with pytest.raises(Unavailable, match="does not say what it holds"):
            await one.scaling.read(POOL)


async def test_a_replica_of_another_version_makes_it_unknown_too() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"pool": POOL, "endpoints": {"a:1": {"later": 1}}})

    one, app = Replica(A).synced(), web.Application()
    app.router.add_get("/autoscale", answer)
    async with TestServer(app) as server, fleet(one) as addresses:
        addresses[1:] = [f"{server.host}:{server.port}"]
        with pytest.raises(Unavailable, match="does not say what it holds"):
            await one.scaling.read(POOL)


async def test_pools_that_do_not_exist_are_waited_for_and_not_kept() -> None:
    one = Replica().synced()
    await one.scaling.woken("ns/nonesuch", 0.001)
    assert not one.scaling._starved
    waiting = asyncio.ensure_future(one.scaling.woken(POOL, 60.0))
    await asyncio.sleep(0)
    one.picker.decide(ask())
    await waiting


async def test_before_the_first_sync_nothing_is_known_and_other_pools_do_not_exist() -> None:
    one = Replica(A)
    with pytest.raises(Unavailable):
        await one.scaling.read(POOL)
    assert one.samples() == {}
    with pytest.raises(UnknownPool, match="there is no InferencePool ns/x; there are ns/pool"):
        await one.synced().scaling.read("ns/x")


async def test_metrics_say_what_is_known_and_nothing_of_what_is_not() -> None:
    one = Replica(A, waiting=2, utilization=0.5).synced()
    assert one.samples() == {
        "penstock_pool_waiting_requests": 2,
        "penstock_pool_inflight_requests": 0,
        "penstock_pool_desired_replicas": 1,
        "penstock_endpoint_accelerator_utilization": 0.5,
    }  # and no backlog: how fast the server is was not learned... and nothing waits in slots
    stale = Replica(A, scraped=-1e9).synced()
    assert stale.samples() == {"penstock_pool_inflight_requests": 0}


async def test_peers_are_those_that_dns_names_without_ourselves() -> None:
    assert await named_peers("localhost", 9090, "127.0.0.1")() in ([], ["[::1]:9090"])
    assert "127.0.0.1:9090" in await named_peers("localhost", 9090, "10.0.0.1")()
    assert await named_peers("penstock-replicas.invalid.", 9090, "10.0.0.1")() == []


# --- KEDA -------------------------------------------------------------------------------------------------------------


async def test_the_scaler_pushes_as_soon_as_a_request_waits_for_a_pool_at_zero() -> None:
    one = Replica().synced()
    async with (
        serving_scaler(one.scaling, "127.0.0.1:0") as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.unary_stream(
            f"/{m.SERVICE}/StreamIsActive", lambda each: each.SerializeToString(), m.IsActiveResponse.FromString
        )
        stream = call(m.ScaledObjectRef(name="so", namespace="ns", scalerMetadata={"pool": "pool"}), timeout=30)
        assert (await stream.read()).result is False
        one.picker.decide(ask())
        assert (await stream.read()).result is True
        one.picker.cancel("id", 1.0)
        assert (await stream.read()).result is False


async def test_the_scaler_over_tls() -> None:
    one = Replica(A, waiting=1).synced()
    certificate = ServerCertificate(OURS, ["localhost"], lambda: datetime.now(UTC))
    trusted = grpc.ssl_channel_credentials(OURS.certificate)
    async with (
        serving_scaler(one.scaling, "127.0.0.1:0", certificate.credentials()) as port,
        grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel,
    ):
        call = channel.unary_unary(
            f"/{m.SERVICE}/IsActive", lambda each: each.SerializeToString(), m.IsActiveResponse.FromString
        )
        answer = await call(m.ScaledObjectRef(namespace="ns", scalerMetadata={"pool": "pool"}), timeout=10)
        assert answer.result is True
    counted = {(each.metric, *point.labels): point.value for each in one.registry.snapshot() for point in each.points}
    assert counted[catalogue.AUTOSCALE_SERVED_TOTAL, "keda", "ok"] == 0  # activity is no figure


# --- the aggregated API -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def aggregated(fake: FakeApi, folder: Path, one: Replica) -> AsyncIterator[tuple[ExternalMetrics, int]]:
    certificate = ServerCertificate(OURS, ["penstock.penstock-system.svc"], lambda: datetime.now(UTC))
    port = free_port()
    async with fake.serve() as api:
        server = ExternalMetrics(one.scaling, api, certificate, OURS.certificate, folder)
        async with server.serving("127.0.0.1", port):
            yield server, port


async def get(port: int, certificate: Path, path: str) -> tuple[int, Any]:
    tls = ssl.create_default_context(cadata=OURS.certificate.decode())
    tls.load_cert_chain(certificate)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session,
        session.get(f"https://127.0.0.1:{port}{path}", server_hostname="penstock.penstock-system.svc") as answer,
    ):
        return answer.status, await answer.json()


async def test_the_front_proxy_gets_figures(tmp_path: Path) -> None:
    fake, one = FakeApi(), Replica(A, waiting=3).synced()
    fake.put(*AUTHENTICATION, data=CONFIG)
    path = f"{external_metrics.ROOT}/namespaces/ns/penstock_pool_waiting_requests?labelSelector=pool%3Dpool"
    async with aggregated(fake, tmp_path, one) as (_, port):
        status, found = await get(port, client(FRONT, "front", tmp_path), path)
        assert (status, found["items"][0]["value"]) == (200, "3")
        assert (await get(port, client(FRONT, "else", tmp_path), path))[0] == 403
    assert (tmp_path / "external-metrics.pem").stat().st_mode & 0o077 == 0


async def test_a_cluster_that_does_not_say_whom_to_trust_is_an_error(tmp_path: Path) -> None:
    fake = FakeApi()
    with pytest.raises(UserError, match="extension-apiserver-authentication"):
        async with aggregated(fake, tmp_path, Replica()):
            pass
    fake.put(*AUTHENTICATION, data={})
    with pytest.raises(UserError, match="without an aggregation layer"):
        async with aggregated(fake, tmp_path, Replica()):
            pass


async def test_the_api_server_is_told_our_authority_and_a_new_front_proxy_is_followed(tmp_path: Path) -> None:
    fake, one = FakeApi(), Replica(A).synced()
    fake.put(*AUTHENTICATION, data=CONFIG)
    fake.put("apiservices", external_metrics.API_SERVICE, spec=SERVICE, metadata=OUR_LABEL)
    async with aggregated(fake, tmp_path, one) as (server, port):
        fake.put(*AUTHENTICATION, data=CONFIG | {"requestheader-allowed-names": '["new"]'})
        work = asyncio.ensure_future(server.run("127.0.0.1", port))
        await fake.until(lambda: fake.count("get", "configmaps") >= 2)

        async def follows() -> bool:
            try:
                return (await get(port, client(FRONT, "new", tmp_path), external_metrics.ROOT))[0] == 200
            except aiohttp.ClientError:
                return False

        async with asyncio.timeout(10):
            while not await follows():
                await asyncio.sleep(0.01)
        work.cancel()
    bundle = fake.get("apiservices", external_metrics.API_SERVICE)["spec"]["caBundle"]
    assert base64.b64decode(bundle) == OURS.certificate


async def test_an_api_service_that_is_not_ours_is_left_alone() -> None:
    fake = FakeApi()
    async with fake.serve() as api:
        fake.put("apiservices", external_metrics.API_SERVICE, spec={"service": {"name": "keda"}})
        assert not await announce(api, OURS.certificate)
        fake.put(
            "apiservices",
            external_metrics.API_SERVICE,
            spec=SERVICE | {"insecureSkipTLSVerify": True},
            metadata=OUR_LABEL,
        )
        assert not await announce(api, OURS.certificate)
    assert not fake.count("patch", "apiservices")


async def test_what_cannot_be_served_is_told(tmp_path: Path) -> None:
    one, port = Replica().synced(), free_port()
    wanted = Settings(autoscaling=settings.Autoscaling(scaler=f"127.0.0.1:{port}"))
    async with one.scaling.serving(wanted, tmp_path, None) as work:
        assert not work
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}.*choose another --scaler"):
            async with one.scaling.serving(wanted, tmp_path, None):
                pass
    with pytest.raises(UserError, match="write HOST:PORT"):
        _where("unix:/run/x")
    assert _where("[::1]:6443") == ("::1", 6443)
