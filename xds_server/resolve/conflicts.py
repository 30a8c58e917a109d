"""Conflicts: listeners that cannot share a port.

Inside one Gateway nobody wins: all listeners of a conflict are thrown out (Gateway API 1.7, Gateway.spec.listeners). All
Gateways of our class are one fleet, so Gateways share ports too; there the oldest Gateway wins, as for any conflict
between objects.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds_server.model.objects import Gateway, Listener, ObjectRef
from xds_server.resolve import conditions as c
from xds_server.resolve.hostnames import normal

SERVED_PROTOCOLS = frozenset({"HTTP", "HTTPS"})

ListenerKey = tuple[ObjectRef, int]  # a Gateway and the listener's index: names may repeat in a manifest nobody checked


@dataclass(frozen=True, slots=True)
class Conflict:
    reason: str
    message: str


@dataclass(slots=True)
class _Claims:
    """Who has a port: one protocol, and a Gateway for each hostname."""

    protocol: str
    holder: ObjectRef
    hostnames: dict[str, ObjectRef] = field(default_factory=dict)


def conflicts(gateways: Iterable[Gateway]) -> Mapping[ListenerKey, Conflict]:
    """Every listener that must not be served, and why. `gateways` come oldest first."""
    claims: dict[int, _Claims] = {}
    found: dict[ListenerKey, Conflict] = {}
    for gateway in gateways:
        ports: dict[int, list[tuple[int, Listener]]] = {}
        for index, listener in enumerate(gateway.listeners):
            if listener.protocol in SERVED_PROTOCOLS:  # any other is refused anyway and must not hurt its neighbours
                ports.setdefault(listener.port, []).append((index, listener))
        for port, listeners in ports.items():
            for index, conflict in _on_port(gateway.meta.ref, port, listeners, claims):
                found[gateway.meta.ref, index] = conflict
    return found


def _on_port(
    gateway: ObjectRef, port: int, listeners: list[tuple[int, Listener]], claims: dict[int, _Claims]
) -> Iterable[tuple[int, Conflict]]:
    protocols = sorted({listener.protocol for _, listener in listeners})
    if len(protocols) > 1:
        message = f"port {port} is used with {' and '.join(protocols)}; give each protocol a port of its own"
        yield from ((index, Conflict(c.PROTOCOL_CONFLICT, message)) for index, _ in listeners)
        return
    held = claims.get(port)
    if held is not None and held.protocol != protocols[0]:
        message = f"port {port} is {held.protocol} by the older {held.holder}; use another port"
        yield from ((index, Conflict(c.PROTOCOL_CONFLICT, message)) for index, _ in listeners)
        return
    count = Counter(normal(listener.hostname) for _, listener in listeners)
    for index, listener in listeners:
        hostname = normal(listener.hostname)
        if count[hostname] > 1:
            message = f"{count[hostname]} listeners have port {port} and hostname {hostname}; keep one"
            yield index, Conflict(c.HOSTNAME_CONFLICT, message)
        elif held is not None and hostname in held.hostnames:
            message = f"port {port} and hostname {hostname} belong to the older {held.hostnames[hostname]}; use others"
            yield index, Conflict(c.HOSTNAME_CONFLICT, message)
        else:
            mine = claims.setdefault(port, _Claims(listener.protocol, gateway))
            mine.hostnames[hostname] = gateway
