"""The ADS server over real gRPC: raw streams, and gRPC's own xDS client as a second client of the SotW variant."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import hypothesis.strategies as st
import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 - ParseDict finds it by type URL
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from google.protobuf.json_format import ParseDict
from hypothesis import given

from tests.xds_server.model_envoy import resource
from xds_server.facts import Acked, Connected, Disconnected, Nacked, Response
from xds_server.latest import Latest
from xds_server.server import AdsServer, Fleets, serve
from xds_server.snapshot import CDS, EDS, RDS, Resource, Snapshot
from xds_server.wire import ADS, encode_delta, encode_sotw

HOST = "127.0.0.1"


class World:
    """A server, and what it observed."""

    def __init__(self) -> None:
        self.snapshots = Latest[Fleets]()
        self.facts: list[object] = []
        self.seen = Latest[int](0)
        self.server: AdsServer

    def observe(self, fact: object) -> None:
        self.facts.append(fact)
        self.seen.set(len(self.facts))

    async def until(self, wanted: type, **fields: object) -> Any:
        """The first fact of this kind, past or to come."""
        async for count in self.seen.values():
            for fact in self.facts[:count]:
                if isinstance(fact, wanted) and all(getattr(fact, key) == value for key, value in fields.items()):
                    return fact
        return None

    @asynccontextmanager
    async def delta(self) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(f"{HOST}:{self.server.ports[0]}") as channel:
            call = channel.stream_stream(
                f"/{ADS}/DeltaAggregatedResources",
                request_serializer=DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=DeltaDiscoveryResponse.FromString,
            )
            yield call()

    @asynccontextmanager
    async def sotw(self) -> AsyncIterator[Any]:
        async with grpc.aio.insecure_channel(f"{HOST}:{self.server.ports[0]}") as channel:
            call = channel.stream_stream(
                f"/{ADS}/StreamAggregatedResources",
                request_serializer=DiscoveryRequest.SerializeToString,
                response_deserializer=DiscoveryResponse.FromString,
            )
            yield call()


@asynccontextmanager
async def world(fleets: Fleets | None = None) -> AsyncIterator[World]:
    """The whole test has 30 seconds, so a hang is a failure."""
    made = World()
    if fleets is not None:
        made.snapshots.set(fleets)
    async with asyncio.timeout(30), serve([f"{HOST}:0"], made.snapshots, made.observe) as made.server:
        yield made


def clusters(*names: str) -> Snapshot:
    return Snapshot.of(clusters=[resource(name) for name in names])


def hello(url: str, cluster: str = "") -> DeltaDiscoveryRequest:
    request = DeltaDiscoveryRequest(type_url=url)
    request.node.id, request.node.cluster = "envoy-1", cluster
    return request


@given(st.lists(st.builds(Resource.of, st.text(), st.binary(max_size=300)), unique_by=lambda found: found.name))
def test_responses_decode_to_what_was_meant(resources: list[Resource]) -> None:
    response = Response(CDS, "7", "v", tuple(resources), ("gone",))
    delta = DeltaDiscoveryResponse.FromString(encode_delta(response))
    assert [(r.name, r.version, r.resource.type_url, r.resource.value) for r in delta.resources] == [
        (r.name, r.version, CDS, r.body) for r in resources
    ]
    assert (delta.type_url, delta.nonce, list(delta.removed_resources)) == (CDS, "7", ["gone"])
    sotw = DiscoveryResponse.FromString(encode_sotw(response))
    assert [(found.type_url, found.value) for found in sotw.resources] == [(CDS, r.body) for r in resources]
    assert (sotw.type_url, sotw.nonce, sotw.version_info) == (CDS, "7", "v")


async def test_a_delta_stream_gets_its_fleet_and_reports() -> None:
    async with world({"mine": clusters("a"), "": clusters("b")}) as here, here.delta() as stream:
        await stream.write(hello(CDS, "mine"))
        first = await stream.read()
        assert [(found.name, found.resource.value) for found in first.resources] == [("a", resource("a").body)]
        assert first.resources[0].resource.type_url == CDS
        await stream.write(DeltaDiscoveryRequest(type_url=CDS, response_nonce=first.nonce))
        acked = await here.until(Acked, type_url=CDS)
        assert (acked.node.id, acked.node.cluster) == ("envoy-1", "mine")
        (status,) = here.server.fleet
        assert [(found.type_url, found.state) for found in status.types] == [(CDS, "ACKED")]
        here.snapshots.set({"mine": clusters("a", "c"), "": clusters("b")})
        second = await stream.read()
        assert [found.name for found in second.resources] == ["c"]
        refused = DeltaDiscoveryRequest(type_url=CDS, response_nonce=second.nonce)
        refused.error_detail.message = "Error adding/updating cluster(s) c: no"
        await stream.write(refused)
        assert (await here.until(Nacked)).blamed == ("c",)
        (status,) = here.server.fleet
        assert status.types[0].errors == {"c": "Error adding/updating cluster(s) c: no"}
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        await here.until(Disconnected)
        assert len(here.server.fleet) == 0


async def test_another_fleet_gets_the_default() -> None:
    async with world({"mine": clusters("a"), "": clusters("b")}) as here, here.sotw() as stream:
        request = DiscoveryRequest(type_url=CDS)
        request.node.cluster = "theirs"
        await stream.write(request)
        response = await stream.read()
        assert [found.value for found in response.resources] == [resource("b").body]
        assert response.version_info == clusters("b").version(CDS)


async def test_streams_are_refused_before_the_first_snapshot() -> None:
    async with world() as here, here.delta() as stream:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stream.read()
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_slow_client_delays_nobody() -> None:
    big = Snapshot.of(clusters=[Resource.of("big", b"x" * (16 << 20))])
    async with world({"slow": big, "": clusters("a")}) as here, here.delta() as slow:
        await slow.write(hello(CDS, "slow"))  # and never reads: the write blocks in flow control
        await here.until(Connected)
        async with here.delta() as quick:
            await quick.write(hello(CDS))
            assert [found.name for found in (await quick.read()).resources] == ["a"]


async def test_closing_the_server_ends_its_streams() -> None:
    made = World()
    made.snapshots.set({"": clusters("a")})
    async with asyncio.timeout(30):
        async with serve([f"{HOST}:0"], made.snapshots, made.observe) as made.server:
            channel = grpc.aio.insecure_channel(f"{HOST}:{made.server.ports[0]}")
            stream = channel.stream_stream(f"/{ADS}/DeltaAggregatedResources")()
            await stream.write(hello(CDS).SerializeToString())
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError):
            await stream.read()
        await channel.close()
        await made.until(Disconnected)


CLIENT = """
import grpc, sys
with grpc.insecure_channel("xds:///greeter") as channel:
    call = channel.unary_unary("/test.Greeter/Say")
    for line in sys.stdin:
        print(call(line.strip().encode(), wait_for_ready=True, timeout=20).decode(), flush=True)
