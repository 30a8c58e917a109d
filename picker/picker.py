"""Picker: what is known of all pools, and the one call that turns a request into a decision.

It joins the stages (admission, candidates, prefixes, pick) and owns what is learned: nothing else in this package keeps state
between two requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from xxhash import xxh3_64_intdigest

from picker import flow, profile, schedule
from picker.errors import ConfigError, NoEndpoint
from picker.facts import Decision, Outcome, Refused
from picker.load import Load
from picker.prefix import BLOCK_TOKENS, PrefixIndex, hash_blocks
from picker.profile import Profile
from picker.request import InferenceRequest
from picker.scorers import NO_LOAD, View
from xds_server.model.graph import Endpoint, Objective, Pool
from xds_server.model.objects import InferenceModelRewrite, Problem

NO_OBJECTIVE = Objective("", 0)


class Signals(Protocol):
    """What the picker knows of the servers, and whom it tells where it sends requests."""

    def loads(self, pool: str) -> Mapping[str, Load]:
        """By "ip:port"; an endpoint that is absent is unknown."""

    def started(self, decision: Decision, now: float) -> None:
        """The request of this decision is on its way to `decision.endpoints[0]`."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a decision."""

    request: InferenceRequest
    pool: str  # "ns/name"; "" where the gateway did not say
    subset: tuple[str, ...] | None  # the gateway's hint: "ip:port" or "ip"; None for the whole pool
    id: str  # of the decision, and the only source of chance
    now: float  # monotonic seconds
    wall: float  # time.time()


@dataclass(frozen=True, slots=True)
class Denied:
    """The answer to a request that goes nowhere: what the client gets, and the fact that it is."""

    refused: Refused
    outcome: Outcome


class State:
    """One pool, its profile and what was learned about it."""

    __slots__ = ("_everybody", "config", "pool", "prefixes", "problem", "profile")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.config: Mapping[str, object] | None = None
        self.profile: Profile = profile.DEFAULT
        self.problem: Problem | None = None
        self.prefixes = PrefixIndex()
        self._everybody: tuple[list[Endpoint], list[str]] | None = (
            None  # the candidates without a hint, and their names
        )

    def candidates(self, subset: tuple[str, ...] | None) -> tuple[list[Endpoint], list[str]]:
        """The endpoints that may be chosen, and "ip:port" of each. Raises NoEndpoint."""
        if subset is None and self._everybody is not None:
            return self._everybody
        endpoints = schedule.candidates(self.pool.endpoints, subset)
        found = (endpoints, [str(endpoint) for endpoint in endpoints])
        if subset is None:
            self._everybody = found
        return found

    def update(self, pool: Pool) -> None:
        """Take the pool as it is now; a bad profile leaves the last good one in force and becomes `problem`."""
        self.pool, self._everybody = pool, None
        self.prefixes.retain({str(endpoint) for endpoint in pool.endpoints})
        if pool.config == self.config:
            return
        self.config, self.problem = pool.config, None
        try:
            self.profile = profile.DEFAULT if pool.config is None else profile.read(pool.config)
        except ConfigError as error:
            ref, source = pool.config_of or (pool.ref, "")
            message = f"{error.message}; the last good configuration stays in effect"
            self.problem = Problem(ref, error.field, "InvalidConfig", message, source)


def config_problems(pools: Iterable[Pool]) -> tuple[Problem, ...]:
    """What is wrong with the configurations of these pools, without serving them."""
    states = [State(pool) for pool in pools]
    for state in states:
        state.update(state.pool)
    return _problems(states)


def _problems(states: Iterable[State]) -> tuple[Problem, ...]:
    """Each once: pools may share a configuration."""
    return tuple(dict.fromkeys(state.problem for state in states if state.problem is not None))


