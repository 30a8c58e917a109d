"""The choke point: both kinds of stream, over real gRPC; one question to the API server per token."""

import asyncio
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from tests.xds_server.model_envoy import resource
from tests.xds_server.tokens import Api, token, vouched
from xds_server.admission import Admission, Undecided
from xds_server.identity import RECHECK_S, Account
from xds_server.latest import Latest
from xds_server.server import Fleets, serve
from xds_server.snapshot import CDS, Snapshot
from xds_server.wire import ADS

GOOD, FOREIGN, FORGED = token(), token("system:serviceaccount:prod:other"), token(forged=True)
HEADER = [("authorization", f"Bearer {GOOD}")]


def answers() -> dict[str, dict[str, Any] | None]:
    return {GOOD: vouched(), FOREIGN: vouched("system:serviceaccount:prod:other")}


def fleet_of(account: Account) -> str | None:
    return {("prod", "web-penstock"): "prod/web"}.get((account.namespace, account.name))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_one_question_per_token() -> None:
    api = Api(answers())
    admission = Admission(api, fleet_of, clock=Clock())
    assert await asyncio.gather(*(admission(HEADER) for _ in range(20))) == ["prod/web"] * 20
    assert await admission(HEADER) == "prod/web"
    assert api.asked == [GOOD]
    assert await admission([("authorization", f"Bearer {FOREIGN}")]) is None
    assert await admission([("authorization", f"Bearer {FORGED}")]) is None
    assert await admission([("authorization", "Bearer garbage")]) is None
    assert await admission([]) is None
    assert await admission(None) is None
    assert api.asked == [GOOD, FOREIGN, FORGED]


async def test_a_verified_token_survives_an_outage_of_the_api_server_and_no_other_does() -> None:
    api, clock = Api(answers()), Clock()
    admission = Admission(api, fleet_of, clock=clock)
    assert await admission(HEADER) == "prod/web"
    api.answers = {GOOD: None, FOREIGN: None}
    clock.now += RECHECK_S
    assert await admission(HEADER) == "prod/web"
    assert await admission(HEADER) == "prod/web"
    assert len(api.asked) == 2  # not again at each stream
    with pytest.raises(Undecided):
        await admission([("authorization", f"Bearer {FOREIGN}")])
    api.answers = {}
    clock.now += RECHECK_S
    assert await admission(HEADER) is None  # the account is gone


async def test_a_caller_that_goes_away_takes_nobody_along() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> dict[str, Any]:
        asked.set()
        await go.wait()
        return vouched()

    admission = Admission(slow, fleet_of, clock=Clock())
    first = asyncio.create_task(admission(HEADER))
    await asked.wait()
    second = asyncio.create_task(admission(HEADER))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(Undecided):  # it is told to come again
        await second
    go.set()
    assert await admission(HEADER) == "prod/web"


METHODS = {
    "StreamAggregatedResources": DiscoveryRequest,
    "DeltaAggregatedResources": DeltaDiscoveryRequest,
}


async def code(port: int, method: str, metadata: Any, cluster: str = "") -> Any:
    """How a stream ends, or the bytes that it gets first."""
    request = METHODS[method](type_url=CDS)
    request.node.id, request.node.cluster = "liar", cluster
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream(f"/{ADS}/{method}")(metadata=metadata)
        try:
            await call.write(request.SerializeToString())
            return await call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return await call.code()


@pytest.mark.parametrize("method", METHODS)
async def test_every_kind_of_stream_is_asked(method: str) -> None:
    snapshots = Latest[Fleets]()
    secret = Snapshot.of(clusters=[resource("secret")])
    snapshots.set({"prod/web": Snapshot.of(clusters=[resource("mine")]), "other": secret, "": secret})
    api = Api(answers())
    admission = Admission(api, fleet_of)
    async with (
        asyncio.timeout(30),
        serve(["127.0.0.1:0"], snapshots, lambda _: None, identify=admission) as server,
    ):
        port = server.ports[0]
        assert await code(port, method, None) == grpc.StatusCode.UNAUTHENTICATED
        for bad in (FOREIGN, FORGED, "x"):
            refused = await code(port, method, [("authorization", f"Bearer {bad}")])
            assert refused == grpc.StatusCode.PERMISSION_DENIED
        for cluster in ("", "other"):  # node.cluster is the Envoy's own word: it opens nothing
            served = await code(port, method, HEADER, cluster)
            assert b"mine" in served and b"secret" not in served
        api.answers = {}
        assert (await code(port, method, None)) == grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_that_nobody_knows_is_not_served() -> None:
    snapshots = Latest[Fleets]()
    snapshots.set({})
    async with (
        asyncio.timeout(30),
        serve(["127.0.0.1:0"], snapshots, lambda _: None, identify=Admission(Api({}), fleet_of)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel,
    ):
        for method in (
            f"/{ADS}/FetchAggregatedResources",
            "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(method)(b"")
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_an_api_server_that_is_away_is_no_verdict() -> None:
    snapshots = Latest[Fleets]()
    snapshots.set({})
    async with (
        asyncio.timeout(30),
        serve(["127.0.0.1:0"], snapshots, lambda _: None, identify=Admission(Api({GOOD: None}), fleet_of)) as server,
    ):
        found = await code(server.ports[0], "DeltaAggregatedResources", HEADER)
        assert found == grpc.StatusCode.UNAVAILABLE
