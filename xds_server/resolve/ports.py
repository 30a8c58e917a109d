"""Ports: per socket the chains that its listeners make together.

HTTP listeners of a port are one chain and are told apart by Host; HTTPS and TLS listeners have a chain for each server name; a
TCP or UDP listener is alone. Cases: tests/xds_server/test_resolve_hosts.py, test_resolve_streams.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from xds_server.model.graph import Chain, Port
from xds_server.resolve.conflicts import FAMILIES, ListenerKey, Socket, socket
from xds_server.resolve.hostnames import ANY
from xds_server.resolve.hosts import groups, virtual_hosts, with_misdirected
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.rules import CompiledRoute
from xds_server.resolve.streams import CompiledStream, stream_chain, tls_chains

Compiled = CompiledRoute | CompiledStream
Attached = Mapping[ListenerKey, Sequence[Compiled]]  # oldest first, each as its listener serves it


def ports(listeners: Iterable[BoundListener], attached: Attached) -> tuple[Port, ...]:
    """Every socket that has a listener to serve; `listeners` may share one and then have different hostnames."""
    found: dict[Socket, list[BoundListener]] = defaultdict(list)
    for each in listeners:
        if each.programmed:
            found[socket(each.listener)].append(each)
    return tuple(_port(where, found[where], attached) for where in sorted(found))


def _port(where: Socket, listeners: list[BoundListener], attached: Attached) -> Port:
    transport, number = where
    ordered = sorted(listeners, key=lambda each: each.hostname)
    match FAMILIES[ordered[0].listener.protocol]:
        case "HTTP":
            return Port(number, (_plain(ordered, attached),))
        case "TLS":
            owners = frozenset(each.hostname for each in ordered)
            chains = (chain for each in ordered for chain in _secured(each, owners, attached))
            return Port(number, tuple(sorted(chains, key=lambda chain: chain.hostname)), sni=True)
    return Port(number, (stream_chain(_streams(ordered[0], attached)),), "UDP" if transport == "UDP" else "TCP")


def _plain(listeners: list[BoundListener], attached: Attached) -> Chain:
    owners = frozenset(each.hostname for each in listeners)
    hosts = [
        host
        for each in listeners
        for host in virtual_hosts(each.hostname, owners, groups(each, _routes(each, attached)))
    ]
    return Chain("", None, tuple(sorted(hosts, key=lambda host: host.hostname)))


def _secured(bound: BoundListener, owners: frozenset[str], attached: Attached) -> tuple[Chain, ...]:
    if bound.listener.protocol == "TLS":
        return tls_chains(bound.hostname, owners, bound.tls, _streams(bound, attached))
    hosts = virtual_hosts(bound.hostname, owners, groups(bound, _routes(bound, attached)))
    name = "" if bound.hostname == ANY else bound.hostname
    return (Chain(name, bound.tls, with_misdirected(hosts, owners)),)


def _routes(bound: BoundListener, attached: Attached) -> list[CompiledRoute]:
    return [each for each in attached.get(bound.key, ()) if isinstance(each, CompiledRoute)]


def _streams(bound: BoundListener, attached: Attached) -> list[CompiledStream]:
    return [each for each in attached.get(bound.key, ()) if isinstance(each, CompiledStream)]
