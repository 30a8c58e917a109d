"""RDS: the virtual hosts of one chain as a RouteConfiguration, put together from fragments that are encoded once each.

A configuration of 5000 routes takes 0.7 s to encode from messages; from cached fragments it is a join of bytes.
"""

from collections.abc import Callable, Iterable
from functools import cache

from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route as EnvoyRoute,
    RouteConfiguration,
    VirtualHost as EnvoyVirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

from xds_server.model.graph import Chain, Route, VirtualHost
from xds_server.model.names import BODY_HEADER, MODEL_HEADER
from xds_server.model.objects import HTTPMatch, PathMatch
from xds_server.translate import replies
from xds_server.translate.chain import by_model
from xds_server.translate.encode import embed
from xds_server.translate.filters import on_table
from xds_server.translate.headers import option
from xds_server.translate.route import match, reply

_VIRTUAL_HOSTS, _ROUTES = 2, 3  # field numbers in RouteConfiguration and VirtualHost

EncodeRoute = Callable[[Route], bytes]


def route_configuration(name: str, chain: Chain, encode: EncodeRoute) -> bytes:
    """The encoded RouteConfiguration; `encode` gives a route's bytes (and may remember them)."""
    head = bytes(
        RouteConfiguration(
            name=name,
            ignore_port_in_host_matching=True,
            request_headers_to_remove=[BODY_HEADER],
            typed_per_filter_config=on_table(chain),
        )
    )
    return head + b"".join(embed(_VIRTUAL_HOSTS, _virtual_host(host, encode)) for host in chain.hosts)


def _virtual_host(host: VirtualHost, encode: EncodeRoute) -> bytes:
    head = bytes(EnvoyVirtualHost(name=host.hostname, domains=[host.hostname]))
    found = [encode(each) for each in host.routes] + _without_model(host.routes)
    return head + b"".join(embed(_ROUTES, each) for each in found)


def _without_model(found: Iterable[Route]) -> list[bytes]:
    """Where models decide the route, a body without one gets 400 and the reason, not a bare 404. Last, so only if nothing matched."""
    paths = dict.fromkeys(route.match.path for route in found if by_model(route))
    return [each for path in paths for each in _explain(path)]


@cache
def _explain(path: PathMatch) -> tuple[bytes, bytes]:
    invalid = _refuse(
        path,
        HeaderMatcher(name=BODY_HEADER, string_match=StringMatcher(exact="invalid")),
        "The request body is not valid JSON, or its content type is not application/json.",
    )
    absent = HeaderMatcher(name=MODEL_HEADER, present_match=True, invert_match=True)
    missing = _refuse(path, absent, "The request body has no `model`: name the model that shall answer.")
    return invalid, missing


def _refuse(path: PathMatch, header: HeaderMatcher, message: str) -> bytes:
    posted = match(HTTPMatch(path=path, method="POST"))
    posted.headers.append(header)
    body = replies.error_text(message, "invalid_request_error", "bad_request")
    found = EnvoyRoute(name="penstock/bad-request", match=posted, direct_response=reply(400, body))
    found.response_headers_to_add = [option("content-type", "application/json")]  # Envoy says text/plain
    return bytes(found)
