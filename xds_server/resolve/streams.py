"""Streams: TLSRoutes, TCPRoutes and UDPRoutes, whose connections (or datagrams) go to backends without being read.

Several routes may attach to a listener, and one serves a connection: for TLS the one whose own hostname is the most specific,
then the oldest (GEP-1713; TCPRouteMultipleRoutesAttachment, TLSRouteMultipleRoutesAttachmentSameHostnameIntersection). Source:
Gateway API 1.7 TLSRoute, TCPRoute, UDPRoute. Cases: tests/xds_server/test_resolve_streams.py.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from xds_server.model.graph import Backend, Certificate, Chain, ServerTLS, Stream, WeightedBackend
from xds_server.model.objects import Problem, StreamRoute, TLSRoute, UDPRoute
from xds_server.resolve.backends import Protocol, flat, resolve_backend
from xds_server.resolve.context import Context
from xds_server.resolve.hostnames import ANY, covering, intersect, owner
from xds_server.resolve.references import Barred, Denied, Ok
from xds_server.resolve.tls import present

CLOSED = Stream("")  # takes no connection


@dataclass(frozen=True, slots=True)
class CompiledStream:
    """A route with its backends decided, before it is known where it is attached."""

    route: StreamRoute
    shares: tuple[WeightedBackend, ...]  # of its connections, those with a weight
    encrypted: tuple[
        WeightedBackend, ...
    ]  # the same where TLS passes through: backends are not spoken TLS to once more
    unresolved: tuple[tuple[str, Denied], ...]  # (field, why) of every reference that names nothing

    @property
    def backends(self) -> tuple[Backend, ...]:
        return tuple({backend.cluster: backend for backend in flat(share.backend for share in self.shares)}.values())

    def problems(self) -> Iterator[Problem]:
        meta = self.route.meta
        for field, denied in self.unresolved:
            yield Problem(meta.ref, field, denied.reason, denied.message, meta.source)


def compile_stream(route: StreamRoute, context: Context) -> CompiledStream:
    protocol: Protocol = "UDP" if isinstance(route, UDPRoute) else "TCP"
    shares, unresolved = _shares(route, protocol, context)
    encrypted = _shares(route, "Passthrough", context)[0] if isinstance(route, TLSRoute) else shares
    return CompiledStream(route, shares, encrypted, unresolved)


def stream_at(compiled: CompiledStream, *, encrypted: bool, certificate: Certificate | None) -> CompiledStream:
    """The route as a listener serves it whose connections are encrypted still, or which shows a certificate to backends."""
    shares = compiled.encrypted if encrypted else compiled.shares
    if certificate is not None:
        shares = tuple(
            replace(each, backend=present(each.backend, certificate)) if each.backend else each for each in shares
        )
    return replace(compiled, shares=shares)


def stream_chain(routes: Iterable[CompiledStream]) -> Chain:
    """All of a TCP or UDP listener; `routes` come oldest first."""
    return Chain("", None, stream=next((_stream(each) for each in routes), CLOSED))


def tls_chains(
    listener: str, owners: Collection[str], tls: ServerTLS | None, routes: Iterable[CompiledStream]
) -> tuple[Chain, ...]:
    """A TLS listener on a port whose listeners have the hostnames `owners`; `routes` come oldest first.

    Its own hostname is there without any route too: a less specific listener must not get what this one refuses.
    """
    groups = _by_hostname(routes)
    names = {listener} | {both for own in groups if (both := intersect(listener, own))}
    return tuple(_chain(name, tls, _serving(name, groups)) for name in sorted(names) if owner(name, owners) == listener)


def _shares(
    route: StreamRoute, protocol: Protocol, context: Context
) -> tuple[tuple[WeightedBackend, ...], tuple[tuple[str, Denied], ...]]:
    shares: list[WeightedBackend] = []
    unresolved: list[tuple[str, Denied]] = []
    for at, wanted in enumerate(route.backends):
        found = resolve_backend(route.meta.ref, wanted, context, protocol)
        if isinstance(found, Denied) and not isinstance(found, Barred):  # else the policy's own status says why
            unresolved.append((f"spec.rules[0].backendRefs[{at}]", found))
        if wanted.weight > 0:
            shares.append(WeightedBackend(found.target if isinstance(found, Ok) else None, wanted.weight))
    return tuple(shares), tuple(unresolved)


def _by_hostname(routes: Iterable[CompiledStream]) -> Mapping[str, Sequence[CompiledStream]]:
    found: dict[str, list[CompiledStream]] = defaultdict(list)
    for each in routes:
        for hostname in dict.fromkeys(hostname.lower() for hostname in each.route.hostnames) or (ANY,):
            found[hostname].append(each)
    return found


def _serving(hostname: str, groups: Mapping[str, Sequence[CompiledStream]]) -> CompiledStream | None:
    return next((each for own in covering(hostname) for each in groups.get(own, ())), None)


def _chain(hostname: str, tls: ServerTLS | None, route: CompiledStream | None) -> Chain:
    served = route is not None and bool(route.backends)
    # A connection that nobody takes is closed before it is encrypted: no handshake says otherwise.
    return Chain(
        "" if hostname == ANY else hostname, tls if served else None, stream=_stream(route) if route else CLOSED
    )


def _stream(compiled: CompiledStream) -> Stream:
    meta = compiled.route.meta
    return Stream(f"{meta.namespace}/{meta.ref.name}", compiled.shares)
