"""Hosts: of each listener the virtual hosts, per virtual host the routes in order of precedence.

Envoy gives a request to the most specific virtual host and to no other, so each virtual host holds everything that may
answer for its hostname: the routes whose own hostnames cover it, the longest hostname first (HTTPRoute.spec.hostnames).
A hostname belongs to the most specific listener that covers it, and to no other (listener isolation). Cases:
tests/xds_server/test_resolve_hosts.py.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from xds_server.model.graph import Reply, Route, VirtualHost
from xds_server.model.objects import HTTPMatch
from xds_server.resolve.hostnames import ANY, covering, intersect, owner
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.rules import CompiledRoute, Entry, Precedence, at_listener

# Above this many HTTPS listeners a port answers 404 for another listener's hostname: the 421s would be their square.
MISDIRECTED_LIMIT = 64
MISDIRECTED = (Route("misdirected", HTTPMatch(), Reply(421)),)

Groups = Mapping[str, Sequence[Entry]]  # by a route's own hostname, "*" for a route without any; in order of precedence


def virtual_hosts(listener: str, owners: Collection[str], held: Groups) -> tuple[VirtualHost, ...]:
    """What one listener serves on a port whose listeners have the hostnames `owners`.

    Its own hostname is there without any route too: it gives 404, where a less specific listener would answer.
    """
    names = {listener} | {both for own in held if (both := intersect(listener, own))}
    return tuple(VirtualHost(name, routes_of(name, held)) for name in sorted(names) if owner(name, owners) == listener)


def routes_of(hostname: str, held: Groups) -> tuple[Route, ...]:
    """What a virtual host of this name has."""
    found: dict[tuple[str, bool], Route] = {}
    for own in covering(hostname):
        for entry in held.get(own, ()):
            # A route with both the hostname and a wildcard over it comes by the more specific one only; an HTTPRoute and a
            # GRPCRoute of one name are two.
            found.setdefault((entry.route.name, entry.route.grpc), entry.route)
    return tuple(found.values())


def groups(bound: BoundListener, routes: Iterable[CompiledRoute]) -> Groups:
    """The entries of a listener's routes, as this listener serves them."""
    found: dict[str, list[Entry]] = defaultdict(list)
    scheme, port = bound.listener.protocol.lower(), bound.listener.port
    for compiled in routes:
        entries = at_listener(compiled.entries, scheme, port)
        own = dict.fromkeys(hostname.lower() for hostname in compiled.route.hostnames) or (ANY,)
        for hostname in own:
            found[hostname].extend(entries)
    for entries_of_host in found.values():
        entries_of_host.sort(key=entry_order)
    return found


def entry_order(entry: Entry) -> tuple[Precedence, bool]:
    """An HTTPRoute and a GRPCRoute of one name may have equal precedence otherwise."""
    return entry.precedence, entry.route.grpc


def with_misdirected(hosts: tuple[VirtualHost, ...], owners: Collection[str]) -> tuple[VirtualHost, ...]:
    """421 for hostnames that belong to the port's other listeners; a hostname that nobody has gives 404.

    HTTP/2 clients reuse a connection where a certificate covers more than its listener does (GEP-3567).
    """
    if len(owners) > MISDIRECTED_LIMIT:
        return hosts
    held = {host.hostname for host in hosts}
    others = (VirtualHost(hostname, MISDIRECTED) for hostname in owners if hostname not in held)
    return tuple(sorted((*hosts, *others), key=lambda host: host.hostname))
