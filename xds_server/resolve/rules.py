"""Rules: an HTTPRoute or GRPCRoute as entries of a virtual host, each with its precedence; the unit of isolation is one rule.

A function of (route, Context) only, so that it can be cached: what a listener adds (the port of a redirect) is added by
`at_listener`. Sources: Gateway API 1.7 HTTPRouteRule, GRPCRouteRule. Cases: tests/xds_server/test_resolve_rules.py.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from xds_server.model.graph import (
    CORS,
    Backend,
    Certificate,
    ExternalAuth,
    Forward,
    Mirror,
    Redirect,
    Reply,
    Route,
    WeightedBackend,
)
from xds_server.model.objects import (
    INFERENCE_GROUP,
    BackendRef,
    CORSFilter,
    ExternalAuthFilter,
    Filter,
    GRPCRoute,
    HeaderFilter,
    HTTPMatch,
    HTTPRoute,
    HTTPRule,
    MirrorFilter,
    ObjectRef,
    Problem,
    RedirectFilter,
    RewriteFilter,
)
from xds_server.resolve import conditions as c
from xds_server.resolve.auth import external_auth
from xds_server.resolve.backends import Protocol, flat, resolve_backend
from xds_server.resolve.context import Context
from xds_server.resolve.references import Barred, Denied, Ok
from xds_server.resolve.sessions import persistence
from xds_server.resolve.tls import present
from xds_server.resolve.validity import Complaint, backend_filter_complaints, filter_complaints, match_complaints

Precedence = tuple[int, int, int, int, int, str, str, str, int, int]
PATH_RANK = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}
WELL_KNOWN = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Entry:
    precedence: Precedence  # the smaller comes first; no two entries are equal
    route: Route


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """A route with every rule decided, before it is known where it is attached."""

    route: HTTPRoute
    entries: tuple[Entry, ...]
    backends: tuple[Backend, ...]  # every cluster that its rules use, mirrors too
    pools: tuple[ObjectRef, ...]  # every InferencePool that it may name, also one that cannot be served
    unresolved: tuple[tuple[str, Denied], ...]  # (field, why) of every reference that names nothing
    invalid: tuple[tuple[str, Denied], ...]  # (field, why) of everything else that is wrong
    broken_rules: int  # how many rules answer 500 or nothing because of `invalid`

    @property
    def accepted(self) -> bool:
        """A route is refused only when none of its rules can be understood."""
        return not self.broken_rules or self.broken_rules < len(self.route.rules)

    def problems(self) -> Iterator[Problem]:
        meta = self.route.meta
        for field, denied in (*self.invalid, *self.unresolved):
            yield Problem(meta.ref, field, denied.reason, denied.message, meta.source)


@dataclass(slots=True)
class _Findings:
    """What one route's rules leave behind while they are compiled."""

    route: HTTPRoute
    context: Context
    pools: dict[ObjectRef, None]
    unresolved: list[tuple[str, Denied]]
    invalid: list[tuple[str, Denied]]

    def complain(self, where: str, found: list[Complaint]) -> None:
        self.invalid += [(f"{where}.{field}", Denied(reason, message)) for field, reason, message in found]

    def backend(self, wanted: BackendRef, where: str) -> Backend | None:
        protocol: Protocol = "GRPC" if isinstance(self.route, GRPCRoute) else "HTTP"
        found = resolve_backend(self.route.meta.ref, wanted, self.context, protocol)
        permitted = self.context.references.permitted(self.route.meta.ref, wanted.ref)
        if permitted and (wanted.ref.group, wanted.ref.kind) == (INFERENCE_GROUP, "InferencePool"):
            self.pools[wanted.ref] = None
        match found:
            case Ok(backend):
                return backend
            case Denied() as denied:
                self.deny(where, denied)
        return None

    def deny(self, where: str, denied: Denied) -> None:
        if not isinstance(denied, Barred):  # then the reference is right, and the policy's status says what is not
            self.unresolved.append((where, denied))


