"""ADS messages <-> the plain values of the session.

Source: Envoy `service.discovery.v3`. Messages are protobuf/upb; a resource's bytes go into the response as they are.
"""

from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from xds_server.facts import Node, Request, Response

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
    message = DiscoveryResponse(type_url=response.type_url, nonce=response.nonce, version_info=response.version)
    for resource in response.resources:
        message.resources.add(type_url=response.type_url, value=resource.body)
    encoded: bytes = message.SerializeToString()
    return encoded


def encode_delta(response: Response) -> bytes:
    message = DeltaDiscoveryResponse(
        type_url=response.type_url,
        nonce=response.nonce,
        system_version_info=response.version,
        removed_resources=response.removed,
    )
    for resource in response.resources:
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url, entry.resource.value = response.type_url, resource.body
    encoded: bytes = message.SerializeToString()
    return encoded


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
