"""Fields put together by hand are what protobuf reads."""

from envoy.config.core.v3.base_pb2 import HeaderValue
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given, strategies as st

from xds_server.protobuf import embed, head


@given(st.binary(max_size=300) | st.integers(0, 70_000).map(bytes))
def test_a_field_is_read_as_it_was_written(body: bytes) -> None:
    assert AnyMessage.FromString(embed(2, body)).value == body
    assert HeaderValue.FromString(head(3, len(body)) + body).raw_value == body


@given(st.integers(1, 2**29 - 1))
def test_fields_of_any_number_are_passed_over_by_who_does_not_know_them(field: int) -> None:
    number = field if field > 2 else field + 2  # Any has the first two
    assert AnyMessage.FromString(embed(number, b"x" * 200) + embed(2, b"value")).value == b"value"
