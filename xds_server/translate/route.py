"""RDS: one Envoy route for one match of one rule.

Source: Gateway API 1.7 HTTPRoute; Envoy `config.route.v3`. Cases: tests/golden. Every function is total: what cannot be
served has become a `Reply` before it comes here.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from envoy_data_plane.envoy.config.core.v3 import DataSource, RuntimeFractionalPercent
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    QueryParameterMatcher,
    RedirectAction,
    RedirectActionRedirectResponseCode as RedirectCode,
    RetryPolicy,
    Route as EnvoyRoute,
    RouteAction,
    RouteActionClusterNotFoundResponseCode,
    RouteActionMaxStreamDuration,
    RouteActionRequestMirrorPolicy,
    RouteMatch,
    RouteMatchGrpcRouteMatchOptions,
    WeightedCluster,
    WeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatchAndSubstitute, RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType
from envoy_data_plane.google.protobuf import Any as AnyMessage

from xds_server.model.graph import Backend, Forward, Mirror, Redirect, Reply, Route, WeightedBackend
from xds_server.model.names import EXT_PROC, INVALID_CLUSTER, PICKER_HEADER, ROUTE_HEADERS
from xds_server.model.objects import HeaderFilter, HTTPMatch, PathMatch, PathModifier, ValueMatch
from xds_server.translate import headers, inference
from xds_server.translate.chain import apart
from xds_server.translate.encode import pack
from xds_server.translate.filters import on_route, whole
from xds_server.translate.pool import entry
from xds_server.translate.retry import next_listener, retry_policy
from xds_server.translate.settings import DataPlane

_NO_LIMIT = timedelta(0)
_REDIRECTS = {
    301: RedirectCode.MOVED_PERMANENTLY,
    302: RedirectCode.FOUND,
    303: RedirectCode.SEE_OTHER,
    307: RedirectCode.TEMPORARY_REDIRECT,
    308: RedirectCode.PERMANENT_REDIRECT,
}


def route(found: Route, plane: DataPlane) -> EnvoyRoute:
    """The Envoy route of a match."""
    envoy = EnvoyRoute(name=found.name, match=match(found.match), typed_per_filter_config=on_route(found))
    if found.grpc and envoy.match:
        envoy.match.grpc = RouteMatchGrpcRouteMatchOptions()
    match found.action:
        case Forward() as action:
            _forward(envoy, found, action, plane)
        case Redirect() as action:
            envoy.redirect = _redirect(action, found.match.path)
            _set(envoy, headers.on_route(found.headers))
        case Reply() as action:
            envoy.direct_response = reply(action.status, action.body)
    return envoy


def reply(status: int, body: str = "") -> DirectResponseAction:
    return DirectResponseAction(status=status, body=DataSource(inline_string=body) if body else None)


# --- matching ---------------------------------------------------------------------------------------------------------


def match(found: HTTPMatch) -> RouteMatch:
    """HTTPRouteMatch in Envoy's words; a path prefix matches whole path elements."""
    method = [HeaderMatcher(name=":method", string_match=StringMatcher(exact=found.method))] if found.method else []
    matcher = RouteMatch(
        headers=method + [HeaderMatcher(name=each.name, string_match=_string(each)) for each in found.headers],
        query_parameters=[QueryParameterMatcher(name=each.name, string_match=_string(each)) for each in found.query],
    )
    prefix = found.path.value.rstrip("/")
    match found.path.kind:
        case "Exact":
            matcher.path = found.path.value
        case "RegularExpression":
            matcher.safe_regex = RegexMatcher(regex=found.path.value)
        case "PathPrefix" if prefix:
            matcher.path_separated_prefix = prefix
        case "PathPrefix":
            matcher.prefix = "/"
    return matcher


def _string(found: ValueMatch) -> StringMatcher:
    return (
        StringMatcher(safe_regex=RegexMatcher(regex=found.value)) if found.regex else StringMatcher(exact=found.value)
    )


# --- forwarding -------------------------------------------------------------------------------------------------------


def _forward(envoy: EnvoyRoute, found: Route, action: Forward, plane: DataPlane) -> None:
    served = [each for each in action.backends if each.weight > 0]
    pools = [each.backend for each in served if each.backend and each.backend.pool]
    elsewhere = [each for each in pools if apart(each)]
    ours = len(pools) > len(elsewhere)
    policy = retry_policy(action, pools=ours)
    if elsewhere:
        policy = next_listener(policy, elsewhere)
    envoy.route = RouteAction(
        timeout=_timeout(action, policy),
        idle_timeout=timedelta(seconds=plane.stream_idle) if pools else None,
        cluster_not_found_response_code=RouteActionClusterNotFoundResponseCode.INTERNAL_SERVER_ERROR,
        request_mirror_policies=[_mirror(each) for each in action.mirrors],
        retry_policy=policy,
        max_stream_duration=_grpc_deadline() if found.grpc else None,
    )
    _rewrite(envoy.route, action, found.match.path)
    if len(served) == 1 and (only := served[0].backend):  # its own header filters come after those of the rule
        envoy.route.cluster = entry(only)
        if host := _host(served[0], action):
            envoy.route.host_rewrite_literal = host
        _decorate(envoy, (*found.headers, *served[0].headers), only, plane)
    else:
        envoy.route.weighted_clusters = WeightedCluster(clusters=[_weighted(each, action, plane) for each in served])
        _decorate(envoy, found.headers, None, plane, picked=ours)


