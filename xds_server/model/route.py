"""Routes, their matches, filters and backends, parsed. Source: Gateway API 1.7."""

from dataclasses import dataclass
from typing import Literal

from xds_server.model.meta import Meta
from xds_server.model.problem import ObjectRef


@dataclass(frozen=True, slots=True)
class ParentRef:
    ref: ObjectRef  # defaults filled in: group, kind Gateway, the route's namespace
    section: str = ""  # sectionName; "" for all listeners
    port: int = 0  # 0 for any


@dataclass(frozen=True, slots=True)
class ValueMatch:
    """A header or a query parameter."""

    name: str  # header names lower-case
    value: str
    regex: bool = False


@dataclass(frozen=True, slots=True)
class PathMatch:
    kind: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"


@dataclass(frozen=True, slots=True)
class HTTPMatch:
    path: PathMatch = PathMatch()
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()
    method: str = ""
    grpc: tuple[int, int] = (0, 0)  # GRPCRoute: characters of service and method; they decide before the path does


@dataclass(frozen=True, slots=True)
class HeaderFilter:
    """RequestHeaderModifier or ResponseHeaderModifier."""

    on: Literal["request", "response"]
    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PathModifier:
    kind: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    value: str


@dataclass(frozen=True, slots=True)
class RedirectFilter:
    scheme: str = ""
    hostname: str = ""
    path: PathModifier | None = None
    port: int = 0
    status: int = 302


@dataclass(frozen=True, slots=True)
class RewriteFilter:
    hostname: str = ""
    path: PathModifier | None = None


@dataclass(frozen=True, slots=True)
class MirrorFilter:
    backend: "BackendRef"
    numerator: int = 100
    denominator: int = 100


@dataclass(frozen=True, slots=True)
class UnknownFilter:
    """A filter that we know of but do not serve: the rule fails with 500 and says so in status."""

    kind: str


@dataclass(frozen=True, slots=True)
class CORSFilter:
    """Empty lists allow nothing beyond what browsers always allow; "*" stands for all."""

    origins: tuple[str, ...] = ()  # "https://example.com", "https://*.example.com", "*"
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age: int = 5  # seconds


@dataclass(frozen=True, slots=True)
class ExternalAuthFilter:
    """A server that is asked whether a request may pass."""

    backend: "BackendRef"
    protocol: Literal["HTTP", "GRPC"] = "GRPC"
    path: str = ""  # HTTP: before the request's own path
    request_headers: tuple[str, ...] = ()  # sent to the server, beside those that always are
    response_headers: tuple[str, ...] = ()  # HTTP: taken from its answer into the request
    max_body: int = 0  # bytes of the body to send; 0 for none


Filter = HeaderFilter | RedirectFilter | RewriteFilter | MirrorFilter | CORSFilter | ExternalAuthFilter | UnknownFilter


@dataclass(frozen=True, slots=True)
class BackendRef:
    ref: ObjectRef  # defaults filled in: core group, kind Service, the route's namespace
    port: int = 0  # 0 where absent (an InferencePool needs none)
    weight: int = 1
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None where not set, 0 for no limit."""

    request: float | None = None
    backend_request: float | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    codes: tuple[int, ...] = ()
    attempts: int = 1
    backoff: float | None = None  # seconds


@dataclass(frozen=True, slots=True)
class SessionPersistence:
    kind: Literal["Cookie", "Header"] = "Cookie"
    name: str = ""  # "" for one that we choose
    lifetime: float | None = None  # seconds, absoluteTimeout
    permanent: bool = False  # a cookie that outlives the browser's session, for `lifetime`
    path: str = "/"


@dataclass(frozen=True, slots=True)
class HTTPRule:
    name: str = ""
    matches: tuple[HTTPMatch, ...] = (HTTPMatch(),)
    filters: tuple[Filter, ...] = ()
    backends: tuple[BackendRef, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    session: SessionPersistence | None = None


@dataclass(frozen=True, slots=True)
class HTTPRoute:
    meta: Meta
    parents: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: tuple[HTTPRule, ...] = (HTTPRule(),)


@dataclass(frozen=True, slots=True)
class GRPCRoute(HTTPRoute):
    """An HTTPRoute whose matches were written as methods: `parse` makes paths of them. Its backends speak HTTP/2."""


@dataclass(frozen=True, slots=True)
class StreamRoute:
    """TLSRoute, TCPRoute, UDPRoute: connections, not requests."""

    meta: Meta
    parents: tuple[ParentRef, ...] = ()
    hostnames: tuple[str, ...] = ()  # TLSRoute only
    backends: tuple[BackendRef, ...] = ()  # of its only rule


@dataclass(frozen=True, slots=True)
class TLSRoute(StreamRoute):
    pass


@dataclass(frozen=True, slots=True)
class TCPRoute(StreamRoute):
    pass


@dataclass(frozen=True, slots=True)
class UDPRoute(StreamRoute):
    pass


AnyRoute = HTTPRoute | StreamRoute
