"""Room: which endpoints may be given a request now, and in whose own queue a request is better off than anywhere with room.

The limit of an endpoint is the slots that it was seen to have (latency.py; without a limit until it had a queue), compared with
what we have there ourselves, which no scrape delays. Nothing is configured.
"""

from collections.abc import Sequence
from math import inf

from xxhash import xxh3_64_intdigest

from picker import ttft
from picker.load import Load
from picker.scorers import STALE_ERRORS, View, waiting

FEEDBACK = 0.03  # seconds from the end of a request until the next one arrives: Envoy batches its log for 20 ms
MAX_CONCURRENCY = 100  # requests that a server is given at once which cannot be scraped, while others wait
PROBES = 32  # one request in so many finds out


def curious(id_: str) -> bool:
    """Whether this request is to find out if a server that seems full has one slot more: else a limit could never grow."""
    return xxh3_64_intdigest(id_.encode()) % PROBES == 0


def has_room(load: Load, *, crowded: bool = False, share: float = 1.0, probe: bool = False) -> bool:
    """Whether one more request would start at once, or at the latest when it gets there: a slot must not lie idle meanwhile.

    An endpoint that has nothing of ours always has: whatever was learned of it, it is tried again. `crowded`: others wait, so
    that one which has just come must not be given all of them: as many as it runs, and a few more, until its next scrape.
    """
    speed = load.speed
    if not load.inflight:
        return True
    if speed.slots == inf:
        if not crowded:
            return True
        return load.inflight < MAX_CONCURRENCY if load.errors >= STALE_ERRORS else waiting(load) < 1.0
    coming = 1.0 + FEEDBACK / max(speed.seconds, 0.001)  # short requests end while the next is on its way
    limit = speed.slots * coming * share
    if probe and not load.waiting and load.running >= speed.slots - 0.5:  # all its slots work, and nobody waits there
        limit = max(limit, speed.slots + 1.0)
    return load.inflight + speed.foreign + 1.0 <= limit


def free(view: View, *, crowded: bool = False, share: float = 1.0, probe: bool = False) -> list[bool]:
    """For each candidate whether it has room. Most have no limit yet, or nothing to do: that is seen without a call."""
    return [
        not load.inflight
        or (not crowded and load.speed.slots == inf)
        or has_room(load, crowded=crowded, share=share, probe=probe)
        for load in view.loads
    ]


def allowed(view: View, places: Sequence[bool], *, queues: bool = True) -> list[int]:
    """The candidates with room, and those without where the first token is still expected sooner than on any of them.

    Nothing while none has room: then waiting in the gateway keeps the choice open. Not `queues`: only those with room.
    """
    best = [i for i, has in enumerate(places) if has]
    if not queues or not best or len(best) == len(places):
        return best
    predicted = ttft.predict(view)
    least = min(predicted[i] for i in best)
    return [i for i, has in enumerate(places) if has or predicted[i] < least]


def in_time(view: View, places: Sequence[bool], left: float) -> list[int] | None:
    """The candidates with room that promise the first token within `left` seconds. Nothing: wait. None: there is no hope.

    How long it waits in a server's own queue nobody can tell well enough for an objective (half of what was predicted, or twice
    as long): so it waits here while one without room may still do it. One that is idle can do no better later.
    """
    predicted = ttft.predict(view)
    found = [i for i, has in enumerate(places) if has]
    fit = [i for i in found if predicted[i] <= left]
    if fit or any(predicted[i] <= left for i, has in enumerate(places) if not has):
        return fit
    return [i for i in found if not view.loads[i].inflight] or None


def after_slot(view: View) -> float:
    """Seconds from a free slot to the first token, on the best candidate."""
    return min(a - b for a, b in zip(ttft.predict(view), ttft.drain(view), strict=True))
