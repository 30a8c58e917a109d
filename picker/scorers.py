"""Filters, scorers and pickers: small functions over parallel lists, under the names that llm-d gives them.

A scorer gives each candidate a figure in [0, 1], 1 for the best. An endpoint whose load is unknown (never scraped, scraped too
long ago, or failing) gets the middle, UNKNOWN: never the score of an idle one. Formulas: llm-d router 0.10, docs of each plugin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from xxhash import xxh3_64_intdigest

from picker.load import STALE_ERRORS, Load
from picker.request import InferenceRequest
from xds_server.model.graph import Endpoint
from xds_server.model.objects import LabelSelector

UNKNOWN = 0.5
STALE_AFTER = 10.0  # seconds without a scrape: idle endpoints are scraped every 4 s, and may miss one
NO_LOAD = Load()
ROLE_LABEL = "llm-d.ai/role"
_MAX_LORAS = attrgetter("max_loras")


def known(load: Load, now: float) -> bool:
    """Whether the scraped figures can be believed. Our own in-flight count always can."""
    return now - load.scraped <= STALE_AFTER and load.errors < STALE_ERRORS


def waiting(load: Load) -> float:
    """Requests that wait in the server's queue now, as far as we know."""
    return load.queue


def running(load: Load) -> float:
    """Requests that the server runs now, such that running and waiting add up to what it was given."""
    total = load.running + load.waiting + load.inflight - load.inflight_at_scrape
    return max(0.0, total - waiting(load))


@dataclass(slots=True)
class View:
    """What filters and scorers see of one decision: lists with one entry per candidate."""

    request: InferenceRequest
    model: str  # as the server will be asked: names the LoRA adapter
    endpoints: Sequence[Endpoint]
    names: Sequence[str]  # "ip:port" of each
    loads: Sequence[Load]  # NO_LOAD for an endpoint that nothing is known of
    matched: Sequence[int]  # tokens of the prompt that the endpoint has cached
    cacheable: int  # tokens of the prompt that could be: those of its whole blocks
    now: float
    peer: Endpoint | None = None  # that another stage of this request has been given: decode, where prefill is picked
    id: str = ""  # of the decision: the only source of chance
    lacking: Sequence[str] = ()  # endpoints that are no candidates: they are known not to have the model
    predicted: list[float] | None = field(
        default=None, init=False
    )  # seconds, once ttft.predict was asked; not to be changed

    @property
    def known(self) -> list[bool]:
        """For each candidate whether its scraped figures can be believed."""
        return [known(load, self.now) for load in self.loads]

    def only(self, kept: Sequence[int]) -> "View":
        """The same with only these candidates."""
        if len(kept) == len(self.names):
            return self
        found = View(
            self.request,
            self.model,
            [self.endpoints[i] for i in kept],
            [self.names[i] for i in kept],
            [self.loads[i] for i in kept],
            [self.matched[i] for i in kept],
            self.cacheable,
            self.now,
            self.peer,
            self.id,
            self.lacking,
        )
        if self.predicted is not None:
            found.predicted = [self.predicted[i] for i in kept]
        return found


Filter = Callable[[View], list[int]]  # the indices to keep
Scorer = Callable[[View], list[float]]
Picker = Callable[[View, list[float], str], list[int]]  # (candidates, total scores, request id) -> indices, best first


# --- filters ----------------------------------------------------------------------------------------------------------


def label_selector_filter(selector: LabelSelector) -> Filter:
    def keep(view: View) -> list[int]:
        return [i for i, endpoint in enumerate(view.endpoints) if selector.matches(dict(endpoint.labels))]

    return keep


def role_filter(roles: frozenset[str], unlabelled: bool) -> Filter:
    """llm-d's decode-filter and its kin: pods by the label llm-d.ai/role."""

    def keep(view: View) -> list[int]:
        found = (dict(endpoint.labels).get(ROLE_LABEL, "") for endpoint in view.endpoints)
        return [i for i, role in enumerate(found) if role in roles or (unlabelled and not role)]

    return keep


