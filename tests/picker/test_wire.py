"""ext_proc messages, byte for byte: what Envoy says, and what it is told."""

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, strategies as st

from picker import wire
from picker.session import (
    BodyReply,
    ChunkReply,
    Destination,
    HeadersReply,
    ImmediateReply,
    Phase,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    TrailersReply,
)
from picker.wire import SUBSET, decode, encode
from xds_server.model.names import DESTINATION, SUBSET_NAMESPACE

MODE = processing_mode_pb2.ProcessingMode
WHERE = Destination("10.0.0.1:80,[fd00::1]:80", "id-1")


def headers(**found: str) -> pb.ProcessingRequest:
    message = pb.ProcessingRequest()
    message.request_headers.SetInParent()
    for name, value in found.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message


def read(message: pb.ProcessingRequest) -> object:
    return decode(message.SerializeToString())


def test_headers() -> None:
    message = headers(**{":path": "/x", "X-Upper": "ü"})
    message.request_headers.headers.headers.add(key="plain", value="v")
    message.request_headers.headers.headers.add(key="plain", value="forged")
    message.request_headers.headers.headers.add(key="odd", raw_value=b"\xff")
    message.request_headers.end_of_stream = True
    assert read(message) == RequestHeaders({":path": "/x", "x-upper": "ü", "plain": "v", "odd": "\ufffd"}, True)


@pytest.mark.parametrize(
    ("request_mode", "response_mode", "found"),
    [
        (MODE.BUFFERED, MODE.NONE, ("buffered", False)),
        (MODE.BUFFERED_PARTIAL, MODE.BUFFERED, ("buffered", False)),
        (MODE.FULL_DUPLEX_STREAMED, MODE.FULL_DUPLEX_STREAMED, ("duplex", True)),
        (MODE.FULL_DUPLEX_STREAMED, MODE.NONE, ("duplex", False)),
        (MODE.NONE, MODE.NONE, ("none", False)),
        (MODE.STREAMED, MODE.STREAMED, ("none", False)),
    ],
)
def test_the_modes_that_envoy_announces(request_mode: int, response_mode: int, found: tuple[str, bool]) -> None:
    message = headers()
    message.protocol_config.request_body_mode = request_mode
    message.protocol_config.response_body_mode = response_mode
    event = read(message)
    assert (event.mode, event.response_duplex) == found


def test_an_envoy_that_announces_nothing_buffers() -> None:
    assert read(headers()).mode == "buffered"


@pytest.mark.parametrize(
    ("hint", "found"),
    [
        (["10.0.0.1:80", "10.0.0.2:80"], ("10.0.0.1:80", "10.0.0.2:80")),
        ("10.0.0.1:80, 10.0.0.2", ("10.0.0.1:80", "10.0.0.2")),
        ([], ()),
        ("", ()),
        (3.0, ()),
    ],
)
def test_the_subset_hint(hint: object, found: tuple[str, ...]) -> None:
    message = headers()
    message.metadata_context.filter_metadata[SUBSET_NAMESPACE].update({SUBSET: hint})
    assert read(message).subset == found


def test_no_subset_hint() -> None:
    message = headers()
    message.metadata_context.filter_metadata["other"].update({SUBSET: ["x"]})
    assert read(message).subset is None
    message.metadata_context.filter_metadata[SUBSET_NAMESPACE].update({"other": "x"})
    assert read(message).subset is None


