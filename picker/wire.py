"""ext_proc messages <-> Event and Reply. Protobuf (upb) stays on this side; bytes in, bytes out.

Source: Envoy `service.ext_proc.v3.ExternalProcessor`.
"""

import json
from collections.abc import Mapping
from typing import Any

import orjson
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2

from picker.session import (
    BodyReply,
    ChunkReply,
    Destination,
    Event,
    HeadersReply,
    ImmediateReply,
    Mode,
    MoreTime,
    Phase,
    Reply,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    TrailersReply,
)
from xds_server.model.names import (
    DECISION_KEY,
    DESTINATION,
    INSERT,
    INSERT_AT,
    LB_NAMESPACE,
    PENSTOCK_NAMESPACE,
    SUBSET_NAMESPACE,
    UNASKED_USAGE,
)
from xds_server.protobuf import fields, head

SUBSET = "x-gateway-destination-endpoint-subset"

_Request: Any = external_processor_pb2.ProcessingRequest
_Response: Any = external_processor_pb2.ProcessingResponse
_Mode: Any = processing_mode_pb2.ProcessingMode
_Body: Any = external_processor_pb2.HttpBody
_EVENTS = frozenset(field.number for field in _Request.DESCRIPTOR.oneofs_by_name["request"].fields)
_LARGE = 16384  # bytes of a message whose body is worth a copy
# The way to BodyMutation.body, from there outwards.
_BODY_FIELDS: tuple[int, ...] = (
    external_processor_pb2.BodyMutation.BODY_FIELD_NUMBER,
    external_processor_pb2.CommonResponse.BODY_MUTATION_FIELD_NUMBER,
    external_processor_pb2.BodyResponse.RESPONSE_FIELD_NUMBER,
)
_OUTER_FIELD: Mapping[Phase, int] = {
    "request": _Response.REQUEST_BODY_FIELD_NUMBER,
    "response": _Response.RESPONSE_BODY_FIELD_NUMBER,
}
_OVERWRITE: Any = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

_MODES: Mapping[int, Mode] = {
    _Mode.BUFFERED: "buffered",
    _Mode.BUFFERED_PARTIAL: "buffered",
    _Mode.FULL_DUPLEX_STREAMED: "duplex",
}


def decode(data: bytes) -> Event | None:
    """One message of Envoy's; None for one that we do not know. Raises google.protobuf.message.DecodeError."""
    if len(data) >= _LARGE and (body := _request_body(data)) is not None:
        return body
    message = _Request.FromString(data)
    match message.WhichOneof("request"):
        case "request_headers":
            return _request_headers(message)
        case "request_body":
            return RequestBody(message.request_body.body, message.request_body.end_of_stream)
        case "request_trailers":
            return RequestTrailers()
        case "response_headers":
            return ResponseHeaders(message.response_headers.end_of_stream, _status(message.response_headers.headers))
        case "response_body":
            return ResponseBody(message.response_body.body, message.response_body.end_of_stream)
        case "response_trailers":
            return ResponseTrailers()
    return None


def _request_body(data: bytes) -> RequestBody | None:
    """The body of a request, copied once: protobuf copies it twice. None for all that is not just so: protobuf knows what it is."""
    found, body, end_of_stream = slice(0), b"", False
    try:
        for number, value in fields(data, 0, len(data)):
            if number == _Request.REQUEST_BODY_FIELD_NUMBER and isinstance(value, slice) and not found.stop:
                found = value
            elif number in _EVENTS:
                return None
        for number, value in fields(data, found.start or 0, found.stop):
            if number == _Body.BODY_FIELD_NUMBER and isinstance(value, slice):
                body = data[value]
            elif number == _Body.END_OF_STREAM_FIELD_NUMBER and isinstance(value, int):
                end_of_stream = value != 0
            else:
                return None
    except ValueError:
        return None
    return RequestBody(body, end_of_stream) if found.stop else None


def _status(headers: Any) -> int:
    found = next((each.raw_value or each.value.encode() for each in headers.headers if each.key == ":status"), b"")
    return int(found) if found.isdigit() else 0


def _request_headers(message: Any) -> RequestHeaders:
    found = message.request_headers
    headers: dict[str, str] = {}
    for header in found.headers.headers:
        # Envoy fills raw_value; others may fill value. The first of a repeated header wins: a client cannot append to it.
        headers.setdefault(header.key.lower(), header.raw_value.decode("utf-8", "replace") or header.value)
    mode: Mode = "buffered"  # an Envoy that does not tell is too old for the others
    duplex = False
    if message.HasField("protocol_config"):
        mode = _MODES.get(message.protocol_config.request_body_mode, "none")
        duplex = message.protocol_config.response_body_mode == _Mode.FULL_DUPLEX_STREAMED
    return RequestHeaders(headers, found.end_of_stream, mode, duplex, _subset(message.metadata_context.filter_metadata))


