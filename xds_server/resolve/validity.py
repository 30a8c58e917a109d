"""Validity: what in a rule Envoy would refuse or the spec forbids, found before Envoy sees it.

Envoy answers one bad value with a NACK of the whole resource; here it costs one rule. The API server checks most of this by
CEL, a directory of manifests has nobody who does.
"""

import re
from collections.abc import Iterator, Sequence

from xds_server.model.objects import (
    CORSFilter,
    ExternalAuthFilter,
    Filter,
    HeaderFilter,
    HTTPMatch,
    HTTPRule,
    PathModifier,
    RedirectFilter,
    RewriteFilter,
    UnknownFilter,
)
from xds_server.resolve import conditions as c
from xds_server.resolve.regex import complaint

HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
NO_PATH = re.compile(r"[\x00-\x20\x7f#]")
REDIRECTS = frozenset({301, 302, 303, 307, 308})

Complaint = tuple[str, str, str]  # (field below the rule, reason, message)


def match_complaints(match: HTTPMatch, where: str) -> Iterator[Complaint]:
    """What makes one match unusable."""
    path = match.path
    if path.kind == "RegularExpression":
        if wrong := complaint(path.value):
            yield f"{where}.path.value", c.UNSUPPORTED_VALUE, wrong
    elif not path.value.startswith("/") or CONTROL.search(path.value):
        yield f"{where}.path.value", c.UNSUPPORTED_VALUE, f"the path {path.value!r} must start with /"
    for kind, values in (("headers", match.headers), ("queryParams", match.query)):
        for index, value in enumerate(values):
            if kind == "headers" and not HEADER_NAME.fullmatch(value.name):
                message = f"{value.name!r} is not the name of a header"
                yield f"{where}.{kind}[{index}].name", c.UNSUPPORTED_VALUE, message
            if value.regex and (wrong := complaint(value.value)):
                yield f"{where}.{kind}[{index}].value", c.UNSUPPORTED_VALUE, wrong


def filter_complaints(rule: HTTPRule) -> Iterator[Complaint]:
    """What makes a rule's filters unusable, alone or together."""
    for index, found in enumerate(rule.filters):
        yield from _one_filter(found, rule.matches, f"filters[{index}]")
    redirects = sum(isinstance(found, RedirectFilter) for found in rule.filters)
    rewrites = sum(isinstance(found, RewriteFilter) for found in rule.filters)
    if redirects and rewrites:
        message = "RequestRedirect and URLRewrite exclude each other; keep one of them"
        yield "filters", c.INCOMPATIBLE_FILTERS, message
    elif max(redirects, rewrites) > 1:
        yield "filters", c.INCOMPATIBLE_FILTERS, "RequestRedirect and URLRewrite may be given once; keep one of them"
    for kind in (CORSFilter, ExternalAuthFilter):
        if sum(isinstance(found, kind) for found in rule.filters) > 1:
            name = kind.__name__.removesuffix("Filter")
            yield "filters", c.INCOMPATIBLE_FILTERS, f"{name} may be given once; keep one of them"


def backend_filter_complaints(
    filters: Sequence[Filter], matches: Sequence[HTTPMatch], where: str, alike: bool
) -> Iterator[Complaint]:
    """A backend's own filters: headers always, a rewrite of the hostname too; of the path where all backends are `alike`."""
    for index, found in enumerate(filters):
        if isinstance(found, RewriteFilter) and not alike and found.path is not None:
            message = "only some of the backends rewrite the path, which Envoy cannot do; give them a rule of their own"
            yield f"{where}.filters[{index}].urlRewrite.path", c.UNSUPPORTED_VALUE, message
        elif isinstance(found, HeaderFilter | RewriteFilter):
            yield from _one_filter(found, matches, f"{where}.filters[{index}]")
        else:
            kind = found.kind if isinstance(found, UnknownFilter) else type(found).__name__.removesuffix("Filter")
            message = f"the filter {kind} is not supported at a backendRef here; move it to the rule"
            yield f"{where}.filters[{index}]", c.UNSUPPORTED_VALUE, message


def _one_filter(found: Filter, matches: Sequence[HTTPMatch], where: str) -> Iterator[Complaint]:
    match found:
        case UnknownFilter(kind):
            message = f"the filter {kind} is not supported; remove it, the rule answers 500 until then"
            yield where, c.UNSUPPORTED_VALUE, message
        case HeaderFilter():
            yield from _headers(found, where)
        case RedirectFilter(status=status) if status not in REDIRECTS:
            yield f"{where}.requestRedirect.statusCode", c.UNSUPPORTED_VALUE, f"{status} is not a redirect"
        case RedirectFilter(path=path) | RewriteFilter(path=path):
            yield from _path(path, matches, where)


def _headers(found: HeaderFilter, where: str) -> Iterator[Complaint]:
    field = f"{where}.{found.on}HeaderModifier"
    for name in (*(name for name, _ in (*found.set, *found.add)), *found.remove):
        if not HEADER_NAME.fullmatch(name):
            yield field, c.UNSUPPORTED_VALUE, f"{name!r} is not the name of a header"
        elif name.lower() == "host" and found.on == "request":
            message = "Envoy does not let a filter change Host; use URLRewrite with a hostname"
            yield field, c.UNSUPPORTED_VALUE, message
    for name, value in (*found.set, *found.add):
        if CONTROL.search(value):
            yield field, c.UNSUPPORTED_VALUE, f"the value of {name} has a control character"


def _path(path: PathModifier | None, matches: Sequence[HTTPMatch], where: str) -> Iterator[Complaint]:
    if path is None:
        return
    if path.kind == "ReplacePrefixMatch" and any(match.path.kind != "PathPrefix" for match in matches):
        message = "ReplacePrefixMatch needs matches of type PathPrefix; use ReplaceFullPath or change the match"
        yield f"{where}.path", c.INCOMPATIBLE_FILTERS, message
    empty = path.kind == "ReplacePrefixMatch" and not path.value
    if not empty and (not path.value.startswith("/") or NO_PATH.search(path.value)):
        message = f"{path.value!r} is not a path; it must start with / and have no space, # or control character"
        yield f"{where}.path", c.UNSUPPORTED_VALUE, message
