"""Queues: who waits for an endpoint of one pool, and who is next. Bands by priority, in a band a fair queue by tenant.

Between bands: the higher first, except that a band that waits gets at least SHARE of the turns, so that none starves. Inside a
band: start-time fair queueing (Goyal, Vin and Cheng 1996), which is what weighted deficit round robin approximates: the tenant
that was given the least, in tokens, is next, and one that was idle saves nothing up. Inside a tenant: by `Item.key`; but in a
queue that stands, of those that are in no hurry the newest is first (adaptive LIFO, Maurer, "Fail at Scale", 2015): in the order
of arrival all would wait equally long there, and all too long.
Compare llm-d router 0.10, pkg/epp/flowcontrol, whose bands are strict and whose default between tenants is no fairness at all.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import count, islice, zip_longest
from math import inf
from sys import maxsize
from typing import Any

from picker.facts import Reason

SHARE = 0.05  # of the turns, guaranteed to a band that waits; all such bands together get at most half
SCAN = (
    16  # requests that may be passed over, because none of their own endpoints is free, before the rest must wait too
)
STANDING = 5.0  # seconds in which a band was never empty: no burst, but more than the servers can do
REMEMBERED = 1024  # idle tenants whose share is remembered: clients name their tenant themselves


@dataclass(slots=True, eq=False)
class Item:
    """One request that waits. Times are monotonic seconds."""

    id: str
    priority: int
    flow: str  # the tenant
    cost: float  # what its turn takes from the tenant's share, in tokens
    size: int  # bytes held while it waits
    since: float
    until: float  # then it is answered, whatever comes
    key: float  # the lower, the earlier inside its tenant
    why: Reason = "queue_ttl"  # it is refused at `until`
    patient: bool = False  # whether the newest may go first: nobody has said by when it must be served
    ask: Any = None  # the caller's
    number: int = -1  # order of arrival; given by Queues


_Entry = tuple[float, int, Item]  # key, number: unique, so items are never compared


@dataclass(slots=True)
class _Flow:
    tag: float  # what it was given, over its weight, on the band's scale
    strict: list[_Entry] = field(default_factory=list)  # sorted
    patient: list[_Entry] = field(default_factory=list)  # sorted
    newest: bool = False  # whose turn it is in a queue that stands: both have every second one

    def of(self, item: Item) -> list[_Entry]:
        return self.patient if item.patient else self.strict

    def order(self, standing: bool) -> Iterator[_Entry]:
        """Whose turn it is, then whose it would be without that one."""
        if not self.patient:
            return iter(self.strict)
        if not standing:
            return merge(self.strict, self.patient) if self.strict else iter(self.patient)
        if not self.strict:
            return reversed(self.patient)
        both = (reversed(self.patient), self.strict) if self.newest else (self.strict, reversed(self.patient))
        return (entry for pair in zip_longest(*both) for entry in pair if entry is not None)


class _Band:
    """One priority. Lists are sorted, and searched: moving a few thousand pointers costs less than a tree."""

    __slots__ = ("_given", "_idle", "_order", "credit", "entries", "flows", "since", "size", "weights")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.flows: dict[str, _Flow] = {}  # those that wait
        self.entries: list[_Entry] = []  # of all flows
        self.size = 0
        self.since = inf  # somebody has always waited
        self.credit = 0.0  # turns that it was owed while others had theirs
        self._order: list[tuple[float, str]] = []  # (tag, flow) of those that wait
        self._idle: dict[str, float] = {}  # flow -> tag, where it is ahead of `_given`
        self._given = 0.0  # the tag of the flow that had the last turn
        self.weights = weights

    def add(self, item: Item) -> None:
        entry = (item.key, item.number, item)
        if not self.entries:
            self.since = item.since
        insort(self.entries, entry)
        self.size += item.size
        flow = self.flows.get(item.flow)
        if flow is None:
            flow = self.flows[item.flow] = _Flow(max(self._given, self._idle.pop(item.flow, 0.0)))
            insort(self._order, (flow.tag, item.flow))
        insort(flow.of(item), entry)

    def remove(self, item: Item, *, charge: bool) -> None:
        entry = (item.key, item.number, item)
        del self.entries[bisect_left(self.entries, entry)]
        self.size -= item.size
        flow = self.flows[item.flow]
        entries = flow.of(item)
        del entries[bisect_left(entries, entry)]
        waits = bool(flow.strict or flow.patient)
        if waits and not charge:
            return
        del self._order[bisect_left(self._order, (flow.tag, item.flow))]
        if charge:
            self._given = max(self._given, flow.tag)
            flow.tag += item.cost / self.weights.get(item.flow, 1.0)
            flow.newest = not item.patient
        if waits:
            insort(self._order, (flow.tag, item.flow))
            return
        del self.flows[item.flow]
        if flow.tag > self._given:
            self._remember(item.flow, flow.tag)

    def _remember(self, name: str, tag: float) -> None:
        self._idle[name] = tag
        if len(self._idle) > REMEMBERED:
            self._idle = {name: tag for name, tag in self._idle.items() if tag > self._given}
            while len(self._idle) > REMEMBERED:
                del self._idle[next(iter(self._idle))]

    def stands(self, now: float) -> bool:
        return bool(self.entries) and now - self.since > STANDING

    def order(self, now: float) -> Iterator[Item]:
        """Whose turn it is, then whose it would be if that one cannot be served: every tenant's first, then every second."""
        standing = self.stands(now)
        flows = [self.flows[name].order(standing) for _, name in self._order[:SCAN]]
        for row in islice(zip_longest(*flows), SCAN):
            for entry in row:
                if entry is not None:
                    yield entry[2]

    def ahead(self, item: Item, now: float) -> int:
        """About how many of this band have their turn before `item`, which need not wait yet: rather too few than too many."""
        entry = (item.key, item.number if item.number >= 0 else maxsize, item)
        flow = self.flows.get(item.flow)
        others = max(len(self.flows), 1)
        if self.stands(now):
            own = bisect_left(flow.strict, entry) if flow and not item.patient else 0
            return (2 * own + 1) * others - 1
        own = bisect_left(flow.strict, entry) + bisect_left(flow.patient, entry) if flow else 0
        return min(bisect_left(self.entries, entry), (own + 1) * others - 1)


