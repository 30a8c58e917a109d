"""One resource type on one stream: what the client asked for, in either variant of the protocol, and what it holds.

Source: Envoy `docs/root/api-docs/xds_protocol.rst`, "How the client specifies what resources to return", with its table of
`*`, the legacy wildcard of LDS and CDS, and re-subscription. Cases: tests/xds_server/test_subscription.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from xds_server.blame import Refused
from xds_server.snapshot import CDS, LDS, Collection, Resource, Snapshot

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


@dataclass(slots=True)
class Flight:
    """The one response of a type that waits for its ACK."""

    nonce: str
    version: str
    added: dict[str, Resource]
    prior: dict[str, Resource | None]
    removed: tuple[str, ...]
    since: float
    completes: Snapshot | None  # with its ACK the client has all of this snapshot
    overdue: bool = False

    @property
    def versions(self) -> dict[str, str]:
        return {name: resource.version for name, resource in self.added.items()}


class TypeState:
    """What AdsSession knows of one type on one stream."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.sub = Subscription(url)
        self.seen = False  # the client has asked for this type
        self.sent: dict[str, Resource] = {}  # what the client holds once it has acknowledged the flight
        self.asked: set[str] = set()  # names that wait for an answer
        self.opened = False  # a wildcard that waits for an answer, even an empty one
        self.flight: Flight | None = None
        self.late: dict[str, Flight] = {}  # by nonce: not answered, and no longer waited for
        self.serial = 0
        self.view: Snapshot | None = None  # the snapshot that is being sent
        self.done: Snapshot | None = None  # the newest that has been sent, and acknowledged or given up
        self.acked = ""
        self.refused = Refused()
        self.doubtful: set[str] = set()  # not in `sent`, and yet SotW may hold it
        self.suspects: set[str] = set()  # one of them was refused, nobody knows which: they are tried one by one
        self.retired: dict[str, float] = {}  # name -> when its last user was gone
        self.checked: tuple[Collection, ...] = ()  # the collections that were compared with `sent` last

    @property
    def waiting(self) -> bool:
        return self.flight is not None and not self.flight.overdue

    @property
    def excess(self) -> bool:
        """Envoy holds, or is losing, something that the view does not have, of whatever snapshot."""
        if self.flight is not None and self.flight.removed:
            return True
        return self.view is None or not self.sent.keys() <= self.view.of_type(self.url).keys()
