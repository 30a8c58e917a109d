"""What Envoy answers by itself on a listener that serves models: OpenAI-shaped errors, so that SDKs understand them.

The picker's own refusals are shaped by the picker and pass unchanged. Source: Envoy `LocalReplyConfig`; the shape is that of
the OpenAI API's errors, the 404 that of vLLM 0.32.
"""

from typing import Any

import orjson
from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    AndFilter,
    ExtensionFilter,
    HeaderFilter,
    ResponseFlagFilter,
)
from envoy_data_plane.envoy.config.core.v3 import SubstitutionFormatString
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

# No healthy host, connection failure, termination, reset, timeout, overflow, no cluster, a duration that ran out.
_UPSTREAM_FLAGS = ["UH", "UF", "UC", "UR", "LR", "UT", "UO", "NC", "URX", "UPE", "SI", "DT"]


def error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    """An OpenAI-shaped error body."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_text(message: str, kind: str, code: str | None) -> str:
    return orjson.dumps(error(message, kind, code)).decode()


def openai(*, asking: bool = False, last: bool = False) -> LocalReplyConfig:
    """By the first that fits: unknown model, no route, too large, and what can go wrong upstream. `asking`: of a listener that
    only asks a picker, where silence before the answer is the picker's, and where the next listener must know of it; `last`:
    there is no other, and to wait for the same picker again would only take twice as long.
    """
    unknown_model = error(
        f"The model `%REQ({MODEL_HEADER})%` does not exist or no route serves it here.",
        "invalid_request_error",
        "model_not_found",
    )
    no_route = error("No route serves this host and path.", "invalid_request_error", "not_found")
    too_large = error(
        "The request body is larger than this gateway allows.", "invalid_request_error", "request_too_large"
    )
    upstream = error(
        "The model server could not serve the request (%RESPONSE_CODE_DETAILS%).", "server_error", "upstream_error"
    )
    no_picker = error("The endpoint picker did not answer.", "server_error", "picker_unavailable")
    silent = [_mapper(_all(_details("stream_idle_timeout"), _lacks(DESTINATION)), no_picker, 503)] if asking else []
    unasked = [
        *silent,
        _mapper(_details("ext_proc"), no_picker, 503),
    ]  # a timeout would be 504, as if the server were late
    if asking:
        for each in unasked[len(silent) if last else 0 :]:
            each.headers_to_add = [option(PICKER_HEADER, "unavailable")]
    return LocalReplyConfig(
        mappers=[
            *(unasked if asking else []),
            _mapper(_all(_flags("NR"), _has(MODEL_HEADER)), unknown_model),
            _mapper(_flags("NR"), no_route),
            _mapper(_flags(*_UPSTREAM_FLAGS), upstream),
            _mapper(_details("request_payload_too_large"), too_large),
            *([] if asking else unasked),
        ]
    )


def _mapper(when: AccessLogFilter, body: dict[str, Any], status: int | None = None) -> ResponseMapper:
    form = SubstitutionFormatString(json_format=Struct.from_dict(body), content_type="application/json")
    return ResponseMapper(filter=when, body_format_override=form, status_code=status)


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
    expression = ExpressionFilter(expression=f"response.code_details.startsWith('{prefix}')")
    name = "envoy.access_loggers.extension_filters.cel"
    return AccessLogFilter(extension_filter=ExtensionFilter(name=name, typed_config=pack(expression)))
