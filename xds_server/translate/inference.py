"""The HTTP filters of a listener that serves InferencePools: model to header, one decision by the picker, token usage.

Order on the way in: json_to_metadata reads the model, `model_to_header` makes it a header that routes match,
`route_headers` applies the route's own header filters, ext_proc asks the picker, `answer` writes into the body what the picker
said. On the way out `answer` is the first: it reads the usage of streams and changes what the client must not see of all this;
json_to_metadata reads the usage of the rest. The picker sees no byte of an answer. Verified on Envoy 1.40;
docs/decisions/0002-data-path.md.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc, HeaderValue
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExternalProcessorRouteCacheAction,
    ExtProcOverrides,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode as Body,
    ProcessingModeHeaderSendMode as Send,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 import (
    JsonToMetadata,
    JsonToMetadataKeyValuePair as Pair,
    JsonToMetadataMatchRules,
    JsonToMetadataRule,
    JsonToMetadataSelector as Selector,
    JsonToMetadataValueType as ValueType,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any as AnyMessage, Value

from xds_server.model.graph import Backend
from xds_server.model.names import (
    AI_NAMESPACE,
    BODY_HEADER,
    DECISION_HEADER,
    DECISION_KEY,
    EXT_PROC,
    INSERT_METADATA,
    JSON_TO_METADATA,
    LB_NAMESPACE,
    MODEL_HEADER,
    MODEL_TO_HEADER,
    PENSTOCK_NAMESPACE,
    PICKER_CLUSTER,
    POOL_METADATA,
    ROUTE_HEADERS,
    SUBSET_NAMESPACE,
    USAGE_METADATA,
)
from xds_server.translate import answer
from xds_server.translate.encode import pack
from xds_server.translate.headers import option
from xds_server.translate.settings import DataPlane
from xds_server.translate.usage import PLACES

_JSON = RegexMatcher(regex=r"(?i)application/json(?:\s*;.*)?")  # servers and clients do send "; charset=utf-8"
_SKIP = ProcessingMode(
    request_header_mode=Send.SKIP,
    response_header_mode=Send.SKIP,
    request_trailer_mode=Send.SKIP,
    response_trailer_mode=Send.SKIP,
)
# BUFFERED, since only so a dead, aborting or hung picker fails open or closed as the pool asks (lab table R12).
_DECIDE = ProcessingMode(request_header_mode=Send.SEND, request_body_mode=Body.BUFFERED, response_header_mode=Send.SKIP)
# Said by listeners, not by routes: for a while after an upgrade, new routes are served by listeners that have the filter elsewhere.
_INSERTS = HeaderValue(key=INSERT_METADATA, value="write")
# What the endpoint-picker protocol wants of a data plane: a foreign picker answers the headers when it has seen the body, and
# is told the end of it all.
_TAKE_PART = ProcessingMode(
    request_header_mode=Send.SEND,
    request_body_mode=Body.FULL_DUPLEX_STREAMED,
    request_trailer_mode=Send.SEND,
    response_header_mode=Send.SEND,
    response_body_mode=Body.FULL_DUPLEX_STREAMED,
    response_trailer_mode=Send.SEND,
)


def filters(plane: DataPlane, *, by_model: bool) -> tuple[list[HttpFilter], list[HttpFilter]]:
    """The filters before a route's own, and those after. `by_model`: some route matches the model header, so bodies are read
    before routing.
    """
    found = [_filter(JSON_TO_METADATA, pack(_json_to_metadata(by_model=by_model)))]
    if by_model:
        found.append(_filter(MODEL_TO_HEADER, pack(_model_to_header())))
    return found, [
        _filter(ROUTE_HEADERS, pack(HeaderMutation(mutations=_told(plane)))),
        _filter(EXT_PROC, pack(_slot(plane))),
        answer.answers(),
    ]


def picker_override(pool: Backend) -> ExtProcPerRoute:
    """Fills the ext_proc slot for a route, or for one share of it, to a pool: which pool, and what if nobody answers."""
    overrides = ExtProcOverrides(  # no service: the listener's own says what its filters do (`_slot`)
        processing_mode=_DECIDE,
        failure_mode_allow=pool.fail_open,
        grpc_initial_metadata=_of(pool),
    )
    return ExtProcPerRoute(overrides=overrides)


def asking(pool: Backend, plane: DataPlane) -> list[HttpFilter]:
    """The filters of a pool that is asked apart (`pool.py`), whose metadata no other listener sees. ext_proc fails, always: what
    comes next is not decided here.
    """
    if pool.picker is not None:
        config = replace(_slot(plane), grpc_service=_grpc(pool.picker), processing_mode=_TAKE_PART)
        config.failure_mode_allow = False
        config.route_cache_action = (
            ExternalProcessorRouteCacheAction.CLEAR
        )  # see `pool.py`: no route here leads elsewhere
        return [_filter(EXT_PROC, pack(config))]
    config = replace(_slot(plane), processing_mode=_DECIDE, failure_mode_allow=False)
    config.grpc_service = _grpc(told=[_INSERTS, *_of(pool)])
    told = [_filter(ROUTE_HEADERS, pack(HeaderMutation(mutations=_told(plane))))] if plane.explain else []
    return [
        *told,
        _filter(JSON_TO_METADATA, pack(_json_to_metadata(by_model=False))),
        _filter(EXT_PROC, pack(config)),
        answer.answers(),
    ]


def _of(pool: Backend) -> list[HeaderValue]:
    """What the picker is told of the pool, and whether it may ask streams for usage: where this is said, `answer.py` hides it again."""
    found = [HeaderValue(key=POOL_METADATA, value=f"{pool.ref.namespace}/{pool.ref.name}")]
    return [*found, HeaderValue(key=USAGE_METADATA, value="ask")] if pool.usage else found


def _told(plane: DataPlane) -> Mutations:
    """The id of the decision for a client that asked for it: the picker sets it in no other request, and what is empty is no header."""
    if not plane.explain:
        return Mutations()
    told = option(DECISION_HEADER, f"%DYNAMIC_METADATA({PENSTOCK_NAMESPACE}:{DECISION_KEY})%")
    return Mutations(response_mutations=[Mutation(append=told)])


def _slot(plane: DataPlane) -> ExternalProcessor:
    """ext_proc, asleep: routes to pools wake it. A filter that were `disabled` could not be woken once the model is known."""
    receiving = MetadataOptionsMetadataNamespaces(untyped=[LB_NAMESPACE, PENSTOCK_NAMESPACE])
    forwarding = MetadataOptionsMetadataNamespaces(untyped=[LB_NAMESPACE, SUBSET_NAMESPACE])
    return ExternalProcessor(
        grpc_service=_grpc(told=[_INSERTS]),
        failure_mode_allow=True,
        processing_mode=_SKIP,
        message_timeout=timedelta(seconds=plane.picker_timeout),
        max_message_timeout=timedelta(hours=1),  # a picker that lets a request wait asks for more time
        route_cache_action=ExternalProcessorRouteCacheAction.RETAIN,  # the picker picks an endpoint, never a route
        metadata_options=MetadataOptions(forwarding_namespaces=forwarding, receiving_namespaces=receiving),
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
    )


def _grpc(picker: Backend | None = None, told: Sequence[HeaderValue] = ()) -> GrpcService:
    """The co-located picker, or a foreign one, and what each stream tells it."""
    service = GrpcServiceEnvoyGrpc(cluster_name=picker.cluster if picker else PICKER_CLUSTER)
    return GrpcService(envoy_grpc=service, initial_metadata=list(told))


def _json_to_metadata(*, by_model: bool) -> JsonToMetadata:
    model = JsonToMetadataRule(
        selectors=[Selector(key="model")],
        on_present=Pair(metadata_namespace=AI_NAMESPACE, key="model"),
        on_error=Pair(metadata_namespace=AI_NAMESPACE, key="error", value=Value(string_value="invalid")),
    )
    usage = JsonToMetadataMatchRules(rules=_usage(), allow_content_types_regex=_JSON)
    request = JsonToMetadataMatchRules(rules=[model], allow_content_types_regex=_JSON) if by_model else None
    return JsonToMetadata(request_rules=request, response_rules=usage)


def _usage() -> list[JsonToMetadataRule]:
    return [
        JsonToMetadataRule(
            selectors=[Selector(key=key) for key in path],
            on_present=Pair(metadata_namespace=AI_NAMESPACE, key=name, type=ValueType.NUMBER),
        )
        for name, path in PLACES
    ]


def _model_to_header() -> HeaderMutation:
    written: Sequence[tuple[str, str]] = ((MODEL_HEADER, "model"), (BODY_HEADER, "error"))
    mutations = [Mutation(append=option(name, f"%DYNAMIC_METADATA({AI_NAMESPACE}:{key})%")) for name, key in written]
    return HeaderMutation(mutations=Mutations(request_mutations=mutations))


def _filter(name: str, config: AnyMessage) -> HttpFilter:
    return HttpFilter(name=name, typed_config=config)
