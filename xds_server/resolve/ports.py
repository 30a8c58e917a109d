"""Ports: per socket the chains that its listeners make together.

HTTP listeners of a port are one chain and are told apart by Host; HTTPS and TLS listeners have a chain for each server name; a
TCP or UDP listener is alone. Cases: tests/xds_server/test_resolve_hosts.py, test_resolve_streams.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xds_server.model.graph import EVERYTHING, Backend, Certificate, Chain, Port, Tracing
from xds_server.model.objects import ObjectRef
from xds_server.resolve.conflicts import FAMILIES, ListenerKey, Socket, socket
from xds_server.resolve.context import Setting
from xds_server.resolve.hostnames import ANY
from xds_server.resolve.hosts import Groups, groups, virtual_hosts, with_misdirected
from xds_server.resolve.listeners import BoundListener
from xds_server.resolve.rules import CompiledRoute
from xds_server.resolve.streams import CompiledStream, stream_chain, tls_chains

Compiled = CompiledRoute | CompiledStream


@dataclass(frozen=True, slots=True)
class Attached:
    """What the listeners of a fleet serve."""

    routes: Mapping[ListenerKey, Sequence[Compiled]]  # oldest first, each as its listener serves it
    tracing: Mapping[ObjectRef, Tracing | None]  # of each Gateway
    certificates: Mapping[ObjectRef, Certificate | None]  # that each Gateway shows to backends
    held: dict[ListenerKey, Groups] = field(default_factory=dict, init=False, compare=False)  # made when asked

    def requests(self, bound: BoundListener) -> Groups:
        if bound.key not in self.held:
            found = [each for each in self.routes.get(bound.key, ()) if isinstance(each, CompiledRoute)]
            self.held[bound.key] = groups(bound, found)
        return self.held[bound.key]

    def streams(self, bound: BoundListener) -> list[CompiledStream]:
        return [each for each in self.routes.get(bound.key, ()) if isinstance(each, CompiledStream)]

    def traced(self, bound: BoundListener) -> Tracing | None:
        return self.tracing.get(bound.gateway.meta.ref)


def fleet_of(gateway: ObjectRef, setting: Setting) -> str:
    """The name of the fleet that serves a Gateway: what its Envoys are known by."""
    return f"{gateway.namespace}/{gateway.name}" if setting.per_gateway else EVERYTHING


def ports(listeners: Iterable[BoundListener], attached: Attached) -> tuple[Port, ...]:
    """Every socket that has a listener to serve; `listeners` may share one and then have different hostnames."""
    found: dict[Socket, list[BoundListener]] = defaultdict(list)
    for each in listeners:
        if each.programmed:
            found[socket(each.listener)].append(each)
    return tuple(_port(where, found[where], attached) for where in sorted(found))


def used(listeners: Iterable[BoundListener], attached: Attached) -> dict[str, Backend]:
    """Every cluster that these listeners may send anything to, by name."""
    found: dict[str, Backend] = {}
    for bound in listeners:
        if not bound.programmed:
            continue
        traced = attached.traced(bound)
        own = [asked.backend for asked in bound.auth]
        own += [traced.collector] if traced and traced.collector else []
        routed = (backend for compiled in attached.routes.get(bound.key, ()) for backend in compiled.backends)
        found |= {backend.cluster: backend for backend in (*routed, *own)}
    return dict(sorted(found.items()))


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
    chain = stream_chain(attached.streams(ordered[0]))
    return Port(number, (chain,), "UDP" if transport == "UDP" else "TCP")


def _plain(listeners: list[BoundListener], attached: Attached) -> Chain:
    owners = frozenset(each.hostname for each in listeners)
    hosts = (host for each in listeners for host in virtual_hosts(each.hostname, owners, attached.requests(each)))
    # Gateways that share a port are traced as the first of them that is; its listeners' filters are equal (`conflicts`).
    traced = next((found for each in listeners if (found := attached.traced(each))), None)
    return Chain("", None, tuple(sorted(hosts, key=lambda host: host.hostname)), auth=listeners[0].auth, tracing=traced)


def _secured(bound: BoundListener, owners: frozenset[str], attached: Attached) -> tuple[Chain, ...]:
    if bound.listener.protocol == "TLS":
        return tls_chains(bound.hostname, owners, bound.tls, attached.streams(bound))
    hosts = virtual_hosts(bound.hostname, owners, attached.requests(bound))
    name, traced = "" if bound.hostname == ANY else bound.hostname, attached.traced(bound)
    return (Chain(name, bound.tls, with_misdirected(hosts, owners), auth=bound.auth, tracing=traced),)