def _weighted(share: WeightedBackend, action: Forward, plane: DataPlane) -> WeightedClusterClusterWeight:
    if share.backend is None:
        return WeightedClusterClusterWeight(name=INVALID_CLUSTER, weight=share.weight)
    weight = WeightedClusterClusterWeight(name=entry(share.backend), weight=share.weight)
    if host := _host(share, action):
        weight.host_rewrite_literal = host
    _decorate(weight, share.headers, share.backend, plane)
    return weight


def _decorate(
    message: EnvoyRoute | WeightedClusterClusterWeight,
    filters: tuple[HeaderFilter, ...],
    backend: Backend | None,
    plane: DataPlane,
    *,
    picked: bool = False,
) -> None:
    """Header filters, and for a pool the picker; `picked`: requests of this message's shares go to pools that we are asked
    about.
    """
    elsewhere = backend is not None and apart(backend)
    pool = backend is not None and backend.pool and not elsewhere
    per_filter, rest = _split(filters) if pool or picked else ({}, filters)
    if backend is not None and pool:
        per_filter |= {EXT_PROC: pack(inference.picker_override(backend))}
    if elsewhere:
        per_filter |= whole(plane)
    message.typed_per_filter_config |= per_filter
    _set(message, headers.on_route(rest))
    if elsewhere:
        message.response_headers_to_remove.append(PICKER_HEADER)


def _split(filters: tuple[HeaderFilter, ...]) -> tuple[dict[str, AnyMessage], tuple[HeaderFilter, ...]]:
    """The picker must see what a route's filter sets (an objective, say), so requests are changed before it is asked."""
    before = headers.as_filter(each for each in filters if each.on == "request")
    after = tuple(each for each in filters if each.on == "response")
    return ({ROUTE_HEADERS: pack(before)} if before else {}), after


def _host(share: WeightedBackend, action: Forward) -> str:
    """The Host that a share's own filter asks for, or that a server outside of the cluster answers to; "" to leave it."""
    if share.rewrite and share.rewrite.hostname:
        return share.rewrite.hostname
    if (action.rewrite and action.rewrite.hostname) or share.backend is None:
        return ""
    return share.backend.hostname


def _grpc_deadline() -> RouteActionMaxStreamDuration:
    """The client's own, which it sends along (grpc-timeout)."""
    return RouteActionMaxStreamDuration(grpc_timeout_header_max=_NO_LIMIT)


def _timeout(action: Forward, policy: RetryPolicy | None) -> timedelta:
    """Gateway API has no default; where a policy may try again, `backendRequest` bounds each try (see retry.py)."""
    limits = [action.timeouts.request, None if policy else action.timeouts.backend_request]
    shortest = min((limit for limit in limits if limit), default=None)
    return timedelta(seconds=shortest) if shortest else _NO_LIMIT


def _mirror(found: Mirror) -> RouteActionRequestMirrorPolicy:
    scale, kinds = found.denominator, FractionalPercentDenominatorType
    kind = {100: kinds.HUNDRED, 10_000: kinds.TEN_THOUSAND, 1_000_000: kinds.MILLION}.get(scale)
    if kind is None:
        kind, numerator = kinds.MILLION, round(found.numerator * 1_000_000 / scale)
    else:
        numerator = found.numerator
    fraction = RuntimeFractionalPercent(default_value=FractionalPercent(numerator=numerator, denominator=kind))
    return RouteActionRequestMirrorPolicy(
        cluster=entry(found.backend), runtime_fraction=fraction, disable_shadow_host_suffix_append=True
    )


# --- rewriting and redirecting ----------------------------------------------------------------------------------------


def _rewrite(action: RouteAction, forward: Forward, path: PathMatch) -> None:
    if forward.rewrite is None:
        return
    if forward.rewrite.hostname:
        action.host_rewrite_literal = forward.rewrite.hostname
    if forward.rewrite.path:
        _path(action, forward.rewrite.path, path)


def _path(action: RouteAction | RedirectAction, change: PathModifier, path: PathMatch) -> None:
    """ReplaceFullPath and ReplacePrefixMatch; the query string stays."""
    if change.kind == "ReplaceFullPath":
        if isinstance(action, RedirectAction):
            action.path_redirect = change.value
        else:
            action.regex_rewrite = _substitute("^/.*$", change.value)
        return
    prefix, value = path.value.rstrip("/"), change.value.rstrip("/")
    if not prefix:
        action.prefix_rewrite = f"{value}/"
    elif value:
        action.prefix_rewrite = value
    else:  # to the root: "/prefix/x" must give "/x", and "/prefix" must give "/" (envoyproxy/envoy#26055)
        action.regex_rewrite = _substitute(f"^{re.escape(prefix)}/*", "/")


def _substitute(pattern: str, value: str) -> RegexMatchAndSubstitute:
    return RegexMatchAndSubstitute(pattern=RegexMatcher(regex=pattern), substitution=value.replace("\\", "\\\\"))


def _redirect(found: Redirect, path: PathMatch) -> RedirectAction:
    wanted = found.filter
    action = RedirectAction(
        response_code=_REDIRECTS[wanted.status], host_redirect=wanted.hostname, port_redirect=found.port
    )
    if wanted.scheme:
        action.scheme_redirect = wanted.scheme
    if wanted.path:
        _path(action, wanted.path, path)
    return action


def _set(message: object, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(message, name, value)