def lora_filter(view: View) -> list[int]:
    """A LoRA adapter is served where it is active or where there is room to load it.

    A server names only the adapters in use, so a model that no server names is either the base model or an adapter that is
    loaded nowhere: then, and where no server has room, everybody is a candidate (the server swaps adapters by itself).
    """
    loads, model = view.loads, view.model
    everybody = range(len(loads))
    if not model or not any(map(_MAX_LORAS, loads)):
        return list(everybody)
    if not any(load.max_loras and model in load.loras | load.loras_waiting for load in loads):
        return list(everybody)
    return [i for i in everybody if known(loads[i], view.now) and _adapter(loads[i], model) > 0] or list(everybody)


# --- scorers ----------------------------------------------------------------------------------------------------------


def _least(values: Sequence[float], use: Sequence[bool]) -> list[float]:
    """The least gets 1, the most 0, between them linear; all equal: 1."""
    seen = [value for value, used in zip(values, use, strict=True) if used]
    if not seen:
        return [UNKNOWN] * len(values)
    low, high = min(seen), max(seen)
    if low == high:
        return [1.0 if used else UNKNOWN for used in use]
    width = high - low
    return [(high - value) / width if used else UNKNOWN for value, used in zip(values, use, strict=True)]


def queue_scorer(view: View) -> list[float]:
    return _least([waiting(load) for load in view.loads], view.known)


def running_requests_size_scorer(view: View) -> list[float]:
    return _least([running(load) for load in view.loads], view.known)


def kv_cache_utilization_scorer(view: View) -> list[float]:
    return [
        (1.0 - load.kv_usage if load.kv_usage < 1.0 else 0.0) if ok else UNKNOWN
        for load, ok in zip(view.loads, view.known, strict=True)
    ]


def prefix_cache_scorer(length_weight: float = 0.0, scale: float = 8192.0) -> Scorer:
    """length_weight * min(1, matched tokens / scale)^2 + (1 - length_weight) * matched share of the prompt."""

    def score(view: View) -> list[float]:
        whole = view.cacheable
        if not whole:
            return [0.0] * len(view.names)
        if not length_weight:
            return [found / whole for found in view.matched]
        share = 1.0 - length_weight
        return [length_weight * min(1.0, found / scale) ** 2 + share * found / whole for found in view.matched]

    return score


def active_request_scorer(idle_threshold: int = 0, max_busy_score: float = 1.0) -> Scorer:
    """By our own in-flight count, which no scrape delays: 1 up to the threshold, then less the nearer to the busiest."""

    def score(view: View) -> list[float]:
        counts = [load.inflight for load in view.loads]
        most = max(counts)
        return [1.0 if n <= idle_threshold else max_busy_score * (most - n) / most for n in counts]

    return score


def _adapter(load: Load, model: str) -> float:
    if model in load.loras:
        return 1.0
    if len(load.loras) + len(load.loras_waiting) < load.max_loras:
        return 0.8
    return 0.6 if model in load.loras_waiting else 0.0


def lora_affinity_scorer(view: View) -> list[float]:
    """The adapter is active 1, there is a spare slot 0.8, it waits to be loaded 0.6, else 0; no adapters at all: all equal."""
    model = view.model
    return [
        (_adapter(load, model) if load.max_loras else 0.0) if ok else UNKNOWN
        for load, ok in zip(view.loads, view.known, strict=True)
    ]


def load_aware_scorer(threshold: float = 128.0) -> Scorer:
    """No queue 0.5; the longer the less, 0 from `threshold` on. An unknown endpoint counts as half full."""

    def score(view: View) -> list[float]:
        return [
            0.5 * max(0.0, 1.0 - waiting(load) / threshold) if ok else UNKNOWN / 2
            for load, ok in zip(view.loads, view.known, strict=True)
        ]

    return score


