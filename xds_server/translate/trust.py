"""Trust between an Envoy and us, as parts of a cluster: TLS, and the ServiceAccount token of the Envoy.

The same as in the bootstrap, which is plain data; here it becomes messages. Cases: tests/xds_server/test_translate_trust.py.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import betterproto2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy_data_plane.envoy.config.core.v3 import TransportSocket
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from google.protobuf import json_format
from google.protobuf.message import Message

from xds_server import bootstrap
from xds_server.bootstrap import Trust

# What ParseDict finds behind an "@type"; imported, it is registered.
_TYPES = (credential_injector_pb2, upstream_codec_pb2, generic_pb2, tls_pb2)
Made = TypeVar("Made", bound=betterproto2.Message)


def transport_socket(trust: Trust) -> TransportSocket:
    """TLS, the server known by our own authority."""
    return _message(bootstrap.transport_socket(trust), base_pb2.TransportSocket(), TransportSocket)


def credential_filters(trust: Trust) -> list[HttpFilter]:
    """What sends the token with each stream."""
    empty = http_connection_manager_pb2.HttpFilter
    return [_message(each, empty(), HttpFilter) for each in bootstrap.credential_filters(trust)]


def _message(data: Mapping[str, Any], empty: Message, kind: type[Made]) -> Made:
    return kind.parse(json_format.ParseDict(data, empty).SerializeToString(deterministic=True))
