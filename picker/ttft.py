"""What is expected of each candidate: seconds until the first token, whether a slot is free, and until when none is.

Pure functions of a View: all that was learned is in its Loads (`Load.speed`, see latency.py), so equal views give equal answers.
"""

from xxhash import xxh3_64_intdigest

from picker.load import Load
from picker.scorers import View

_FAITHFUL = 0.05  # the share by which a session's own endpoint may be slower: never enough to pile up
_TIE = 0.0005  # seconds for each request in flight: what is else equal goes where less happens
_LEAST = 1e-4
_NOT_YET_LEARNED = 8.0  # requests that count as much as a utilisation of 100 %


def others(load: Load) -> float:
    """Requests on the endpoint now: ours, which no scrape delays, and on the average those of others."""
    return load.inflight + load.speed.foreign


def predict(view: View) -> list[float]:
    """Seconds from the decision to the first token, for every candidate. Worked out once for a View."""
    if view.predicted is not None:
        return view.predicted
    prompt, now, found, swaps = view.request.prompt_tokens, view.now, [], False
    for load, matched in zip(view.loads, view.matched, strict=True):  # Speed.prefill, without a call for each
        seconds, token, wait, trust, busy, special = load.outlook
        seconds += (prompt - (matched if matched < prompt else prompt) * trust) * token  # noqa: FURB136 -- a call
        if special or busy > now:
            seconds = _slowed(load, seconds, now)
            swaps = swaps or load.max_loras > 0
        found.append(seconds + wait)
    if swaps:
        found = [seconds + swap for seconds, swap in zip(found, _swaps(view), strict=True)]
    view.predicted = found
    return found


def _slowed(load: Load, seconds: float, now: float) -> float:
    """The same, with what is before it, and what has changed of late."""
    speed = load.speed
    if load.prefill[2] > now:
        seconds += load.ahead(now) * speed.ahead
    if speed.drift:
        seconds *= speed.drifted(now)
    if load.utilization:  # a busy accelerator is slow, until we know how slow it is
        seconds *= 1.0 + load.utilization * _NOT_YET_LEARNED / (_NOT_YET_LEARNED + speed.seen)
    return seconds


def free(view: View) -> list[bool]:
    """Whether the candidate would start on a request at once; True where its slots are not known (it never had a queue)."""
    return [others(load) + 1.0 <= load.speed.slots for load in view.loads]


def drain(view: View) -> list[float]:
    """Seconds until the candidate has a slot for one more request; 0 where one is free."""
    return [load.line[2] for load in view.loads]


def least_predicted_ttft(view: View) -> list[float]:
    """llm-d's name: predicted-latency-scorer. The least prediction gets 1, one that is twice as long 0.5.

    A session prefers, among what is about equal, the endpoint that a rendezvous hash of its id gives: a hint before the
    prefixes are known, which tells the client nothing.
    """
    costs = [seconds + _TIE * load.inflight for seconds, load in zip(predict(view), view.loads, strict=True)]
    if view.request.session_id and costs:
        seed = xxh3_64_intdigest(view.request.session_id.encode())
        costs[max(range(len(costs)), key=lambda i: xxh3_64_intdigest(view.names[i].encode(), seed))] *= 1.0 - _FAITHFUL
    least = max(min(costs, default=0.0), _LEAST)
    return [least / cost if cost > _LEAST else 1.0 for cost in costs]


def _swaps(view: View) -> list[float]:
    """Seconds to load the adapter where it is not, and where all slots are in use, until one is not.

    A model that no server has or names may be the base model: it is nowhere cold.
    """
    model, loads = view.model, view.loads
    has = [not load.max_loras or model in (load.adapters or load.loras | load.loras_waiting) for load in loads]
    if not any(there and load.max_loras for there, load in zip(has, loads, strict=True)):
        return [0.0] * len(loads)
    return [
        0.0 if there else load.speed.cold + (load.speed.seconds if load.adapters_busy >= load.max_loras else 0.0)
        for there, load in zip(has, loads, strict=True)
    ]
