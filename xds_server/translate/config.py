"""Words that several of Envoy's resources share: where their parts come from, and extensions that our types do not know yet."""

from collections.abc import Mapping
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import AggregatedConfigSource, ApiVersion, ConfigSource
from envoy_data_plane.google.protobuf import Any as AnyMessage, Struct
from envoy_data_plane.message_pool import default_message_pool
from pydantic.dataclasses import dataclass

from xds_server.translate.encode import pack


def ads() -> ConfigSource:
    """Over the stream that the resource itself came by."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


@dataclass(eq=False, repr=False, config={"extra": "forbid"})
class TypedStruct(betterproto2.Message):
    """xds.type.v3.TypedStruct, which our types lack."""

    type_url: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    value: Struct | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, optional=True)


default_message_pool.register_message("xds.type.v3", "TypedStruct", TypedStruct)


def untyped(type_name: str, value: Mapping[str, Any]) -> AnyMessage:
    """A message of an Envoy that is newer than our types; Envoy checks it."""
    return pack(TypedStruct(type_url=f"type.googleapis.com/{type_name}", value=Struct.from_dict(dict(value))))