class Picker:
    """All pools. `default_pool` ("ns/name") is for gateways that do not say which pool they ask for."""

    def __init__(self, signals: Signals, default_pool: str = "") -> None:
        self._signals = signals
        self._default = default_pool
        self._states: dict[str, State] = {}

    def update(self, pools: Mapping[str, Pool]) -> None:
        """The pools that exist now, by "ns/name". What was learned of pools and endpoints that stay is kept."""
        for gone in self._states.keys() - pools.keys():
            del self._states[gone]
        for name, pool in pools.items():
            state = self._states.get(name)
            if state is None:
                state = self._states[name] = State(pool)
            state.update(pool)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The profiles that could not be read."""
        return _problems(self._states.values())

    def profile(self, pool: str) -> Profile | None:
        """The profile in force, with its notes."""
        state = self._states.get(pool)
        return None if state is None else state.profile

    def saturation(self, pool: str, now: float) -> float | None:
        """0 is idle, 1 and above is full; None for a pool that does not exist."""
        state = self._states.get(pool)
        if state is None:
            return None
        loads = self._signals.loads(pool)
        found = [loads.get(str(endpoint), NO_LOAD) for endpoint in state.pool.endpoints]
        return flow.saturation(found, now, state.profile.thresholds)

    def decide(self, ask: Ask) -> Decision | Denied:
        """One request in, one decision or refusal out."""
        request = ask.request
        state = self._find(ask.pool)
        if state is None:
            message = f"there is no pool {ask.pool!r}" if ask.pool else "no pool is named, and there is not exactly one"
            return denied(ask, Refused(503, "no_endpoints", message))
        pool = state.pool
        objective = objective_of(pool.objectives, request) or NO_OBJECTIVE
        model = target_model(pool.rewrites, request.model, request.session_id or ask.id)
        loads = self._signals.loads(pool.name)
        try:
            endpoints, names = state.candidates(ask.subset)
            found = [loads.get(name, NO_LOAD) for name in names]
            if objective.priority < 0:
                shed = flow.admit(objective.priority, flow.saturation(found, ask.now, state.profile.thresholds))
                if shed is not None:
                    return denied(ask, shed, pool.name, objective, model)
            hashes = hash_blocks(request.prompt, model, request.cache_salt)
            matches = state.prefixes.match(hashes)
            matched = [matches.get(name, 0) for name in names] if matches else [0] * len(names)
            view = View(request, model, endpoints, names, found, matched, len(hashes), ask.now)
            pick = schedule.pick(view, state.profile, ask.id)
        except NoEndpoint as error:
            return denied(ask, Refused(503, "no_endpoints", str(error)), pool.name, objective, model)
        best = pick.endpoints[0]
        if hashes:
            told = loads.get(best, NO_LOAD)
            state.prefixes.resize(best, told.blocks * told.block_tokens)
            state.prefixes.record(best, hashes)
            for worker in pick.beside:
                state.prefixes.record(worker, hashes)
        decision = Decision(
            id=ask.id,
            time=ask.wall,
            pool=pool.name,
            model=request.model,
            target_model=model,
            objective=objective.name,
            priority=objective.priority,
            fairness_id=request.fairness_id,
            streaming=request.streaming,
            endpoints=pick.endpoints,
            candidates=pick.candidates,
            prompt_tokens=request.prompt_tokens,
            matched_tokens=pick.matched * BLOCK_TOKENS,
            body_bytes=request.body_bytes,
            seconds=0.0,  # the shell has the clock: see server.py
            request_id=request.request_id,
            headers=pick.headers,
        )
        self._signals.started(decision, ask.now)
        return decision

    def _find(self, pool: str) -> State | None:
        if not pool:
            pool = self._default
        if not pool and len(self._states) == 1:
            return next(iter(self._states.values()))
        return self._states.get(pool)


def denied(ask: Ask, refused: Refused, pool: str = "", objective: Objective = NO_OBJECTIVE, target: str = "") -> Denied:
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
        request_bytes=request.body_bytes,
        attempts=0,
        user_agent=request.user_agent,
        path=request.path,
    )
    return Denied(refused, outcome)


def objective_of(objectives: Sequence[Objective], request: InferenceRequest) -> Objective | None:
    """The one that the header names, else the first that lists the model. None means priority 0.

    A name that nobody knows counts as none: it must not lift a model's requests out of an objective of negative priority.
    """
    named = next((one for one in objectives if one.name == request.objective), None) if request.objective else None
    return named or next((one for one in objectives if request.model and request.model in one.models), None)


def target_model(rewrites: Sequence[InferenceModelRewrite], model: str, key: str) -> str:
    """The model that the server is asked for. Exact rules before catch-all ones, then the oldest object, then the first rule.

    The choice between weighted targets is a hash of `key`, a session or a request: a conversation keeps its model.
    """
    if not model:
        return model
    rules = [rule for rewrite in rewrites for rule in rewrite.rules if rule.targets]
    rule = next((one for one in rules if model in one.models), None) or next(
        (one for one in rules if not one.models), None
    )
    if rule is None:
        return model
    weights = [weight for _, weight in rule.targets]
    if not sum(weights):  # as llm-d: none has a weight, so all have the same
        weights = [1] * len(weights)
    point = xxh3_64_intdigest(f"{model}\0{key}".encode()) % sum(weights)
    for (target, _), weight in zip(rule.targets, weights, strict=True):
        point -= weight
        if point < 0:
            return target
    raise AssertionError("a point below the sum of the weights lies in one of them")
