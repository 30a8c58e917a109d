"""HTTPRoute filters and the backends that they and rules name. Source: Gateway API 1.7, HTTPRouteFilter, BackendRef."""

from collections.abc import Callable
from typing import Literal

from xds_server.model.objects import (
    BackendRef,
    Filter,
    HeaderFilter,
    MirrorFilter,
    PathModifier,
    RedirectFilter,
    RewriteFilter,
    UnknownFilter,
)
from xds_server.parse.common import Target, object_ref
from xds_server.parse.fields import Fields, nearest, one_of
from xds_server.parse.forms import HEADER_NAME, HEADER_VALUE, PATH, PRECISE_HOSTNAME

SERVICE = Target(group="", kind="Service")
STATUS_CODES = (301, 302, 303, 307, 308)
MAX_WEIGHT = 1_000_000

# type -> the field that must carry its settings
BODIES = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "ExtensionRef": "extensionRef",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
}
REPEATABLE = ("RequestMirror", "ExtensionRef", "ExternalAuth")


def filters(f: Fields, namespace: str) -> tuple[Filter, ...]:
    """The field `filters` of a rule or of a backend, in order."""
    found = f.each("filters", lambda item: (item.text("type"), route_filter(item, namespace)), high=16)
    kinds = [kind for kind, _ in found]
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        f.fail("filters", "must not hold both RequestRedirect and URLRewrite; remove one")
    once = [None if kind in REPEATABLE or kind not in BODIES else kind for kind in kinds]
    f.distinct([f"filters[{index}].type" for index in range(len(once))], once)
    return tuple(value for _, value in found)


def route_filter(f: Fields, namespace: str) -> Filter:
    """One filter; a type that this release does not know is an UnknownFilter, unless it looks misspelled."""
    readers: dict[str, Callable[[Fields], Filter]] = {
        "RequestHeaderModifier": lambda body: header_filter(body, "request"),
        "ResponseHeaderModifier": lambda body: header_filter(body, "response"),
        "RequestMirror": lambda body: mirror_filter(body, namespace),
        "RequestRedirect": redirect_filter,
        "URLRewrite": rewrite_filter,
    }
    kind = f.text("type")
    if kind not in BODIES:
        if meant := nearest(kind, BODIES):
            f.fail("type", f"must be {one_of(BODIES)}, got {kind!r}; did you mean {meant}?", "UnsupportedValue")
        f.open()
        return UnknownFilter(kind)
    for other, body in BODIES.items():
        if other != kind and f.has(body):
            f.fail(body, f"must not be set when type is {kind}; remove it, or write type: {other}")
    reader = readers.get(kind)
    return f.child(BODIES[kind], reader or (lambda body: unread(body, kind)))


def unread(f: Fields, kind: str) -> UnknownFilter:
    f.open()
    return UnknownFilter(kind)


def header_filter(f: Fields, on: Literal["request", "response"]) -> HeaderFilter:
    return HeaderFilter(on, headers(f, "set"), headers(f, "add"), tuple(map(str.lower, f.texts("remove", high=16))))


def headers(f: Fields, name: str) -> tuple[tuple[str, str], ...]:
    """(lower-case name, value); of names that differ only in case the first counts, as the specification says."""

    def header(item: Fields) -> tuple[str, str]:
        return item.text("name", form=HEADER_NAME).lower(), item.text("value", form=HEADER_VALUE)

    found = f.each(name, header, high=16, unique="name")
    return tuple({key: (key, value) for key, value in reversed(found)}.values())[::-1]


def redirect_filter(f: Fields) -> RedirectFilter:
    status = f.integer("statusCode", 302)
    if status not in STATUS_CODES:
        f.fail("statusCode", f"must be {one_of(STATUS_CODES)}, got {status}; choose one of them", "UnsupportedValue")
    return RedirectFilter(
        scheme=f.choice("scheme", ("http", "https")) if f.has("scheme") else "",
        hostname=f.text("hostname", "", form=PRECISE_HOSTNAME),
        path=f.optional("path", path_modifier, None),
        port=f.port(default=0),
        status=status,
    )


def rewrite_filter(f: Fields) -> RewriteFilter:
    return RewriteFilter(f.text("hostname", "", form=PRECISE_HOSTNAME), f.optional("path", path_modifier, None))


def path_modifier(f: Fields) -> PathModifier:
    fields = {"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}
    kind = f.choice("type", tuple(fields))
    for other, name in fields.items():
        if other != kind and f.has(name):
            f.fail(name, f"must not be set when type is {kind}; remove it, or write type: {other}")
    return PathModifier(kind, f.text(fields[kind], form=PATH))


def mirror_filter(f: Fields, namespace: str) -> MirrorFilter:
    def fraction(inner: Fields) -> tuple[int, int]:
        denominator = inner.integer("denominator", 100, low=1)
        return inner.integer("numerator", low=0, high=denominator), denominator

    if f.has("percent") and f.has("fraction"):
        f.fail("percent", "must not be set together with fraction; remove one")
    numerator, denominator = f.optional("fraction", fraction, (f.integer("percent", 100, low=0, high=100), 100))
    return MirrorFilter(f.child("backendRef", lambda ref: backend(ref, namespace)), numerator, denominator)


def backend(f: Fields, namespace: str) -> BackendRef:
    ref = object_ref(f, namespace, SERVICE)
    if (ref.group, ref.kind) == ("", "Service") and not f.has("port"):
        f.fail("port", "must be set for a Service; add the port of the Service")
    return BackendRef(ref, f.port(default=0))


def weighted_backend(f: Fields, namespace: str) -> BackendRef:
    plain = backend(f, namespace)
    weight = f.integer("weight", 1, low=0, high=MAX_WEIGHT)
    return BackendRef(plain.ref, plain.port, weight, filters(f, namespace))
