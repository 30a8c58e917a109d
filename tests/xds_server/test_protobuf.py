"""Fields put together by hand are what protobuf reads, and what it writes is taken apart."""

import pytest
from envoy.config.core.v3.base_pb2 import HeaderValue
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.wrappers_pb2 import UInt64Value
from hypothesis import given, strategies as st

from xds_server.protobuf import embed, fields, head


@given(st.binary(max_size=300) | st.integers(0, 70_000).map(bytes))
def test_a_field_is_read_as_it_was_written(body: bytes) -> None:
    assert AnyMessage.FromString(embed(2, body)).value == body
    assert HeaderValue.FromString(head(3, len(body)) + body).raw_value == body


@given(st.integers(1, 2**29 - 1))
def test_fields_of_any_number_are_passed_over_by_who_does_not_know_them(field: int) -> None:
    number = field if field > 2 else field + 2  # Any has the first two
    assert AnyMessage.FromString(embed(number, b"x" * 200) + embed(2, b"value")).value == b"value"


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.binary(max_size=300))), st.integers(0, 5))
def test_messages_are_taken_apart(parts: list[tuple[int, bytes]], before: int) -> None:
    data = b"x" * before + b"".join(embed(number, body) for number, body in parts)
    found = [(number, data[at]) for number, at in fields(data, before, len(data)) if isinstance(at, slice)]
    assert found == parts


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_read(number: int) -> None:
    data = UInt64Value(value=number).SerializeToString()
    assert list(fields(data, 0, len(data))) == ([(1, number)] if number else [])


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05abc", b"\x80", b"\x08" + b"\x80" * 10, b"\x09" + bytes(8), b"\x0d" + bytes(4)]
)
def test_what_cannot_be_read_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"end|cannot"):
        list(fields(data, 0, len(data)))
