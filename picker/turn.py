"""Turn: where one request goes now, or why it does not yet. A pure function of what is known, so a record of it can be replayed.

The Picker asks when a request comes, and again when one that waits may go; `penstock replay` asks with what was recorded.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from picker import ranks, room, schedule, spare
from picker.errors import NoEndpoint
from picker.scorers import View
from picker.spare import Peaks
from picker.stage import Pick, Profile, Run

# wait: not now; full: nobody else has a place either; late: its objective cannot be met, nor could it be later.
Verdict = Literal["wait", "full", "late"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a choice depends on beside the View and the Profile."""

    id: str  # of the decision: the only source of chance
    priority: int = 0
    whole: bool = True  # the whole pool is open to it: the gateway gave no subset, and all may have its model
    limited: bool = True  # flow control is on: nobody is sent where there is no room
    crowded: bool = False  # others wait
    stands: bool = False  # and have for so long that it is no burst: see queues.py
    others: Peaks | None = None  # what it leaves to requests of other priorities: see spare.py
    left: float | None = None  # seconds until its first token is late; None: it has no objective


def choose(view: View, profile: Profile, turn: Turn, run: Run = schedule.run) -> Pick | Verdict:
    """The pick among the candidates with room, or why there is none. Raises NoEndpoint."""
    view = schedule.rested(view, profile)  # one that rests has no room either
    urgent = turn.priority >= 0
    found, probes = places(view, turn)
    if not any(found):
        return "full" if turn.whole and urgent and not probes else "wait"
    if turn.left is not None and turn.limited and not probes:
        candidates = room.in_time(view, found, turn.left)
    else:
        candidates = room.allowed(view, found, queue=_queue(turn))
    if candidates is None:
        return "late"
    return (candidates and _among(view, candidates, profile, turn.id, run)) or "wait"


def places(view: View, turn: Turn) -> tuple[list[bool], bool]:
    """For each candidate whether it has room for this request; and whether the request is one that finds out if there is more."""
    if not turn.limited:
        return [True] * len(view.names), False
    if turn.others is not None:
        return spare.places(view, turn.others, crowded=turn.crowded), False
    found = room.free(view, crowded=turn.crowded)
    if turn.priority >= 0 and not any(found) and room.curious(turn.id):
        return room.free(view, crowded=turn.crowded, probe=True), True
    return found, False


def _queue(turn: Turn) -> float:
    """How many may wait in a server's own queue, where that is better than any place that is free."""
    if turn.priority < 0:
        return 0
    return room.OWN_QUEUE if turn.stands else inf


def _among(view: View, allowed: list[int], profile: Profile, id_: str, run: Run) -> Pick | None:
    """The pick among some candidates, with fallbacks from among all of them; None where no filter lets one of the some pass."""
    if len(allowed) == len(view.names):
        return schedule.pick(view, profile, id_, run)
    try:
        found = schedule.pick(view.only(allowed), profile, id_, run)
    except NoEndpoint:
        return None
    handler = profile.handler
    every = run(view, profile, id_) if handler is None else handler(view, id_, run)
    names = [name for name in ranks.attempts((*found.endpoints, *every.endpoints)) if name in view.names]
    return replace(found, endpoints=tuple(names[: len(every.endpoints)]), candidates=every.candidates)
