"""What Envoy answers by itself on a listener that serves models: errors of the API that the client speaks, so that SDKs understand them.

The picker's own refusals are shaped by the picker and pass unchanged. Source: Envoy `LocalReplyConfig`; the shapes are those of the
OpenAI and Anthropic APIs' errors, the 404 that of vLLM 0.32.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ExtensionFilter,
    HeaderFilter,
    ResponseFlagFilter,
)
from envoy_data_plane.envoy.config.core.v3 import HeaderValueOption, SubstitutionFormatString
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct

from xds_server.model.names import DESTINATION, MODEL_HEADER, PICKER_HEADER
from xds_server.translate.encode import pack
from xds_server.translate.headers import option

BAD_REQUEST = 400  # status of a direct response whose body is a message for the client
_ANTHROPIC = "request.url_path.endsWith('/messages') || request.url_path.endsWith('/messages/count_tokens')"
# No healthy host, connection failure, termination, reset, timeout, overflow, no cluster, a duration that ran out.
_UPSTREAM_FLAGS = ["UH", "UF", "UC", "UR", "LR", "UT", "UO", "NC", "URX", "UPE", "SI", "DT"]


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a client is told, in the words of either API."""

    when: AccessLogFilter
    message: str
    kind: str  # OpenAI's type of error
    code: str
    anthropic: str  # Anthropic's type of error
    status: int | None = None  # as Envoy has it
    headers: tuple[HeaderValueOption, ...] = ()


def local(*, asking: bool = False, last: bool = False) -> LocalReplyConfig:
    """By the first that fits: unknown model, no route, too large, and what can go wrong upstream. `asking`: of a listener that
    only asks a picker, where silence before the answer is the picker's, and where the next listener must know of it; `last`:
    there is no other, and to wait for the same picker again would only take twice as long.
    """
    retried = (option(PICKER_HEADER, "unavailable"),) if asking else ()
    # A timeout would be 504, as if the server were late.
    unasked = [_no_picker(_details("ext_proc"), retried)]
    if asking:
        silent = _all(_details("stream_idle_timeout"), _lacks(DESTINATION))
        unasked.insert(0, _no_picker(silent, () if last else retried))
    found = [
        *(unasked if asking else []),
        _Reply(
            _all(_flags("NR"), _has(MODEL_HEADER)),
            f"The model `%REQ({MODEL_HEADER})%` does not exist or no route serves it here.",
            "invalid_request_error",
            "model_not_found",
            "not_found_error",
        ),
        _Reply(
            _flags("NR"),
            "No route serves this host and path.",
            "invalid_request_error",
            "not_found",
            "not_found_error",
        ),
        _Reply(
            _flags(*_UPSTREAM_FLAGS),
            "The model server could not serve the request (%RESPONSE_CODE_DETAILS%).",
            "server_error",
            "upstream_error",
            "api_error",
        ),
        _Reply(
            _details("request_payload_too_large"),
            "The request body is larger than this gateway allows.",
            "invalid_request_error",
            "request_too_large",
            "request_too_large",
        ),
        _Reply(
            _when(f"response.code == {BAD_REQUEST} && {_starts('direct_response')}"),
            "%LOCAL_REPLY_BODY%",
            "invalid_request_error",
            "bad_request",
            "invalid_request_error",
        ),
        *([] if asking else unasked),
    ]
    return LocalReplyConfig(mappers=[mapper for reply in found for mapper in _mappers(reply)])


def _no_picker(when: AccessLogFilter, headers: tuple[HeaderValueOption, ...]) -> _Reply:
    message = "The endpoint picker did not answer."
    return _Reply(when, message, "server_error", "picker_unavailable", "overloaded_error", 503, headers)


def _mappers(reply: _Reply) -> Iterator[ResponseMapper]:
    told = {"type": "error", "error": {"type": reply.anthropic, "message": reply.message}}
    yield _mapper(reply, _all(_when(_ANTHROPIC), reply.when), told)
    error = {"message": reply.message, "type": reply.kind, "param": None, "code": reply.code}
    yield _mapper(reply, reply.when, {"error": error})


def _mapper(reply: _Reply, when: AccessLogFilter, body: dict[str, Any]) -> ResponseMapper:
    form = SubstitutionFormatString(json_format=Struct.from_dict(body), content_type="application/json")
    return ResponseMapper(
        filter=when, body_format_override=form, status_code=reply.status, headers_to_add=list(reply.headers)
    )


def _all(*filters: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=AndFilter(filters=list(filters)))


def _flags(*flags: str) -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(flags)))


def _has(header: str) -> AccessLogFilter:
    return AccessLogFilter(header_filter=HeaderFilter(header=HeaderMatcher(name=header, present_match=True)))


def _lacks(header: str) -> AccessLogFilter:
    absent = HeaderMatcher(name=header, present_match=True, invert_match=True)
    return AccessLogFilter(header_filter=HeaderFilter(header=absent))


def _details(prefix: str) -> AccessLogFilter:
    """By why Envoy replied: nothing else tells its own 503 from one that the picker sent."""
    return _when(_starts(prefix))


def _starts(prefix: str) -> str:
    return f"response.code_details.startsWith('{prefix}')"


def _when(expression: str) -> AccessLogFilter:
    name = "envoy.access_loggers.extension_filters.cel"
    found = ExpressionFilter(expression=expression)
    return AccessLogFilter(extension_filter=ExtensionFilter(name=name, typed_config=pack(found)))
