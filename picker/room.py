"""Room: which endpoints may be given a request now, and in whose own queue a request is better off than anywhere with room.

The limit of an endpoint is the slots that it was seen to have (latency.py; without a limit until it had a queue), compared with
what we have there ourselves, which no scrape delays. Nothing is configured.
"""

from collections.abc import Sequence
from math import inf

from picker import ttft
from picker.load import Load
from picker.scorers import View

FEEDBACK = 0.03  # seconds from the end of a request until the next one arrives: Envoy batches its log for 20 ms


def has_room(load: Load) -> bool:
    """Whether one more request would start at once, or at the latest when it gets there: a slot must not lie idle meanwhile.

    An endpoint that has nothing of ours always has: whatever was learned of it, it is tried again.
    """
    speed = load.speed
    coming = 1.0 + FEEDBACK / max(speed.seconds, 0.001)  # short requests end while the next is on its way
    return not load.inflight or load.inflight + speed.foreign + 1.0 <= speed.slots * coming


def free(view: View) -> list[bool]:
    """For each candidate whether it has room. Most have no limit yet, or nothing to do: that is seen without a call."""
    return [not load.inflight or load.speed.slots == inf or has_room(load) for load in view.loads]


def allowed(view: View, places: Sequence[bool]) -> list[int]:
    """The candidates with room, and those without where the first token is still expected sooner than on any of them.

    Nothing while none has room: then waiting in the gateway keeps the choice open.
    """
    best = [i for i, has in enumerate(places) if has]
    if not best or len(best) == len(places):
        return best
    predicted = ttft.predict(view)
    least = min(predicted[i] for i in best)
    return [i for i, has in enumerate(places) if has or predicted[i] < least]


def least(view: View, candidates: Sequence[int]) -> tuple[float, bool]:
    """Seconds to the first token that the best of them promises, and whether it has nothing to do but this."""
    predicted = ttft.predict(view)
    best = min(candidates, key=predicted.__getitem__)
    return predicted[best], not view.loads[best].inflight


def after_slot(view: View) -> float:
    """Seconds from a free slot to the first token, on the best candidate."""
    return min(a - b for a, b in zip(ttft.predict(view), ttft.drain(view), strict=True))