def test_the_other_events() -> None:
    assert read(pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x", end_of_stream=True))) == RequestBody(
        b"x", True
    )
    assert read(pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x"))) == ResponseBody(b"x", False)
    assert read(pb.ProcessingRequest(response_headers=pb.HttpHeaders(end_of_stream=True))) == ResponseHeaders(True)
    assert read(pb.ProcessingRequest(request_trailers=pb.HttpTrailers())) == RequestTrailers()
    assert read(pb.ProcessingRequest(response_trailers=pb.HttpTrailers())) == ResponseTrailers()
    assert read(pb.ProcessingRequest()) is None


def write(reply: object) -> pb.ProcessingResponse:
    return pb.ProcessingResponse.FromString(encode(reply))


@pytest.mark.parametrize("reply", [HeadersReply("request", WHERE), BodyReply("request", WHERE, b"new")])
def test_the_header_equals_the_metadata(reply: HeadersReply | BodyReply) -> None:
    message = write(reply)
    part = message.request_headers if isinstance(reply, HeadersReply) else message.request_body
    (option,) = part.response.header_mutation.set_headers
    assert (option.header.key, option.header.raw_value.decode()) == (DESTINATION, WHERE.endpoints)
    assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD  # never beside a forged one
    assert message.dynamic_metadata["envoy.lb"][DESTINATION] == WHERE.endpoints
    assert message.dynamic_metadata["penstock"]["id"] == WHERE.id


def test_who_asked_is_told_the_id_by_metadata_of_its_own() -> None:
    asked = Destination(WHERE.endpoints, WHERE.id, explained=True)
    assert dict(write(HeadersReply("request", asked)).dynamic_metadata["penstock"]) == {
        "id": "id-1",
        "decision": "id-1",
    }
    assert dict(write(HeadersReply("request", WHERE)).dynamic_metadata["penstock"]) == {"id": "id-1"}


def test_bodies() -> None:
    assert write(BodyReply("request", WHERE, b"new")).request_body.response.body_mutation.body == b"new"
    told = write(BodyReply("request", WHERE, b"new", content_length=True)).request_body.response.header_mutation
    assert (told.set_headers[1].header.key, told.set_headers[1].header.raw_value) == ("content-length", b"3")
    assert not write(BodyReply("request", WHERE)).request_body.response.HasField("body_mutation")
    assert write(BodyReply("response")).WhichOneof("response") == "response_body"
    for phase in ("request", "response"):
        part = getattr(write(ChunkReply(phase, b"x", True)), f"{phase}_body")
        assert part.response.body_mutation.streamed_response == pb.StreamedBodyResponse(body=b"x", end_of_stream=True)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_370, 16_384, 2_200_000])
@pytest.mark.parametrize("phase", ["request", "response"])
def test_a_body_of_any_size_is_joined_to_the_rest(phase: Phase, size: int) -> None:
    found = write(BodyReply(phase, WHERE, b"x" * size, content_length=True))
    response = (found.request_body if phase == "request" else found.response_body).response
    assert response.body_mutation.body == b"x" * size
    assert response.header_mutation.set_headers[1].header.raw_value == str(size).encode()
    assert found.dynamic_metadata["penstock"]["id"] == WHERE.id
    whole = pb.ProcessingResponse.FromString(found.SerializeToString())
    assert whole == found


def test_what_says_nothing_but_go_on() -> None:
    for phase in ("request", "response"):
        assert write(HeadersReply(phase)).WhichOneof("response") == f"{phase}_headers"
        assert write(TrailersReply(phase)).WhichOneof("response") == f"{phase}_trailers"
    assert write(TrailersReply("request", WHERE)).dynamic_metadata["penstock"]["id"] == WHERE.id


def test_an_immediate_reply() -> None:
    found = write(ImmediateReply(429, (("retry-after", "1"),), b"{}", "penstock:shed_priority")).immediate_response
    assert (found.status.code, found.body, found.details) == (429, b"{}", "penstock:shed_priority")
    assert [(one.header.key, one.header.raw_value) for one in found.headers.set_headers] == [("retry-after", b"1")]


@given(st.binary(), st.booleans())
def test_a_chunk_says_what_a_body_said(body: bytes, end: bool) -> None:
    event = read(pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=end)))
    found = write(
        ChunkReply("request", event.body, event.end_of_stream)
    ).request_body.response.body_mutation.streamed_response
    assert (found.body, found.end_of_stream) == (body, end)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (None, {"id": "i"}),
        (('a"b', "org/m"), {"id": "i", "asked": '"a\\"b"', "target": '"org/m"'}),
        (("a", "é"), {"id": "i", "asked": '"a"', "target": '"é"', "escaped_target": '"\\u00e9"'}),
    ],
)
def test_a_rewrite_tells_the_names_as_json(names: tuple[str, str] | None, wanted: dict[str, str]) -> None:
    message = write(BodyReply("request", Destination("10.0.0.1:80", "i", rewritten=names), b"{}"))
    told = message.dynamic_metadata.fields["penstock"].struct_value.fields
    assert {name: value.string_value for name, value in told.items()} == wanted