class Queues:
    """All bands of one pool."""

    def __init__(self, weights: Mapping[str, float] | None = None, share: float = SHARE) -> None:
        self._weights = weights or {}
        self._share = share
        self._bands: dict[int, _Band] = {}  # those in which somebody waits, and those that are owed nothing any more
        self._items: dict[str, Item] = {}
        self._numbers = count()
        self.size = 0  # bytes

    def configure(self, weights: Mapping[str, float], share: float) -> None:
        """From now on. `weights` of tenants, above 0; 1 for those not named."""
        self._weights, self._share = weights, share
        for band in self._bands.values():
            band.weights = weights

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def get(self, id_: str) -> Item | None:
        return self._items.get(id_)

    def held(self, priority: int) -> tuple[int, int]:
        """(requests, bytes) that wait with this priority."""
        band = self._bands.get(priority)
        return (len(band.entries), band.size) if band else (0, 0)

    def bands(self) -> dict[int, tuple[int, int]]:
        """(requests, bytes) by priority, of every priority that ever waited: a gauge must be seen to fall to 0."""
        return {priority: (len(band.entries), band.size) for priority, band in self._bands.items()}

    def add(self, item: Item) -> None:
        if item.id in self._items:
            raise ValueError(f"request {item.id} waits already")
        item.number = next(self._numbers)
        self._items[item.id] = item
        self.size += item.size
        band = self._bands.get(item.priority)
        if band is None:
            band = self._bands[item.priority] = _Band(self._weights)
            self._bands = dict(sorted(self._bands.items(), reverse=True))
        band.add(item)

    def remove(self, item: Item, *, charge: bool = False) -> None:
        """It waits no longer; `charge`: because it had its turn."""
        del self._items[item.id]
        self.size -= item.size
        band = self._bands[item.priority]
        band.remove(item, charge=charge)
        if charge:
            self._pay(item.priority)
        if not band.entries:
            band.credit = 0.0

    def _pay(self, priority: int) -> None:
        """A turn was had: those that wait below come closer to theirs; one that passed a higher band pays with what it was owed."""
        passed = any(band.entries for above, band in self._bands.items() if above > priority)
        if passed:
            band = self._bands[priority]
            band.credit = max(0.0, band.credit - 1.0)
            return
        below = [band for other, band in self._bands.items() if other < priority and band.entries]
        for band in below:
            band.credit += min(self._share, 0.5 / len(below))

    def order(self, now: float = -inf) -> Iterator[Item]:
        """Whose turn it is at `now`, then at most SCAN others that may be tried instead. Not to be changed while it is walked."""
        waiting = [band for band in self._bands.values() if band.entries]
        owed = [band for band in waiting if band.credit >= 1.0]
        left = SCAN + 1
        for band in (*owed, *(band for band in waiting if band.credit < 1.0)):
            for item in band.order(now):
                yield item
                left -= 1
                if not left:
                    return

    def stands(self, priority: int, now: float) -> bool:
        """Whether this band has not been empty for so long that no burst explains it."""
        band = self._bands.get(priority)
        return band is not None and band.stands(now)

    def ahead(self, item: Item, now: float = -inf) -> int:
        """About how many have their turn before `item`, which need not wait yet."""
        above = sum(len(band.entries) for priority, band in self._bands.items() if priority > item.priority)
        band = self._bands.get(item.priority)
        return above + (band.ahead(item, now) if band else 0)

    def last(self, below: int) -> Item | None:
        """The one to give up first among those of a lower priority: of the lowest, the last that came."""
        for priority in sorted(self._bands):
            if priority >= below:
                return None
            if entries := self._bands[priority].entries:
                return max(entries, key=lambda entry: entry[1])[2]
        return None
