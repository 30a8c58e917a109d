"""Snapshot: every xDS resource of a fleet at one moment, as bytes.

A resource's version is a hash of its bytes, so any replica, and any restart, gives the same version, and an Envoy that
reconnects with what it has is sent nothing. Source: Envoy `docs/root/api-docs/xds_protocol.rst`, initial_resource_versions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import xxhash
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.message import Message as ProtobufMessage

_API = "type.googleapis.com/envoy."
CDS = _API + "config.cluster.v3.Cluster"
EDS = _API + "config.endpoint.v3.ClusterLoadAssignment"
LDS = _API + "config.listener.v3.Listener"
RDS = _API + "config.route.v3.RouteConfiguration"
SDS = _API + "extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True, slots=True)
class Resource:
    """One encoded resource; equal bytes have equal versions."""

    name: str
    body: bytes = field(repr=False)  # the encoded message, without google.protobuf.Any around it
    version: str = field(compare=False)

    @classmethod
    def of(cls, name: str, message: Any) -> "Resource":
        """Freeze a message (betterproto2 or protobuf/upb), or bytes."""
        if isinstance(message, bytes):
            body = message
        elif isinstance(message, ProtobufMessage):
            body = message.SerializeToString(deterministic=True)
        else:
            body = bytes(message)
        return cls(name, body, xxhash.xxh3_128_hexdigest(body))

    @classmethod
    def unknown(cls, name: str, version: str = "") -> "Resource":
        """What a client holds, without the bytes; "" is the version of no bytes."""
        return cls(name, b"", version)


Collection = Mapping[str, Resource]  # by resource name


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`resources[type_url][name]`; immutable."""

    resources: Mapping[str, Collection] = field(default_factory=dict)
    _versions: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)  # hashed once a type

    @classmethod
    def of(cls, **collections: Iterable[Resource]) -> "Snapshot":
        """Snapshot.of(clusters=…, endpoints=…, listeners=…, routes=…, secrets=…)."""
        urls = {"clusters": CDS, "endpoints": EDS, "listeners": LDS, "routes": RDS, "secrets": SDS}
        return cls(
            {
                urls[kind]: {found.name: found for found in sorted(resources, key=lambda r: r.name)}
                for kind, resources in collections.items()
            }
        )

    def of_type(self, type_url: str) -> Collection:
        return self.resources.get(type_url, {})

    def version(self, type_url: str) -> str:
        """The version of a whole collection: what SotW calls version_info."""
        found = self._versions.get(type_url)
        if found is None:
            digest = xxhash.xxh3_128()
            for name, resource in self.of_type(type_url).items():
                digest.update(name.encode())
                digest.update(resource.version.encode())
            found = self._versions[type_url] = digest.hexdigest()
        return found


@lru_cache(maxsize=4096)
def empty_assignment(cluster: str) -> Resource:
    """EDS of a cluster without endpoints: Envoy answers 503; with none at all it would keep warming."""
    return Resource.of(cluster, ClusterLoadAssignment(cluster_name=cluster))
