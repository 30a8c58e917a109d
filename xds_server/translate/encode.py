"""From betterproto2 messages to bytes: checked once, encoded once.

betterproto2 0.9 builds a new pydantic validator for every nested message at every encoding and enters a warnings context for
every field. `_validate` and `_get_field_default` are replaced by versions that keep the checks and cache what they need: about
a twentieth of the time for a route (`make bench NAME=encode`). tests/xds_server/test_encode.py shows that bytes and errors stay
the same.
"""

from typing import Any

import betterproto2
import pydantic_core
from envoy_data_plane.google.protobuf import Any as AnyMessage

_validators: dict[type, pydantic_core.SchemaValidator] = {}


def _validate(self: betterproto2.Message) -> None:
    kind = type(self)
    validator = _validators.get(kind)
    if validator is None:
        validator = _validators[kind] = pydantic_core.SchemaValidator(kind.__pydantic_core_schema__)  # type: ignore[attr-defined]
    fields = self.__dict__.copy()
    fields.pop("_unknown_fields", None)
    validator.validate_python(fields)


def _get_field_default(self: betterproto2.Message, field_name: str) -> Any:
    meta: Any = self._betterproto  # type: ignore[arg-type]
    return meta.default_gen[field_name]()  # without the warnings context for deprecated fields


betterproto2.Message._validate = _validate  # type: ignore[method-assign]  # noqa: SLF001
betterproto2.Message._get_field_default = _get_field_default  # type: ignore[method-assign]  # noqa: SLF001


def pack(message: betterproto2.Message) -> AnyMessage:
    """`message` as google.protobuf.Any."""
    return AnyMessage.pack(message)
