"""GRPCRoute, its methods read as paths. Source: Gateway API 1.7, `gateway.networking.k8s.io/v1`, schema and CEL rules.

gRPC over HTTP/2 asks for `POST /<service>/<method>`, so that a method match is a path match.
"""

import re

from xds_server.model.objects import GRPCRoute, HTTPMatch, HTTPRule, Meta, PathMatch
from xds_server.parse.fields import Fields
from xds_server.parse.filters import GRPC_TYPES, filtered_backend, filters
from xds_server.parse.forms import DNS_NAME, GRPC_HEADER_VALUE, GRPC_METHOD, GRPC_SERVICE, HOSTNAME, PATTERN
from xds_server.parse.route import header_matches, parent_refs, rules
from xds_server.parse.session import session_persistence


def grpc_route(root: Fields, meta: Meta) -> GRPCRoute:
    """Without rules it serves nothing: unlike HTTPRoute, the schema has no default for them."""

    def spec(f: Fields) -> GRPCRoute:
        parents, hostnames = parent_refs(f, meta.namespace), f.texts("hostnames", high=16, form=HOSTNAME)
        return GRPCRoute(meta, parents, hostnames, rules(f, lambda item: rule(item, meta.namespace), low=0))

    return root.optional("spec", spec, GRPCRoute(meta, rules=()))


def rule(f: Fields, namespace: str) -> HTTPRule:
    return HTTPRule(
        name=f.text("name", "", form=DNS_NAME),
        matches=f.each("matches", grpc_match, high=64) or (HTTPMatch(),),
        filters=filters(f, namespace, GRPC_TYPES),
        backends=f.each("backendRefs", lambda item: filtered_backend(item, namespace, GRPC_TYPES), high=16),
        session=f.optional("sessionPersistence", session_persistence, None),
    )


def grpc_match(f: Fields) -> HTTPMatch:
    path, lengths = f.optional("method", method_match, (PathMatch(), (0, 0)))
    return HTTPMatch(path, header_matches(f, GRPC_HEADER_VALUE), grpc=lengths)


def method_match(f: Fields) -> tuple[PathMatch, tuple[int, int]]:
    """The path, and the characters of service and method by which GRPCRouteRule.matches orders matches.

    A pattern counts as one: how many it matches is not known before a request, and an empty part must come after it.
    """
    if f.choice("type", ("Exact", "RegularExpression"), "Exact") == "Exact":
        service, method = f.text("service", "", form=GRPC_SERVICE), f.text("method", "", form=GRPC_METHOD)
        return exact_path(service, method), (len(service), len(method))
    service, method = f.text("service", "", form=PATTERN), f.text("method", "", form=PATTERN)
    if not service and not method:
        return PathMatch(), (0, 0)
    path = "/".join(f"({part})" if part else "[^/]+" for part in (service, method))
    return PathMatch("RegularExpression", f"/{path}"), (int(bool(service)), int(bool(method)))


def exact_path(service: str, method: str) -> PathMatch:
    if service and method:
        return PathMatch("Exact", f"/{service}/{method}")
    if method:
        return PathMatch("RegularExpression", f"/[^/]+/{re.escape(method)}")
    return PathMatch("PathPrefix", f"/{service}")
