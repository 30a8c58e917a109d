"""Subscription: what one client asked of one resource type on one stream, in either variant of the protocol.

Source: Envoy `docs/root/api-docs/xds_protocol.rst`, "How the client specifies what resources to return", with its table of
`*`, the legacy wildcard of LDS and CDS, and re-subscription. Cases: tests/xds_server/test_subscription.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from xds_server.snapshot import CDS, LDS

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Change:
    """What one request changed."""

    asked: frozenset[str] = frozenset()  # names to answer even if nothing changed: the resource, or that there is none
    forgotten: frozenset[str] = frozenset()  # names that the client no longer holds
    narrowed: bool = False  # `*` is gone: the client holds only what it subscribes to by name
    opened: bool = False  # `*` is new: the client waits for an answer, even an empty one


class Subscription:
    """Names and wildcard of one type on one stream; `delta` and `sotw` apply a request and say what changed."""

    __slots__ = ("_legacy", "names", "wildcard")

    def __init__(self, type_url: str) -> None:
        self.names: set[str] = set()
        self.wildcard = False
        # An empty list means `*` only for these two, and only until any name (or `*`) was ever subscribed.
        self._legacy = type_url in (LDS, CDS)

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def delta(self, subscribe: Iterable[str] = (), unsubscribe: Iterable[str] = ()) -> Change:
        """Incremental: add and drop. A name that is subscribed again is answered again; see `Change`."""
        added, dropped = set(subscribe), set(unsubscribe)
        had = self.wildcard
        if self._legacy and not added:
            self.wildcard = True
        if added:
            self._legacy = False
        if WILDCARD in dropped:
            self.wildcard, self._legacy = False, False
        if WILDCARD in added:
            self.wildcard = True
        added.discard(WILDCARD)
        dropped = {name for name in dropped - added - {WILDCARD} if self.covers(name)}
        self.names |= added
        self.names -= dropped
        # Under `*` the client drops a name it unsubscribes, so the server must send it again or say that it is gone.
        asked = added | dropped if self.wildcard else added
        return Change(
            frozenset(asked), frozenset(dropped | added), had and not self.wildcard, self.wildcard and not had
        )

    def sotw(self, names: Iterable[str]) -> Change:
        """State of the world: the whole list every time."""
        listed = set(names)
        had = self.wildcard
        if listed:
            self._legacy = False
        self.wildcard = WILDCARD in listed or (not listed and self._legacy)
        listed.discard(WILDCARD)
        added, dropped = listed - self.names, self.names - listed
        self.names = listed
        return Change(
            frozenset(added),
            frozenset() if self.wildcard else frozenset(dropped),
            had and not self.wildcard,
            self.wildcard and not had,
        )
