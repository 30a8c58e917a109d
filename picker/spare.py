"""Spare: what requests of negative priority may take of the servers, so that the others hardly notice them.

Three things make a first token late beside a flood of batch: a server that is full when a burst comes, a prompt that is nowhere
cached and finds no quiet server (a busy one reads three times slower), and prompts of batch that evict those of others. So:

- some servers have no batch at all: as many as have slots for all that the others had at once of late;
- on the rest batch leaves the slots that the others had there at once of late;
- a prompt that is cached elsewhere comes only to a few of these, where little runs.

Both peaks are learned, from our own in-flight counts, and fade. Nothing is configured. Figures: docs/quality.md, flood.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import exp, inf

from picker.load import FREE_SLOTS, Load
from picker.scorers import View

ALONE = 30.0  # seconds without any other request: then those of negative priority have the pool for themselves
FADE = 30.0  # seconds in which a peak falls to 1/e: bursts come again, and traffic of an hour ago does not
WARM = 0.8  # of the longest match counts as cached
COLD_SERVERS = 4  # one in so many of the servers with batch takes prompts that are cached elsewhere, ...
COLD_SHARE = 0.25  # ... while it has less than this share of its slots to do; not 0, or all that share a prompt would wait for one


@dataclass(frozen=True, slots=True)
class Peaks:
    """Requests of the others in flight at once, of late: in the whole pool, and on each endpoint."""

    total: float
    at: Mapping[str, float]


class Others:
    """The requests of one pool whose priority is not negative. `now` is monotonic seconds and never goes back."""

    def __init__(self) -> None:
        self._latest = -inf  # when there was one
        self._batch = -inf  # when there was one whose priority is negative
        self._seen = -inf
        self._total = 0.0
        self._at: dict[str, float] = {}

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        self._at = {name: peak for name, peak in self._at.items() if name in endpoints}

    def note(self, view: View, priority: int, now: float) -> Peaks | None:
        """A request of this priority is decided on: what it has to leave to the others, None where that is nothing.

        Costs nothing where there is no batch.
        """
        if priority >= 0:
            self._latest = now
            if now - self._batch < ALONE:
                self._observe(view, now)
            return None
        self._batch = now
        if now - self._latest >= ALONE:
            return None
        self._observe(view, now)
        return Peaks(self._total, {name: self._at[name] for name in view.names})

    def _observe(self, view: View, now: float) -> None:
        fade = exp((self._seen - now) / FADE) if self._seen < now else 1.0
        self._seen = max(now, self._seen)
        total, peaks = 0, self._at
        for name in peaks:
            peaks[name] *= fade
        for name, load in zip(view.names, view.loads, strict=True):
            others = load.inflight - load.sheddable
            total += others
            peaks[name] = max(peaks.get(name, 0.0), others + 1.0)  # the next may go to any of them
        self._total = max(self._total * fade, total + 1.0)


def places(view: View, others: Peaks, *, crowded: bool = False) -> list[bool]:
    """For each candidate whether it has room for a request of negative priority, which leaves this to the others."""
    shared = _shared(view, others)
    strangers = set(shared[: max(len(shared) // COLD_SERVERS, 1)])
    warm = WARM * max(view.matched, default=0)
    found = [False] * len(view.names)
    for i in shared:
        load, cached = view.loads[i], view.matched[i] >= warm
        if cached or i in strangers:
            left = _slots(load) - others.at.get(view.names[i], 0.0)
            found[i] = load.has_room(crowded=crowded, share=1.0 if cached else COLD_SHARE) and (
                load.sheddable + 1.0 <= left or not load.inflight
            )
    return found


def _shared(view: View, others: Peaks) -> list[int]:
    """The candidates that may have batch, always the same as long as the others need the same; one at least."""
    order = sorted(range(len(view.names)), key=view.names.__getitem__)
    needed, kept = others.total, 0
    while needed > 0.0 and kept < len(order) - 1:
        needed -= _slots(view.loads[order[kept]])
        kept += 1
    return order[kept:]


def _slots(load: Load) -> float:
    """Requests that it runs at once; where that is not known, what every server is believed to run."""
    return load.speed.slots if load.speed.slots < inf else float(max(FREE_SLOTS, load.running))