def compile_route(route: HTTPRoute, context: Context) -> CompiledRoute:
    """Every rule of a route on its own: what is wrong with one changes nothing in the others."""
    findings = _Findings(route, context, {}, [], [])
    entries: list[Entry] = []
    broken = 0
    for index, rule in enumerate(route.rules):
        before = len(findings.invalid)
        entries += _entries(route, index, rule, findings)
        broken += len(findings.invalid) > before
    return CompiledRoute(
        route,
        tuple(entries),
        used(entries),
        tuple(findings.pools),
        tuple(findings.unresolved),
        tuple(findings.invalid),
        broken,
    )


def used(entries: Collection[Entry]) -> tuple[Backend, ...]:
    """Every cluster that these entries send requests to; a broken rule needs none."""
    actions = [entry.route.action for entry in entries if isinstance(entry.route.action, Forward)]
    found = [each.backend for action in actions for each in action.backends]
    found += [each.backend for action in actions for each in action.mirrors]
    found += [entry.route.auth.backend for entry in entries if entry.route.auth]
    return tuple({backend.cluster: backend for backend in flat(found)}.values())


def presenting(entries: tuple[Entry, ...], certificate: Certificate) -> tuple[Entry, ...]:
    """The entries as a Gateway with this client certificate serves them: backends that speak TLS are shown it.

    They are other clusters then; `used` of the result lists them.
    """
    return tuple(
        replace(entry, route=route) if (route := _presenting(entry.route, certificate)) is not entry.route else entry
        for entry in entries
    )


def _presenting(route: Route, certificate: Certificate) -> Route:
    if route.auth and (asked := present(route.auth.backend, certificate)) is not route.auth.backend:
        route = replace(route, auth=replace(route.auth, backend=asked))
    action = route.action
    if not isinstance(action, Forward):
        return route
    backends = tuple(
        replace(each, backend=present(each.backend, certificate)) if each.backend else each for each in action.backends
    )
    mirrors = tuple(replace(each, backend=present(each.backend, certificate)) for each in action.mirrors)
    if (backends, mirrors) == (action.backends, action.mirrors):
        return route
    return replace(route, action=replace(action, backends=backends, mirrors=mirrors))


def at_listener(entries: tuple[Entry, ...], scheme: str, port: int) -> tuple[Entry, ...]:
    """The entries as a listener of this scheme and port serves them."""
    if not any(isinstance(entry.route.action, Redirect) for entry in entries):
        return entries
    return tuple(
        replace(entry, route=replace(entry.route, action=_redirect(entry.route.action.filter, scheme, port)))
        if isinstance(entry.route.action, Redirect)
        else entry
        for entry in entries
    )


def precedence(route: HTTPRoute, rule: int, index: int, match: HTTPMatch) -> Precedence:
    """HTTPRouteRule.matches: the path's type and length, a method, the most headers, the most query parameters; then age.

    A trailing slash of a prefix means nothing and counts nothing. GRPCRouteRule.matches: the longest service, the longest
    method, the most headers. What an HTTPRoute may serve too goes to the GRPCRoute: that one is for gRPC only.
    """
    kind, value = match.path.kind, match.path.value
    first = (PATH_RANK[kind], -len(value.rstrip("/")) if kind == "PathPrefix" else 0, 0 if match.method else 1)
    if isinstance(route, GRPCRoute):
        first = (-1, -match.grpc[0], -match.grpc[1])
    return (*first, -len(match.headers), -len(match.query), *route.meta.age_key, rule, index)


def _entries(route: HTTPRoute, index: int, rule: HTTPRule, findings: _Findings) -> Iterator[Entry]:
    where = f"spec.rules[{index}]"
    unusable: set[int] = set()
    for at, match in enumerate(rule.matches):
        if wrong := list(match_complaints(match, f"matches[{at}]")):
            findings.complain(where, wrong)
            unusable.add(at)
    if wrong := list(filter_complaints(rule)):
        findings.complain(where, wrong)
    action = _action(rule, where, findings)  # also for a broken rule: its references are worth a word
    auth = _auth(rule, where, findings)
    if unusable or wrong or isinstance(auth, Denied):
        action = Reply(500)  # nothing may pass that a filter was there to stop
    served = not isinstance(action, Reply)
    headers = tuple(found for found in rule.filters if isinstance(found, HeaderFilter)) if served else ()
    cors = next((CORS(found) for found in rule.filters if isinstance(found, CORSFilter)), None) if served else None
    asked = auth if served and not isinstance(auth, Denied) else None
    grpc = isinstance(route, GRPCRoute)
    for at, match in enumerate(rule.matches):
        if at not in unusable:
            name = f"{route.meta.namespace}/{route.meta.ref.name}/{index}/{at}"
            made = Route(name, match, action, headers, rule.name, cors, asked, grpc)
            yield Entry(precedence(route, index, at, match), made)