def _subset(metadata: Any) -> tuple[str, ...] | None:
    """The gateway's subset hint: a list of strings, or one string with commas; anything else that is set is empty."""
    if SUBSET_NAMESPACE not in metadata:
        return None
    fields = metadata[SUBSET_NAMESPACE].fields
    if SUBSET not in fields:
        return None
    value = fields[SUBSET]
    match value.WhichOneof("kind"):
        case "string_value":
            entries = value.string_value.split(",")
        case "list_value":
            entries = [part for one in value.list_value.values for part in one.string_value.split(",")]
        case _:
            entries = []
    return tuple(entry.strip() for entry in entries if entry.strip())


def encode(reply: Reply) -> bytes:
    """One message for Envoy."""
    constant = _CONSTANT.get(reply) if isinstance(reply, (HeadersReply, TrailersReply)) else None
    if constant is not None:
        return constant
    message = _Response()
    match reply:
        case HeadersReply():
            part = message.request_headers if reply.phase == "request" else message.response_headers
            part.SetInParent()
            if reply.destination is not None:
                _send_to(message, part.response.header_mutation, reply.destination)
        case BodyReply():
            part = message.request_body if reply.phase == "request" else message.response_body
            part.response.SetInParent()
            if reply.destination is not None:
                _send_to(message, part.response.header_mutation, reply.destination)
            if reply.body is not None:
                if reply.content_length:
                    _set(part.response.header_mutation, "content-length", str(len(reply.body)))
                return _with_body(message, reply.phase, reply.body)
        case ChunkReply():
            part = message.request_body if reply.phase == "request" else message.response_body
            chunk = part.response.body_mutation.streamed_response
            chunk.body = reply.body
            chunk.end_of_stream = reply.end_of_stream
        case TrailersReply():
            part = message.request_trailers if reply.phase == "request" else message.response_trailers
            part.SetInParent()
            if reply.destination is not None:
                _send_to(message, None, reply.destination)
        case MoreTime():
            message.override_message_timeout.FromMilliseconds(int(reply.seconds * 1000))
        case ImmediateReply():
            part = message.immediate_response
            part.status.code = reply.status
            for name, value in reply.headers:
                _set(part.headers, name, value)
            part.body = reply.body
            part.details = reply.details
    encoded: bytes = message.SerializeToString()
    return encoded


def _with_body(message: Any, phase: Phase, body: bytes) -> bytes:
    """`message` with another body. Protobuf joins the parts of a message that comes in several, so this one is written behind the
    rest, and copied once: 400 KB that are set and serialised cost ten times as much.
    """
    prefix = b""
    for field in (*_BODY_FIELDS, _OUTER_FIELD[phase]):
        prefix = head(field, len(prefix) + len(body)) + prefix
    return b"".join((message.SerializeToString(), prefix, body))


def _set(mutation: Any, name: str, value: str) -> None:
    option = mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
    option.append_action = _OVERWRITE


def _send_to(message: Any, mutation: Any, destination: Destination) -> None:
    """The header and the dynamic metadata must be equal (proposal 004); headers of trailers would come too late."""
    if mutation is not None:
        _set(mutation, DESTINATION, destination.endpoints)
        for name, value in destination.headers:
            if value:
                _set(mutation, name, value)
            else:
                mutation.remove_headers.append(name)
    fields = message.dynamic_metadata.fields
    fields[LB_NAMESPACE].struct_value.fields[DESTINATION].string_value = destination.endpoints
    ours = fields[PENSTOCK_NAMESPACE].struct_value.fields
    ours["id"].string_value = destination.id
    if destination.explained:
        ours[DECISION_KEY].string_value = destination.id
    if destination.unasked_usage:
        ours[UNASKED_USAGE].bool_value = True
    if destination.insert is not None:
        at, text = destination.insert
        ours[INSERT_AT].number_value, ours[INSERT].string_value = at, text.decode()
    if destination.rewritten is not None:
        asked, target = destination.rewritten
        ours["asked"].string_value = orjson.dumps(asked).decode()
        ours["target"].string_value = orjson.dumps(target).decode()
        if not target.isascii():
            ours["escaped_target"].string_value = json.dumps(target)  # as servers in Python may write it


_CONSTANT: dict[HeadersReply | TrailersReply, bytes] = {}
_CONSTANT.update(
    {
        reply: encode(reply)
        for reply in (
            HeadersReply("request"),
            HeadersReply("response"),
            TrailersReply("request"),
            TrailersReply("response"),
        )
    }
)
