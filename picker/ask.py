"""What the picker is asked, what it answers, and what the pool's objects (InferenceObjective, InferenceModelRewrite) say of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from picker.facts import Decision, Outcome, Refused
from picker.request import InferenceRequest
from picker.trace import NO_TRACE, Trace
from xds_server.model.graph import Objective
from xds_server.model.objects import InferenceModelRewrite

NO_OBJECTIVE = Objective("", 0)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a decision."""

    request: InferenceRequest
    pool: str  # "ns/name"; "" where the gateway did not say
    subset: tuple[str, ...] | None  # the gateway's hint: "ip:port" or "ip"; None for the whole pool
    id: str  # of the decision, and the only source of chance
    now: float  # monotonic seconds
    wall: float  # time.time()
    trace: Trace = NO_TRACE


@dataclass(frozen=True, slots=True)
class Denied:
    """The answer to a request that goes nowhere: what the client gets, and the fact that it is."""

    refused: Refused
    outcome: Outcome
    explained: bool = False  # its client asked for the record of it, and may: it is told the id


@dataclass(frozen=True, slots=True)
class Waiting:
    """No endpoint has room: `poll` gives the answer, at the latest at `until` (monotonic seconds)."""

    id: str
    until: float


Answer = Decision | Denied


def denied(
    ask: Ask,
    refused: Refused,
    pool: str = "",
    objective: Objective = NO_OBJECTIVE,
    target: str = "",
    queue: float | None = None,
) -> Denied:
    """A refusal and its Outcome; `pool` is the one that was found, by default the one that was asked for."""
    request = ask.request
    outcome = Outcome(
        id=ask.id,
        time=ask.wall,
        pool=pool or ask.pool,
        model=request.model,
        target_model=target or request.model,
        objective=objective.name,
        priority=objective.priority,
        fairness_id=request.fairness_id,
        streaming=request.streaming,
        status=refused.status,
        reason=refused.reason,
        endpoint="",
        queue=queue or None,
        request_bytes=request.body_bytes,
        attempts=0,
        trace=ask.trace,
        user_agent=request.user_agent,
        path=request.path,
        request_id=request.request_id,
        method=request.headers.get(":method", ""),
    )
    return Denied(refused, outcome)


def objective_of(objectives: Sequence[Objective], request: InferenceRequest) -> Objective | None:
    """The one that the header names, else the first that lists the model. None means priority 0.

    A name that nobody knows counts as none: it must not lift a model's requests out of an objective of negative priority.
    """
    named = next((one for one in objectives if one.name == request.objective), None) if request.objective else None
    return named or next((one for one in objectives if request.model and request.model in one.models), None)


def target_model(rewrites: Sequence[InferenceModelRewrite], model: str, key: str, named: str = "") -> str:
    """The model that the server is asked for. Exact rules before catch-all ones, then the oldest object, then the first rule;
    then the one `named` by header, as in llm-d.

    The choice between weighted targets is a hash of `key`, a session or a request: a conversation keeps its model.
    """
    if not model:
        return model
    rules = [rule for rewrite in rewrites for rule in rewrite.rules if rule.targets]
    rule = next((one for one in rules if model in one.models), None) or next(
        (one for one in rules if not one.models), None
    )
    if rule is None:
        return named or model
    weights = [weight for _, weight in rule.targets]
    if not sum(weights):  # as llm-d: none has a weight, so all have the same
        weights = [1] * len(weights)
    point = xxh3_64_intdigest(f"{model}\0{key}".encode()) % sum(weights)
    for (target, _), weight in zip(rule.targets, weights, strict=True):
        point -= weight
        if point < 0:
            return target
    raise AssertionError("a point below the sum of the weights lies in one of them")
