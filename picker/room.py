"""Room: which endpoints may be given a request now, and in whose own queue a request is better off than anywhere with room.

The limit of an endpoint is the slots that it was seen to have (latency.py; without a limit until it had a queue), compared with
what we have there ourselves, which no scrape delays. Nothing is configured.
"""

from collections.abc import Iterable, Sequence
from math import inf
from operator import attrgetter

from xxhash import xxh3_64_intdigest

from picker import ttft
from picker.load import Load
from picker.scorers import View

# Requests that may wait in a server's own queue while the gateway's stands: there more are sent to the best servers whenever a bad
# one has a place, until all are equally bad, and who comes next cannot pass them. Two, as a slot must not lie idle.
OWN_QUEUE = 2
PROBES = 32  # one request in so many finds out
_OPEN_TO_PROBES = attrgetter("open_to_probes")


def curious(id_: str) -> bool:
    """Whether this request is to find out if a server that seems full has one slot more: else a limit could never grow."""
    return xxh3_64_intdigest(id_.encode()) % PROBES == 0


def anywhere(loads: Iterable[Load]) -> bool:
    """Whether any of the endpoints may have room, be it for one that finds out: asked before each turn, so it is quick."""
    return any(map(_OPEN_TO_PROBES, loads))


def free(view: View, *, crowded: bool = False, probe: bool = False) -> list[bool]:
    """For each candidate whether it has room."""
    return [
        (load.open_to_probes if probe else load.open) or (not crowded and load.speed.slots == inf)
        for load in view.loads
    ]


def allowed(view: View, places: Sequence[bool], *, queue: float = inf) -> list[int]:
    """The candidates with room, and those without where the first token is still expected sooner than on any of them.

    Nothing while none has room: then waiting in the gateway keeps the choice open. `queue`: how many may wait there, beyond the slots.
    """
    best = [i for i, has in enumerate(places) if has]
    if not queue or not best or len(best) == len(places):
        return best
    predicted, loads = ttft.predict(view), view.loads
    least = min(predicted[i] for i in best)
    return [
        i
        for i, has in enumerate(places)
        if has or (predicted[i] < least and ttft.others(loads[i]) + 1.0 <= loads[i].speed.slots + queue)
    ]


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
