"""HTTPRoute. Source: Gateway API 1.7, `gateway.networking.k8s.io/v1` and `v1beta1`, schema and CEL rules."""

from collections.abc import Callable
from itertools import combinations

from xds_server.model.objects import (
    Filter,
    HTTPMatch,
    HTTPRoute,
    HTTPRule,
    Meta,
    ParentRef,
    PathMatch,
    RedirectFilter,
    Retry,
    RewriteFilter,
    Timeouts,
    ValueMatch,
)
from xds_server.parse.common import GATEWAY, object_ref
from xds_server.parse.fields import Fields
from xds_server.parse.filters import filtered_backend, filters
from xds_server.parse.forms import DNS_NAME, HEADER_NAME, HEADER_VALUE, HOSTNAME, PATH, QUERY_VALUE, URL_PATH, Form
from xds_server.parse.session import session_persistence

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
MAX_MATCHES = 128  # across all rules
FORBIDDEN_IN_PATHS = ("//", "/./", "/../", "%2f", "%2F", "#")


def http_route(root: Fields, meta: Meta) -> HTTPRoute:
    def spec(f: Fields) -> HTTPRoute:
        parents, hostnames = parent_refs(f, meta.namespace), f.texts("hostnames", high=16, form=HOSTNAME)
        found = rules(f, lambda item: rule(item, meta.namespace), low=1) if f.has("rules") else (HTTPRule(),)
        return HTTPRoute(meta, parents, hostnames, found)

    return root.optional("spec", spec, HTTPRoute(meta))


def parent_refs(f: Fields, namespace: str) -> tuple[ParentRef, ...]:
    """The parents of a route of any kind."""
    f.ignore("useDefaultGateways")
    found = f.each("parentRefs", lambda item: parent_ref(item, namespace), high=32)
    distinct_parents(f, found)
    return found


def parent_ref(f: Fields, namespace: str) -> ParentRef:
    return ParentRef(object_ref(f, namespace, GATEWAY), f.text("sectionName", "", form=DNS_NAME), f.port(default=0))


def distinct_parents(f: Fields, parents: tuple[ParentRef, ...]) -> None:
    """References to one parent must differ in sectionName or port, and set the same ones of the two."""
    for (_, first), (index, second) in combinations(enumerate(parents), 2):
        if first.ref != second.ref:
            continue
        alike = bool(first.section) == bool(second.section) and bool(first.port) == bool(second.port)
        if not alike or first == second:
            f.fail(f"parentRefs[{index}]", f"names {first.ref} again; give each its own sectionName or port")


def rules(f: Fields, read: Callable[[Fields], HTTPRule], *, low: int) -> tuple[HTTPRule, ...]:
    found = f.each("rules", read, low=low, high=16, unique="name")
    matches = sum(len(item.matches) for item in found)
    if matches > MAX_MATCHES:
        f.fail("rules", f"must have at most {MAX_MATCHES} matches in all, got {matches}; split the route")
    return found


def rule(f: Fields, namespace: str) -> HTTPRule:
    found = HTTPRule(
        name=f.text("name", "", form=DNS_NAME),
        matches=f.each("matches", http_match, high=64) or (HTTPMatch(),),
        filters=filters(f, namespace),
        backends=f.each("backendRefs", lambda item: filtered_backend(item, namespace), high=16),
        timeouts=f.optional("timeouts", timeouts, Timeouts()),
        retry=f.optional("retry", retry, None),
        session=f.optional("sessionPersistence", session_persistence, None),
    )
    if found.backends and any(isinstance(item, RedirectFilter) for item in found.filters):
        f.fail("backendRefs", "must not be set together with a RequestRedirect filter; remove one of them")
    one_prefix = len(found.matches) == 1 and found.matches[0].path.kind == "PathPrefix"
    everywhere = [found.filters, *(backend.filters for backend in found.backends)]
    if not one_prefix and any(map(replaces_prefix, everywhere)):
        f.fail("matches", "must be exactly one, of type PathPrefix, for ReplacePrefixMatch; split the rule")
    return found


def replaces_prefix(found: tuple[Filter, ...]) -> bool:
    return any(
        item.path is not None and item.path.kind == "ReplacePrefixMatch"
        for item in found
        if isinstance(item, RedirectFilter | RewriteFilter)
    )


def http_match(f: Fields) -> HTTPMatch:
    return HTTPMatch(
        path=f.optional("path", path_match, PathMatch()),
        headers=header_matches(f, HEADER_VALUE),
        query=f.each("queryParams", lambda item: value_match(item, QUERY_VALUE), high=16, unique="name"),
        method=f.choice("method", METHODS) if f.has("method") else "",
    )


def header_matches(f: Fields, form: Form) -> tuple[ValueMatch, ...]:
    found = f.each("headers", lambda item: value_match(item, form), high=16, unique="name")
    lowered = [ValueMatch(item.name.lower(), item.value, item.regex) for item in reversed(found)]
    first = {item.name: item for item in lowered}  # names that differ only in case: the first counts (specification)
    return tuple(first.values())[::-1]


def value_match(f: Fields, form: Form) -> ValueMatch:
    kind = f.choice("type", ("Exact", "RegularExpression"), "Exact")
    return ValueMatch(f.text("name", form=HEADER_NAME), f.text("value", form=form), kind == "RegularExpression")


def path_match(f: Fields) -> PathMatch:
    kind = f.choice("type", ("Exact", "PathPrefix", "RegularExpression"), "PathPrefix")
    value = f.text("value", "/", form=PATH)
    if kind == "RegularExpression":
        return PathMatch(kind, value)
    if not value.startswith("/"):
        f.fail("value", f"must start with '/', got {f.document.shown(value)}; write '/' before it")
    bad = next((part for part in FORBIDDEN_IN_PATHS if part in value), "")
    bad = bad or next((end for end in ("/..", "/.") if value.endswith(end)), "")
    if bad:
        f.fail(
            "value", f"must not contain {bad!r}, got {f.document.shown(value)}; write the path as it is after cleaning"
        )
    if not URL_PATH.pattern.fullmatch(value):
        f.fail("value", f"must be a valid URL path, got {f.document.shown(value)}; percent-encode other characters")
    return PathMatch(kind, value)


def timeouts(f: Fields) -> Timeouts:
    request, backend = f.duration("request"), f.duration("backendRequest")
    if request and backend is not None and backend > request:
        f.fail("backendRequest", "must not be longer than request; shorten it or lengthen request")
    return Timeouts(request, backend)


def retry(f: Fields) -> Retry:
    codes = f.integers("codes", low=400, high=599)
    f.distinct([f"codes[{index}]" for index in range(len(codes))], codes)
    return Retry(codes, f.integer("attempts", 1, low=0), f.duration("backoff"))
