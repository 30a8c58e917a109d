"""ADS messages <-> the plain values of the session.

Source: Envoy `service.discovery.v3`. Messages are protobuf/upb, but for the resources of a response: what goes before their bytes
is made once and their bytes are joined as they are, as an encoded message may be concatenated from its fields. A first response of
1000 clusters is 30 times cheaper so, and every proxy of a fleet asks for it at the same moment.
"""

from functools import lru_cache
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from xds_server.facts import Node, Request, Response
from xds_server.protobuf import embed, head

ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"


def parse_sotw(body: bytes) -> Request:
    """DiscoveryRequest -> Request. Raises google.protobuf.message.DecodeError."""
    message = DiscoveryRequest.FromString(body)
    return Request(
        message.type_url,
        nonce=message.response_nonce,
        error=_error(message),
        node=_node(message),
        names=tuple(message.resource_names),
    )


def parse_delta(body: bytes) -> Request:
    """DeltaDiscoveryRequest -> Request. Raises google.protobuf.message.DecodeError."""
    message = DeltaDiscoveryRequest.FromString(body)
    return Request(
        message.type_url,
        nonce=message.response_nonce,
        error=_error(message),
        node=_node(message),
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial=dict(message.initial_resource_versions),
    )


def encode_sotw(response: Response) -> bytes:
    rest = DiscoveryResponse(type_url=response.type_url, nonce=response.nonce, version_info=response.version)
    parts = [rest.SerializeToString()]
    for resource in response.resources:
        parts += _any_head(response.type_url, len(resource.body)), resource.body
    return b"".join(parts)


def encode_delta(response: Response) -> bytes:
    rest = DeltaDiscoveryResponse(
        type_url=response.type_url,
        nonce=response.nonce,
        system_version_info=response.version,
        removed_resources=response.removed,
    )
    parts = [rest.SerializeToString()]
    for resource in response.resources:
        parts += _resource_head(response.type_url, resource.name, resource.version, len(resource.body)), resource.body
    return b"".join(parts)


# Field numbers: resources = 2 in both responses; Resource.version = 1, .resource = 2, .name = 3; Any.type_url = 1, .value = 2.


@lru_cache(maxsize=1024)
def _any_head(type_url: str, size: int) -> bytes:
    """The field 2 that holds an Any with `size` bytes of value, up to the value."""
    inner = embed(1, type_url.encode()) + head(2, size)
    return head(2, len(inner) + size) + inner


@lru_cache(maxsize=1 << 16)
def _resource_head(type_url: str, name: str, version: str, size: int) -> bytes:
    """A field 2 that holds a Resource, up to the bytes of the resource."""
    inner = embed(3, name.encode()) + embed(1, version.encode()) + _any_head(type_url, size)
    return head(2, len(inner) + size) + inner


def _error(message: Any) -> str | None:
    return (message.error_detail.message or "refused") if message.HasField("error_detail") else None


def _node(message: Any) -> Node | None:
    if not message.HasField("node"):
        return None
    node = message.node
    version = node.user_agent_build_version.version
    return Node(
        id=node.id,
        cluster=node.cluster,
        user_agent=f"{node.user_agent_name}/{version.major_number}.{version.minor_number}.{version.patch}",
        extensions=frozenset(extension.name for extension in node.extensions if not extension.disabled),
    )