def test_usage_that_nobody_asked_for_is_told_of() -> None:
    message = write(BodyReply("request", Destination("10.0.0.1:80", "i", unasked_usage=True), b"{}"))
    assert dict(message.dynamic_metadata["penstock"]) == {"id": "i", "unasked_usage": True}


def test_what_the_gateway_writes_into_the_body_is_told_in_place_of_the_body() -> None:
    message = write(BodyReply("request", Destination("10.0.0.1:80", "i", insert=(1, b'"a":1,'))))
    assert dict(message.dynamic_metadata["penstock"]) == {"id": "i", "insert": '"a":1,', "insert_at": 1}
    assert not message.request_body.response.HasField("body_mutation")


def test_headers_beside_the_destination_overwrite_what_the_client_sent() -> None:
    where = Destination(
        "10.0.0.1:80", "id-1", (("x-prefiller-host-port", "10.0.0.2:80"), ("x-encoder-hosts-ports", ""))
    )
    for reply in (HeadersReply("request", where), BodyReply("request", where)):
        message = pb.ProcessingResponse.FromString(encode(reply))
        part = message.request_headers if message.HasField("request_headers") else message.request_body
        mutation = part.response.header_mutation
        found = {each.header.key: (each.header.raw_value, each.append_action) for each in mutation.set_headers}
        assert found["x-prefiller-host-port"] == (b"10.0.0.2:80", base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
        assert list(mutation.remove_headers) == ["x-encoder-hosts-ports"]


def as_protobuf_reads(data: bytes, monkeypatch: pytest.MonkeyPatch, *, large: int) -> object:
    monkeypatch.setattr(wire, "_LARGE", large)
    try:
        return decode(data)
    except DecodeError:
        return DecodeError


PARTS = st.sampled_from(["request_body", "twice", "metadata", "mode", "headers", "response", "odd", "grpc"])


@given(st.binary(max_size=200), st.booleans(), st.lists(PARTS, max_size=4), st.integers(0, 300), st.binary(max_size=3))
def test_a_large_body_is_read_as_protobuf_reads_it(
    body: bytes, ends: bool, parts: list[str], cut: int, junk: bytes
) -> None:
    written = {
        "request_body": pb.ProcessingRequest(request_body=pb.HttpBody(body=body, end_of_stream=ends)),
        "twice": pb.ProcessingRequest(request_body=pb.HttpBody(body=b"other")),
        "metadata": pb.ProcessingRequest(metadata_context=base_pb2.Metadata(filter_metadata={"x": Struct()})),
        "mode": pb.ProcessingRequest(observability_mode=True),
        "headers": headers(a="b"),
        "response": pb.ProcessingRequest(response_body=pb.HttpBody(body=b"x")),
        "grpc": pb.ProcessingRequest(request_body=pb.HttpBody(body=body, grpc_message_compressed=True)),
    }
    data = b"".join(written[part].SerializeToString() if part in written else junk for part in parts)
    data = data[: max(0, len(data) - cut)] if cut < 20 else data
    with pytest.MonkeyPatch.context() as patch:
        assert as_protobuf_reads(data, patch, large=0) == as_protobuf_reads(data, patch, large=1 << 30)


def test_a_large_body_is_copied_once() -> None:
    message = pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x" * 20_000, end_of_stream=True))
    message.metadata_context.SetInParent()  # as Envoy sends it
    data = message.SerializeToString()
    assert wire._request_body(data) == decode(data) == RequestBody(b"x" * 20_000, True)  # protobuf need not be asked