def _action(rule: HTTPRule, where: str, findings: _Findings) -> Forward | Redirect | Reply:
    for found in rule.filters:
        if isinstance(found, RedirectFilter):
            return Redirect(found, 0)  # `at_listener` knows the port
    alike = len({tuple(_rewrites(each.filters)) for each in rule.backends}) == 1
    backends = tuple(_weighted(rule, at, where, findings, alike=alike) for at in range(len(rule.backends)))
    mirrors = tuple(_mirrors(rule, where, findings))
    if not any(found.backend and found.weight > 0 for found in backends):
        return Reply(500)  # also without any backendRef: HTTPRouteRule.backendRefs says so
    rewrites = [*_rewrites(rule.filters), *(_rewrites(rule.backends[0].filters) if alike else ())]
    session = persistence(rule.session, f"{findings.route.meta.ref} {where}", backends, findings.context)
    return Forward(backends, rewrites[0] if rewrites else None, mirrors, rule.timeouts, rule.retry, session)


def _rewrites(filters: Iterable[Filter]) -> Iterator[RewriteFilter]:
    return (found for found in filters if isinstance(found, RewriteFilter))


def _auth(rule: HTTPRule, where: str, findings: _Findings) -> ExternalAuth | Denied | None:
    for at, found in enumerate(rule.filters):
        if isinstance(found, ExternalAuthFilter):
            match external_auth(findings.route.meta.ref, found, findings.context):
                case Ok(auth):
                    return auth
                case Denied() as denied:
                    findings.deny(f"{where}.filters[{at}].externalAuth.backendRef", denied)
                    return denied
    return None


def _weighted(rule: HTTPRule, at: int, where: str, findings: _Findings, *, alike: bool) -> WeightedBackend:
    wanted = rule.backends[at]
    field = f"backendRefs[{at}]"
    backend = findings.backend(wanted, f"{where}.{field}")
    if wrong := list(backend_filter_complaints(wanted.filters, rule.matches, field, alike)):
        findings.complain(where, wrong)
        return WeightedBackend(None, wanted.weight)
    headers = tuple(found for found in wanted.filters if isinstance(found, HeaderFilter))
    rewrite = None if alike else next(_rewrites(wanted.filters), None)
    return (
        WeightedBackend(backend, wanted.weight, headers, rewrite) if backend else WeightedBackend(None, wanted.weight)
    )


def _mirrors(rule: HTTPRule, where: str, findings: _Findings) -> Iterator[Mirror]:
    for at, found in enumerate(rule.filters):
        if isinstance(found, MirrorFilter):
            backend = findings.backend(found.backend, f"{where}.filters[{at}].requestMirror.backendRef")
            if backend:  # a mirror that names nothing is dropped: it must not hurt the request
                yield Mirror(backend, found.numerator, found.denominator)


def _redirect(found: RedirectFilter, scheme: str, port: int) -> Redirect:
    """HTTPRequestRedirectFilter.port: the filter's, else the scheme's well-known one, else the listener's.

    0, none, where it is what the scheme says anyway; but Envoy keeps the port of the request's Host unless the host is replaced
    too, and at a listener of another port clients send one.
    """
    new = found.scheme or scheme
    number = found.port or (WELL_KNOWN.get(new, port) if found.scheme else port)
    implied = WELL_KNOWN.get(new) == number and (found.hostname or port in WELL_KNOWN.values())
    return Redirect(found, 0 if implied else number)


def route_conditions_failed(compiled: CompiledRoute) -> Denied | None:
    """Why the route as a whole is refused, if it is."""
    if compiled.accepted:
        return None
    reasons = {denied.reason for _, denied in compiled.invalid}
    reason = c.INCOMPATIBLE_FILTERS if reasons == {c.INCOMPATIBLE_FILTERS} else c.UNSUPPORTED_VALUE
    return Denied(reason, c.sentence(f"{field}: {denied.message}" for field, denied in compiled.invalid))
