"""Conflicts: listeners that cannot share a socket.

Inside one object nobody wins: all listeners of a conflict are thrown out (Gateway API 1.7, Gateway.spec.listeners). Between
objects the earlier one wins: a Gateway before its ListenerSets, the oldest ListenerSet first (ListenerSet.spec.listeners), and
the oldest Gateway first where Gateways share a fleet. HTTPS and TLS share a port, since both are told apart by server name;
TCP and UDP ports of one number are different sockets.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xds_server.model.objects import Filter, Gateway, Listener, ListenerSet, ObjectRef
from xds_server.resolve import conditions as c
from xds_server.resolve.hostnames import normal

# What a socket can be at a time: one of these.
FAMILIES = {"HTTP": "HTTP", "HTTPS": "TLS", "TLS": "TLS", "TCP": "TCP", "UDP": "UDP"}
SERVED_PROTOCOLS = frozenset(FAMILIES)

Owner = Gateway | ListenerSet  # who brings listeners
ListenerKey = tuple[ObjectRef, int]  # its owner and its index there: names may repeat in a manifest nobody checked
Socket = tuple[str, int]  # (TCP|UDP, number)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a listener is not accepted beside the others, or at all."""

    reason: str
    message: str

    @property
    def indistinct(self) -> bool:
        return self.reason in (c.HOSTNAME_CONFLICT, c.PROTOCOL_CONFLICT)


@dataclass(slots=True)
class _Claims:
    """Who has a socket: one family of protocols, and an owner for each hostname."""

    protocol: str
    holder: ObjectRef
    filters: tuple[Filter, ...]
    hostnames: dict[str, ObjectRef] = field(default_factory=dict)


def socket(listener: Listener) -> Socket:
    return "UDP" if listener.protocol == "UDP" else "TCP", listener.port


def conflicts(owners: Iterable[Owner]) -> Mapping[ListenerKey, Conflict]:
    """Every listener that must not be served, and why. `owners` share a fleet and come in the order of precedence."""
    claims: dict[Socket, _Claims] = {}
    found: dict[ListenerKey, Conflict] = {}
    for owner in owners:
        sockets: dict[Socket, dict[int, Listener]] = {}
        for index, listener in enumerate(owner.listeners):
            if listener.protocol in SERVED_PROTOCOLS:  # any other is refused anyway and must not hurt its neighbours
                sockets.setdefault(socket(listener), {})[index] = listener
        for where, listeners in sockets.items():
            lost = _lost(owner, where, listeners, claims.get(where))
            found |= {(owner.meta.ref, index): conflict for index, conflict in lost.items()}
            for index, listener in listeners.items():
                if index in lost:
                    continue
                mine = claims.setdefault(where, _Claims(listener.protocol, owner.meta.ref, listener.filters))
                if listener.protocol == "HTTP" and listener.filters != mine.filters:
                    found[owner.meta.ref, index] = _unlike(where, mine)
                else:
                    mine.hostnames[normal(listener.hostname)] = owner.meta.ref
    return found


def _lost(owner: Owner, where: Socket, listeners: Mapping[int, Listener], held: _Claims | None) -> dict[int, Conflict]:
    taken = {index: lost for index, each in listeners.items() if (lost := _taken(each, where, held))}
    # A Gateway says the same whoever else is there; a ListenerSet is merged into what is there (ListenerSetProtocolConflict).
    own = listeners if isinstance(owner, Gateway) else {at: each for at, each in listeners.items() if at not in taken}
    return taken | _indistinct(own, where)


def _taken(listener: Listener, where: Socket, held: _Claims | None) -> Conflict | None:
    """What an earlier object has already."""
    if held is None:
        return None
    hostname = normal(listener.hostname)
    if FAMILIES[held.protocol] != FAMILIES[listener.protocol]:
        message = f"port {where[1]} is {held.protocol} by {held.holder}, which comes first; use another port"
        return Conflict(c.PROTOCOL_CONFLICT, message)
    if hostname in held.hostnames:
        message = f"port {where[1]} and hostname {hostname} belong to {held.hostnames[hostname]}, which comes first"
        return Conflict(c.HOSTNAME_CONFLICT, f"{message}; use others")
    return None


def _unlike(where: Socket, held: _Claims) -> Conflict:
    """Envoy asks before it looks at Host, so that plain listeners of a port have their filters together."""
    message = (
        f"port {where[1]} of {held.holder} has other filters, and without TLS a port has the same for all listeners"
    )
    return Conflict(c.UNSUPPORTED_VALUE, f"{message}; use another port, or the filters of routes")


def _indistinct(listeners: Mapping[int, Listener], where: Socket) -> dict[int, Conflict]:
    """Conflicts among the listeners of one object on one socket."""
    protocols = sorted({listener.protocol for listener in listeners.values()})
    if len({FAMILIES[protocol] for protocol in protocols}) > 1:
        message = f"port {where[1]} is used with {' and '.join(protocols)}; give each protocol a port of its own"
        return dict.fromkeys(listeners, Conflict(c.PROTOCOL_CONFLICT, message))
    count = Counter(normal(listener.hostname) for listener in listeners.values())
    found = {}
    for index, listener in listeners.items():
        hostname = normal(listener.hostname)
        if count[hostname] > 1:
            message = f"{count[hostname]} listeners have port {where[1]} and hostname {hostname}; keep one"
            found[index] = Conflict(c.HOSTNAME_CONFLICT, message)
    return found