def token_load_scorer(threshold: float = 4194304.0) -> Scorer:
    """1 - tokens / threshold, of uncached prompt tokens in flight, and of this prompt those that are not cached there."""

    def score(view: View) -> list[float]:
        tokens = view.request.prompt_tokens
        return [
            min(1.0, max(0.0, 1.0 - (load.inflight_tokens + max(0, tokens - found)) / threshold))
            for load, found in zip(view.loads, view.matched, strict=True)
        ]

    return score


# --- pickers: all of them deterministic, given the request id ---------------------------------------------------------


def _hashes(view: View, request_id: str) -> list[int]:
    """A number per candidate that depends on nothing but the request and the endpoint: the order of endpoints is no matter."""
    seed = xxh3_64_intdigest(request_id.encode())
    return [xxh3_64_intdigest(name.encode(), seed) for name in view.names]


def _order(view: View, some: Sequence[int], scores: Sequence[float], request_id: str) -> list[int]:
    """Some of the candidates, the best first. Ties break on the request and the endpoint."""
    if len({scores[i] for i in some}) == len(some):
        return sorted(some, key=scores.__getitem__, reverse=True)
    seed, names = xxh3_64_intdigest(request_id.encode()), view.names
    luck = [xxh3_64_intdigest(names[i].encode(), seed) for i in some]
    found = [some[at] for at in sorted(range(len(some)), key=luck.__getitem__)]
    found.sort(key=scores.__getitem__, reverse=True)  # which leaves equals as they are
    return found


def max_score_picker(count: int = 3, good: float = 0.0) -> Picker:
    """The best first, then fallbacks: other nodes and zones before the same ones, where they are known.

    `good`: the share of the best score from which on an endpoint is good enough to be preferred for its place.
    """

    def pick(view: View, scores: list[float], request_id: str) -> list[int]:
        top = max(scores)
        least = top if count == 1 else good * top
        enough = [i for i, score in enumerate(scores) if score >= least] if least else range(len(scores))
        found = _spread(view, _order(view, enough, scores, request_id), count)
        if len(found) < min(count, len(scores)):
            rest = [i for i in range(len(scores)) if i not in found]
            found += _order(view, rest, scores, request_id)[: count - len(found)]
        return found

    return pick


def random_picker(count: int = 3) -> Picker:
    def pick(view: View, _scores: list[float], request_id: str) -> list[int]:
        luck = _hashes(view, request_id)
        return sorted(range(len(luck)), key=luck.__getitem__)[:count]

    return pick


def weighted_random_picker(count: int = 3) -> Picker:
    """A-Res (Efraimidis and Spirakis): the largest u^(1/score), u uniform in (0, 1)."""

    def pick(view: View, scores: list[float], request_id: str) -> list[int]:
        luck = [(number + 1) / (2**64 + 1) for number in _hashes(view, request_id)]
        keys = [u ** (1.0 / score) if score > 0 else u - 1.0 for u, score in zip(luck, scores, strict=True)]
        return sorted(range(len(keys)), key=lambda i: (-keys[i], -luck[i]))[:count]

    return pick


def _spread(view: View, order: list[int], count: int) -> list[int]:
    """The first of `order`, then `count - 1` more: each time the first that shares the fewest failure domains."""
    chosen, rest = order[:1], order[1:]
    nodes = {view.endpoints[order[0]].node} - {""}
    zones = {view.endpoints[order[0]].zone} - {""}
    while rest and len(chosen) < count:
        best, best_cost = 0, 4
        for position, i in enumerate(rest):
            endpoint = view.endpoints[i]
            cost = 2 * (endpoint.node in nodes) + (endpoint.zone in zones)  # the same node is the worst to share
            if cost < best_cost:
                best, best_cost = position, cost
                if not cost:
                    break
        i = rest.pop(best)
        chosen.append(i)
        nodes |= {view.endpoints[i].node} - {""}
        zones |= {view.endpoints[i].zone} - {""}
    return chosen
