"""Filters of routes and listeners, and the backends that they and rules name.

Source: Gateway API 1.7, HTTPRouteFilter, GRPCRouteFilter, the filters of a listener, BackendRef.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from xds_server.model.objects import (
    GATEWAY_X_GROUP,
    BackendRef,
    CORSFilter,
    ExternalAuthFilter,
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
from xds_server.parse.forms import (
    CORS_METHOD,
    HEADER_NAME,
    HEADER_VALUE,
    ORIGIN,
    PATH,
    PRECISE_HOSTNAME,
    URL_PATH,
    Form,
)

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
GRPC_TYPES = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef")
LISTENER_TYPES = ("ExternalAuth", "ExtensionRef")
REPEATABLE = ("RequestMirror", "ExtensionRef", "ExternalAuth")


def filters(
    f: Fields, namespace: str, types: Iterable[str] = tuple(BODIES), name: str = "filters"
) -> tuple[Filter, ...]:
    """The filters of a rule, of a backend or of a listener, in order."""
    found = f.each(name, lambda item: (item.text("type"), one_filter(item, namespace, types)), high=16)
    kinds = [kind for kind, _ in found]
    if "RequestRedirect" in kinds and "URLRewrite" in kinds:
        f.fail(name, "must not hold both RequestRedirect and URLRewrite; remove one")
    once = [None if kind in REPEATABLE or kind not in BODIES else kind for kind in kinds]
    f.distinct([f"{name}[{index}].type" for index in range(len(once))], once)
    return tuple(value for _, value in found)


def one_filter(f: Fields, namespace: str, types: Iterable[str]) -> Filter:
    """One filter; a type that this release does not know is an UnknownFilter, unless it looks misspelled."""
    readers: dict[str, Callable[[Fields], Filter]] = {
        "RequestHeaderModifier": lambda body: header_filter(body, "request"),
        "ResponseHeaderModifier": lambda body: header_filter(body, "response"),
        "RequestMirror": lambda body: mirror_filter(body, namespace),
        "RequestRedirect": redirect_filter,
        "URLRewrite": rewrite_filter,
        "ExtensionRef": lambda body: extension_filter(body, namespace),
        "CORS": cors_filter,
        "ExternalAuth": lambda body: external_auth_filter(body, namespace),
    }
    kind = f.text("type")
    if kind not in types:
        meant = nearest(kind, types)
        if meant or kind in BODIES:
            remedy = f"did you mean {meant}?" if meant else "choose one of them"
            f.fail("type", f"must be {one_of(types)}, got {f.document.shown(kind)}; {remedy}", "UnsupportedValue")
        f.open()
        return UnknownFilter(kind)
    for other in types:
        if other != kind and f.has(BODIES[other]):
            f.fail(BODIES[other], f"must not be set when type is {kind}; remove it, or write type: {other}")
    return f.child(BODIES[kind], readers[kind])


def extension_filter(f: Fields, namespace: str) -> UnknownFilter:
    object_ref(f, namespace, local=True)  # read so that a mistake is found: no extension is served
    return UnknownFilter("ExtensionRef")


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


def fraction(f: Fields) -> tuple[int, int]:
    """(numerator, denominator), not above 1."""
    denominator = f.integer("denominator", 100, low=1)
    return f.integer("numerator", low=0, high=denominator), denominator


def mirror_filter(f: Fields, namespace: str) -> MirrorFilter:
    if f.has("percent") and f.has("fraction"):
        f.fail("percent", "must not be set together with fraction; remove one")
    numerator, denominator = f.optional("fraction", fraction, (f.integer("percent", 100, low=0, high=100), 100))
    return MirrorFilter(f.child("backendRef", lambda ref: backend(ref, namespace)), numerator, denominator)


def words(f: Fields, name: str, *, high: int = 64, form: Form | None = None, alone: bool = False) -> tuple[str, ...]:
    """A list whose texts differ; `alone`: "*", which stands for all, must have no others beside it."""
    found = f.texts(name, high=high, form=form)
    f.distinct([f"{name}[{index}]" for index in range(len(found))], found)
    if alone and "*" in found and len(found) > 1:
        f.fail(name, "must not hold others beside '*'; remove them, or '*'")
    return found


def cors_filter(f: Fields) -> CORSFilter:
    return CORSFilter(
        origins=words(f, "allowOrigins", form=ORIGIN, alone=True),
        methods=words(f, "allowMethods", form=CORS_METHOD, high=9, alone=True),
        headers=words(f, "allowHeaders", form=HEADER_NAME, alone=True),
        expose=words(f, "exposeHeaders", form=HEADER_NAME),
        credentials=f.boolean("allowCredentials", default=False),
        max_age=f.integer("maxAge", 5, low=1),
    )


def external_auth_filter(f: Fields, namespace: str) -> ExternalAuthFilter:
    protocol = f.choice("protocol", ("HTTP", "GRPC"))
    other = "GRPC" if protocol == "HTTP" else "HTTP"
    if f.has(other.lower()):
        f.fail(other.lower(), f"must not be set when protocol is {protocol}; remove it, or write protocol: {other}")

    def settings(inner: Fields) -> ExternalAuthFilter:
        http = protocol == "HTTP"
        return ExternalAuthFilter(
            backend=f.child("backendRef", lambda ref: backend(ref, namespace)),
            protocol=protocol,
            path=inner.text("path", "", form=URL_PATH) if http else "",
            request_headers=lowered(inner, "allowedHeaders"),
            response_headers=lowered(inner, "allowedResponseHeaders") if http else (),
            max_body=f.optional("forwardBody", lambda body: body.integer("maxSize", 0, low=0), 0),
        )

    return f.child(protocol.lower(), settings)


def lowered(f: Fields, name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str.lower, words(f, name))))


def backend(f: Fields, namespace: str) -> BackendRef:
    ref = object_ref(f, namespace, SERVICE)
    if (ref.group, ref.kind) == ("", "Service") and not f.has("port"):
        f.fail("port", "must be set for a Service; add the port of the Service")
    if (ref.group, ref.kind) == (GATEWAY_X_GROUP, "XBackend") and f.has("port"):
        f.fail("port", "must not be set for an XBackend, which has its own; remove it")
    return BackendRef(ref, f.port(default=0))


def weighted_backend(f: Fields, namespace: str) -> BackendRef:
    return replace(backend(f, namespace), weight=f.integer("weight", 1, low=0, high=MAX_WEIGHT))


def filtered_backend(f: Fields, namespace: str, types: Iterable[str] = tuple(BODIES)) -> BackendRef:
    return replace(weighted_backend(f, namespace), filters=filters(f, namespace, types))
