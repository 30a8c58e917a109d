"""Other gateways ask our picker in their way: FULL_DUPLEX_STREAMED in both directions, over TCP, with their own routes.

The configuration is that of Istio and of the standalone chart of Gateway API Inference Extension, by hand.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import envoy
from penstock.settings import Proxy
from tests.e2e.backend import Backend, backend
from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, to_pool
from tests.e2e.waiting import free_port, until
from tests.e2e.world import World, accepting, world

pytestmark = pytest.mark.envoy
TYPE = "type.googleapis.com/envoy."
HEADER = "x-gateway-destination-endpoint"
ONE = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
metadata: {name: one}
plugins:
- {type: queue-scorer}
- {type: max-score-picker, parameters: {maxNumOfEndpoints: 1}}
"""  # ORIGINAL_DST understands a single address


def typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{TYPE}{name}", **fields}


def address(text: str) -> dict[str, Any]:
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def static_cluster(name: str, *addresses: str, **more: Any) -> dict[str, Any]:
    found = [{"endpoint": {"address": address(each)}} for each in addresses]
    endpoints = {"cluster_name": name, "endpoints": [{"lb_endpoints": found}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoints, **more}


def original_dst(_: list[str]) -> dict[str, Any]:
    by_header = {"use_http_header": True, "http_header_name": HEADER}
    return {
        "name": "servers",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "1s",
        "original_dst_lb_config": by_header,
    }


def override_host(addresses: list[str]) -> dict[str, Any]:
    lb = "extensions.load_balancing_policies"
    fallback = {"policies": [policy("round_robin", typed(f"{lb}.round_robin.v3.RoundRobin"))]}
    source = {"metadata": {"key": "envoy.lb", "path": [{"key": HEADER}]}}
    chosen = typed(f"{lb}.override_host.v3.OverrideHost", override_host_sources=[source], fallback_policy=fallback)
    return static_cluster("servers", *addresses, load_balancing_policy={"policies": [policy("override_host", chosen)]})


def policy(name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"typed_extension_config": {"name": f"envoy.load_balancing_policies.{name}", "typed_config": config}}


def foreign(port: int, picker: str, servers: dict[str, Any], admin: Path) -> dict[str, Any]:
    """The static configuration of the other gateway."""
    mode = dict.fromkeys(("request_body_mode", "response_body_mode"), "FULL_DUPLEX_STREAMED")
    sent = ("request_header_mode", "request_trailer_mode", "response_header_mode", "response_trailer_mode")
    ext_proc = typed(
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": "picker"}},
        processing_mode=mode | dict.fromkeys(sent, "SEND"),
        message_timeout="1000s",
        metadata_options={"receiving_namespaces": {"untyped": ["envoy.lb"]}},
    )
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "servers", "timeout": "60s"}}]
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="foreign",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[
            {"name": "envoy.filters.http.ext_proc", "typed_config": ext_proc},
            {"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router")},
        ],
    )
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    http2 = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(
            "extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
        )
    }
    listener = {"name": "http", "address": address(f"127.0.0.1:{port}"), "filter_chains": [chain]}
    clusters = [servers, static_cluster("picker", picker, typed_extension_protocol_options=http2)]
    return {
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {"listeners": [listener], "clusters": clusters},
    }


@pytest.fixture
async def servers() -> AsyncIterator[list[Backend]]:
    async with backend("a") as first, backend("b") as second:
        yield [first, second]


@asynccontextmanager
async def asked_by_another(folder: Path, servers: list[Backend], routing: str) -> AsyncIterator[World]:
    """Our picker without an Envoy of ours, behind the Envoy of somebody else."""
    addresses = [each.address for each in servers]
    one = "one" if routing == "original_dst" else ""
    text = documents(GATEWAY, pool("base", addresses, config=one), route("r", rule("/", to_pool("base"))), ONE)
    picker = f"127.0.0.1:{free_port()}"
    (folder / "envoy").mkdir()
    async with world(
        folder / "manifests", {"all.yaml": text}, ports=(), proxy=Proxy(start=False), picker=picker
    ) as found:
        await until(lambda: found.gateway.serving.value, "the picker to know its pool")
        port = found.ports[8080] = free_port()
        clusters = {"original_dst": original_dst, "override_host": override_host}
        config = foreign(port, picker, clusters[routing](addresses), folder / "admin.sock")
        async with envoy.running(config, folder / "envoy", workers=2):
            await accepting(port)
            yield found


@pytest.mark.parametrize("routing", ["original_dst", "override_host"])
async def test_bodies_pass_the_picker_intact_in_both_directions(
    tmp_path: Path, servers: list[Backend], routing: str
) -> None:
    pieces = tuple(b"data: %d %b\n\n" % (number, b"x" * 7000) for number in range(60))
    for each in servers:
        each.reply, each.content_type = pieces, "text/event-stream"
    body = b'{"model":"base","stream":true,"prompt":"%b"}' % (b"0123456789" * 30_000)
    async with asked_by_another(tmp_path, servers, routing) as gateway:
        for number in range(6):
            answer = await gateway.post("/v1/completions", body, content_type="application/json")
            assert answer.status == 200, answer
            assert answer.body == b"".join(pieces)
            picked = gateway.decisions[-1].endpoints[0]
            served = next(each for each in servers if each.name == answer.header("x-backend"))
            assert (len(gateway.decisions), served.address) == (number + 1, picked)
            assert served.seen[-1].body == body
            outcome = await gateway.outcome(since=number)  # no access log comes from a gateway that is not ours
            assert (outcome.reason, outcome.status, outcome.endpoint) == ("", 200, picked)
            assert outcome.response_bytes == len(answer.body)
            assert outcome.ttft is not None and outcome.duration is not None and outcome.ttft <= outcome.duration
            assert gateway.gateway.signals.inflight.count(picked) == 0


async def test_a_request_without_a_body_is_picked_for_too(tmp_path: Path, servers: list[Backend]) -> None:
    async with asked_by_another(tmp_path, servers, "override_host") as gateway:
        answer = await gateway.send("GET", "/v1/models")
        assert answer.status == 200 and answer.body == b"{}"


async def test_a_refusal_reaches_the_client_of_another_gateway(tmp_path: Path, servers: list[Backend]) -> None:
    async with asked_by_another(tmp_path, servers, "override_host") as gateway:
        answer = await gateway.post("/v1/completions", b"{not json", content_type="application/json")
        assert answer.status == 400 and b"invalid_request_error" in answer.body
        assert not any(each.seen for each in servers)
