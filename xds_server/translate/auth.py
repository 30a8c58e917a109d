"""External authorization: a server is asked whether a request may pass. If it does not answer, nothing passes.

Source: Gateway API 1.7 HTTPExternalAuthFilter; Envoy `filters.http.ext_authz.v3`. A filter instance a configuration, named by
its hash, so that routes share them. Cases: tests/xds_server/test_translate_auth.py.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256

from envoy_data_plane.envoy.config.core.v3 import ApiVersion, GrpcService, GrpcServiceEnvoyGrpc, HttpUri
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    AuthorizationResponse,
    BufferSettings,
    CheckSettings,
    ExtAuthz,
    ExtAuthzPerRoute,
    HttpService,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any as AnyMessage

from xds_server.model.graph import ExternalAuth
from xds_server.translate.encode import pack

_TIMEOUT = timedelta(seconds=10)
_OF_GATEWAY, _OF_ROUTE = "penstock.gateway_auth/", "penstock.auth/"
# Of the answer itself; copied into the request they would tell lies about its body or its way. "*" ends a prefix.
_NOT_TAKEN = ":*", "host", "conne*", "conte*", "date", "keep*", "proxy*", "server", "te", "trail*", "transf*", "upgrade"


def of_gateway(found: Iterable[ExternalAuth]) -> list[HttpFilter]:
    """Asked for every request of a chain."""
    return [HttpFilter(name=_OF_GATEWAY + _digest(each), typed_config=_config(each)) for each in dict.fromkeys(found)]


def of_routes(found: Iterable[ExternalAuth], *, by_model: bool) -> list[HttpFilter]:
    """Asked where a route says so.

    Whether a `disabled` filter runs is decided before the body is read. Where the body decides the route, that would be a way
    around the check: there the filters run, and routes without the check say that they are not meant (`unless_said`).
    """
    filters = {name(each): HttpFilter(name=name(each), typed_config=_config(each)) for each in found}
    for each in filters.values():
        each.disabled = not by_model
    return list(filters.values())


def unless_said(found: Iterable[ExternalAuth]) -> dict[str, AnyMessage]:
    """For a route table: no check, unless a route says otherwise."""
    return {name(each): pack(ExtAuthzPerRoute(disabled=True)) for each in found}


def on_route(found: ExternalAuth) -> dict[str, AnyMessage]:
    return {name(found): pack(ExtAuthzPerRoute(check_settings=CheckSettings()))}


def name(found: ExternalAuth) -> str:
    """The filter that asks so."""
    return _OF_ROUTE + _digest(found)


@lru_cache(maxsize=10_000)
def _digest(found: ExternalAuth) -> str:
    """Strong: who finds another configuration with this name would decide in place of the one that was meant."""
    return sha256(_config(found).value).hexdigest()[:32]


@lru_cache(maxsize=10_000)
def _config(found: ExternalAuth) -> AnyMessage:
    wanted, cluster = found.filter, found.backend.cluster
    config = ExtAuthz(
        transport_api_version=ApiVersion.V3,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        with_request_body=BufferSettings(max_request_bytes=wanted.max_body) if wanted.max_body else None,
        allowed_headers=_any_of(wanted.request_headers) if wanted.request_headers else None,
    )
    if wanted.protocol == "GRPC":
        config.grpc_service = GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=cluster), timeout=_TIMEOUT)
    else:
        taken = _any_of(wanted.response_headers) if wanted.response_headers else _all_but(_NOT_TAKEN)
        config.http_service = HttpService(
            server_uri=HttpUri(uri=f"http://{found.backend.ref.name}", cluster=cluster, timeout=_TIMEOUT),
            path_prefix=wanted.path.rstrip("/"),
            authorization_response=AuthorizationResponse(allowed_upstream_headers=taken),
        )
    return pack(config)


def _any_of(names: Iterable[str]) -> ListStringMatcher:
    return ListStringMatcher(patterns=[StringMatcher(exact=each.lower(), ignore_case=True) for each in names])


def _all_but(names: Iterable[str]) -> ListStringMatcher:
    """Every header except these. RE2 knows no negative lookahead and Envoy no large expression: the others are spelt out, by
    their first letter.
    """
    by_head: dict[str, set[str]] = defaultdict(set)
    for each in names:
        by_head[each[0]].add(each[1:])
    found = ["[^" + "".join(map(_char, sorted(by_head))) + "].*"]
    found += [f"{_char(head)}(?:{_others(frozenset(rest))})" for head, rest in sorted(by_head.items()) if rest != {"*"}]
    return ListStringMatcher(patterns=[StringMatcher(safe_regex=RegexMatcher(regex=each)) for each in found])


def _others(words: frozenset[str]) -> str:
    """A regular expression for all text that is none of these words and begins with none of these prefixes."""
    heads = sorted({word[0] for word in words if word})
    rest = {head: frozenset(word[1:] for word in words if word[:1] == head) for head in heads}
    other = ["[^" + "".join(map(_char, heads)) + "].*" if heads else ".+"]
    return "|".join(
        [*other, *(f"{_char(head)}(?:{_others(found)})" for head, found in rest.items() if found != {"*"})]
        + ([] if "" in words else [""])
    )


def _char(char: str) -> str:
    return r"\-" if char == "-" else char
