"""Spare: what requests of negative priority may take of the servers, so that the others hardly notice them.

Three things make a first token late beside a flood of batch: a server that is full when a burst comes, a prompt that is nowhere
cached and finds no quiet server (a busy one reads three times slower), and prompts of batch that evict those of others. So:

- on every server batch leaves the slots that the others had there at once of late, and two more;
- a prompt that is cached elsewhere comes only to a few servers, where little runs.

The peaks are learned, from our own in-flight counts, and fade; before the first request of negative priority too, else a flood
would find nothing known. Nothing is configured. Figures: docs/quality.md, flood.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import exp, inf

from picker.load import FREE_SLOTS, Load
from picker.scorers import View

ALONE = 30.0  # seconds without any other request: then those of negative priority have the pool for themselves
FADE = 25.0  # seconds in which a peak falls to 1/e: bursts come again, and traffic of an hour ago does not
MORE = 2.0  # slots beyond the peak: the next burst may be larger, or go to other servers than the one before
GROWTH = 1.25  # of what a server ran without a queue: else batch would never find out that a large one can do more
WARM = 0.8  # of the longest match counts as cached
COLD_SERVERS = 4  # one in so many of the servers takes prompts that are cached elsewhere, ...
COLD_SHARE = 0.25  # ... while it has less than this share of its slots to do; not 0, or all that share a prompt would wait for one


@dataclass(frozen=True, slots=True)
class Peaks:
    """Requests of the others in flight at once, of late, on each endpoint; none where it is not named."""

    at: Mapping[str, float]


class Others:
    """The requests of one pool whose priority is not negative. `now` is monotonic seconds and never goes back."""

    def __init__(self) -> None:
        self._latest = -inf  # when there was one
        self._peaks: dict[str, tuple[float, float]] = {}  # endpoint -> (requests at once, when)

    def retain(self, endpoints: Collection[str]) -> None:
        """Forget every endpoint but these."""
        self._peaks = {name: peak for name, peak in self._peaks.items() if name in endpoints}

    def sent(self, endpoint: str, load: Load, now: float) -> None:
        """One of them goes there; `load` is still without it."""
        self._latest = now
        count = load.inflight - load.sheddable + 1.0
        if count >= self._peak(endpoint, now):
            self._peaks[endpoint] = count, now

    def left(self, priority: int, names: Collection[str], now: float) -> Peaks | None:
        """What a request of this priority has to leave to them on these endpoints; None where that is nothing."""
        if priority >= 0 or now - self._latest >= ALONE:
            return None
        return Peaks({name: self._peak(name, now) for name in names if name in self._peaks})

    def _peak(self, endpoint: str, now: float) -> float:
        peak, at = self._peaks.get(endpoint, (0.0, now))
        return peak * exp((at - now) / FADE)


def places(view: View, others: Peaks, *, crowded: bool = False) -> list[bool]:
    """For each candidate whether it has room for a request of negative priority, which leaves this to the others."""
    strangers = _strangers(view.names)
    warm = WARM * max(view.matched, default=0)
    found = [False] * len(view.names)
    for i, (name, load, matched) in enumerate(zip(view.names, view.loads, view.matched, strict=True)):
        cached = matched >= warm
        if cached or name in strangers:
            peak = others.at.get(name, 0.0)
            left = _slots(load, peak) - peak - MORE
            found[i] = (not load.inflight or load.sheddable + 1.0 <= left) and load.has_room(
                crowded=crowded, share=1.0 if cached else COLD_SHARE
            )
    return found


def _strangers(names: Collection[str]) -> Collection[str]:
    """The candidates that take prompts which are cached elsewhere: always the same."""
    return set(sorted(names)[: max(len(names) // COLD_SERVERS, 1)])


def _slots(load: Load, peak: float) -> float:
    """Requests that it runs at once; where it never had a queue, a quarter more than it is known to have run, like a slow start."""
    return load.speed.slots if load.speed.slots < inf else max(FREE_SLOTS, GROWTH * max(load.running, peak))