"""


def grpc_service(cluster: str, port: int) -> Snapshot:
    """What a gRPC client needs for `xds:///greeter`."""
    ads = {"ads": {}, "resource_api_version": "V3"}
    kind = "type.googleapis.com/envoy.extensions.filters."
    manager = {
        "@type": kind + "network.http_connection_manager.v3.HttpConnectionManager",
        "rds": {"route_config_name": "routes", "config_source": ads},
        "http_filters": [{"name": "router", "typed_config": {"@type": kind + "http.router.v3.Router"}}],
    }
    host = {"domains": ["*"], "routes": [{"match": {"prefix": ""}, "route": {"cluster": cluster}}]}
    address = {"address": {"socket_address": {"address": HOST, "port_value": port}}}
    locality = {
        "locality": {"region": "here"},
        "load_balancing_weight": 1,
        "lb_endpoints": [{"endpoint": address, "health_status": "HEALTHY"}],
    }
    messages = {
        "clusters": (cluster, {"name": cluster, "type": "EDS", "eds_cluster_config": {"eds_config": ads}}, Cluster()),
        "endpoints": (cluster, {"cluster_name": cluster, "endpoints": [locality]}, ClusterLoadAssignment()),
        "listeners": ("greeter", {"name": "greeter", "api_listener": {"api_listener": manager}}, Listener()),
        "routes": ("routes", {"name": "routes", "virtual_hosts": [host]}, RouteConfiguration()),
    }
    return Snapshot.of(**{key: [Resource.of(name, ParseDict(body, to))] for key, (name, body, to) in messages.items()})


@asynccontextmanager
async def greeter(answer: bytes) -> AsyncIterator[int]:
    async def say(_: bytes, __: Any) -> bytes:
        return answer

    server = grpc.aio.server()
    methods = {"Say": grpc.unary_unary_rpc_method_handler(say)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", methods),))
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    yield port
    await server.stop(grace=None)


async def test_grpc_is_a_client_too() -> None:
    async with greeter(b"one") as one, greeter(b"two") as two, world({"": grpc_service("c1", one)}) as here:
        uri = f"{HOST}:{here.server.ports[0]}"
        xds = {"server_uri": uri, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
        bootstrap = json.dumps({"xds_servers": [xds], "node": {"id": "grpc-client"}})
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT),
            env={**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(b"hello\n")
            assert await client.stdout.readline() == b"one\n"
            here.snapshots.set({"": grpc_service("c2", two)})
            await here.until(Acked, type_url=EDS, version=grpc_service("c2", two).version(EDS))
            answer = b""
            while (
                answer != b"two\n"
            ):  # gRPC moves to the new cluster once it is ready; every answer until then is a good one
                client.stdin.write(b"hello\n")
                answer = await client.stdout.readline()
                assert answer in (b"one\n", b"two\n")
            assert (await here.until(Acked, type_url=RDS)).node.id == "grpc-client"
            assert not [fact for fact in here.facts if isinstance(fact, Nacked)]
            client.stdin.close()
            assert await client.wait() == 0
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
