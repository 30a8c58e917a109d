"""Picker: what is known of all pools, and the one call that turns a request into a decision.

It joins the stages (admission, candidates, prefixes, pick) and owns what is learned: nothing else in this package keeps state
between two requests. A request for which no endpoint has room waits, and is picked for when one has: `poll`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from types import MappingProxyType
from typing import Literal, Protocol

from picker import demand, flow, limits, ranks, room, schedule
from picker.ask import NO_OBJECTIVE, Answer, Ask, Denied, Waiting, denied, objective_of, target_model
from picker.errors import NoEndpoint
from picker.facts import Decision, Reason, Refused
from picker.flow import Verdict
from picker.kv_source import KvSource
from picker.load import Load
from picker.plugins.flow_control import Thresholds
from picker.precise import Precise, Unlinked
from picker.prefix import hash_blocks, tokens_in
from picker.profile import Own
from picker.queues import Item
from picker.record import Held, Recording, Records
from picker.scorers import NO_LOAD, View
from picker.served import Served
from picker.stage import Pick, Profile
from picker.state import State, config_problems, problems_of
from picker.turn import Turn, choose
from xds_server.model.graph import Objective, Pool
from xds_server.model.objects import Problem


class Signals(Protocol):
    """What the picker knows of the servers, and whom it tells where it sends requests."""

    def loads(self, pool: str) -> Mapping[str, Load]:
        """By "ip:port"; an endpoint that is absent is unknown."""

    def started(self, decision: Decision, now: float) -> None:
        """The request of this decision is on its way to `decision.endpoints[0]`."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request and what the pool's objects say of it."""

    ask: Ask
    state: State
    objective: Objective
    model: str  # as the server will be asked
    hashes: Sequence[int]  # of the prompt's blocks
    ttft: float | None  # seconds: its objective
    recording: Recording | None = None  # where somebody wants to know how it was decided

    @property
    def explained(self) -> bool:
        """Whether its client is told the id of the record."""
        return self.recording is not None and self.recording.why == "asked"


class Picker:
    """All pools. `default_pool` ("ns/name") is for gateways that do not say which pool they ask for."""

    def __init__(
        self,
        signals: Signals,
        default_pool: str = "",
        own: Own | None = None,
        records: Records | None = None,
        served: Served | None = None,
    ) -> None:
        """`own` finds the user's own scorers; `records` says which decisions are recorded, and takes them; `served` knows which
        models servers have.
        """
        self._signals = signals
        self._served = served or Served()
        self._records = records
        self._own = own
        self._default = default_pool
        self._states: dict[str, State] = {}
        self._waiting: dict[str, State] = {}  # by the id of the Ask
        self._answers: dict[str, Answer] = {}  # of those that waited, until `poll`
        self.on_starved: Callable[[str], None] = lambda _: None  # a request waits for this pool, which has no endpoint
        self.on_unlinked: Callable[[Unlinked], None] = lambda _: None  # called with prompts to ask a tokenizer for

    def update(self, pools: Mapping[str, Pool]) -> None:
        """The pools that exist now, by "ns/name". What was learned of pools and endpoints that stay is kept."""
        for name in self._states.keys() - pools.keys():
            gone = self._states.pop(name)
            for item in gone.flow.queues:
                del self._waiting[item.id]
                refused = Refused(503, "no_endpoints", f"there is no pool {name!r}")
                self._answers[item.id] = self._denied(item.ask, refused, item.since)
        for name, pool in pools.items():
            state = self._states.get(name)
            if state is None:
                state = self._states[name] = State(pool, self._own)
            state.update(pool)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The profiles that could not be read, and the scorers of users that fail."""
        return problems_of(self._states.values())

    def profile(self, pool: str) -> Profile | None:
        """The profile in force, with its notes."""
        state = self._states.get(pool)
        return None if state is None else state.profile

    def precise(self, pool: str) -> tuple[KvSource, Precise] | None:
        """Where its servers publish what they have cached, and what is known of that; None where nobody listens."""
        return None if (state := self._states.get(pool)) is None else state.published

    def saturation(self, pool: str, now: float) -> float | None:
        """0 is idle, 1 and above is full; None for a pool that does not exist."""
        state = self._states.get(pool)
        return None if state is None else flow.saturation(*self._filling(state, now))

    def causes(self, pool: str, now: float) -> Mapping[str, float]:
        """What fills the pool, see flow.causes; nothing for a pool that does not exist."""
        state = self._states.get(pool)
        return {} if state is None else flow.causes(*self._filling(state, now))

    def _filling(self, state: State, now: float) -> tuple[list[Load], float, Thresholds, int]:
        loads = self._signals.loads(state.pool.name)
        found = [loads.get(str(endpoint), NO_LOAD) for endpoint in state.pool.endpoints]
        return found, now, state.profile.thresholds, len(state.flow)

    def demand(self, pool: str, now: float, labels: Mapping[str, str] = MappingProxyType({})) -> demand.Demand | None:
        """The work that there is, for autoscalers, of the pods with these labels; None for a pool that does not exist."""
        state = self._states.get(pool)
        return None if state is None else demand.measure(state, self._signals.loads(pool), now, labels)

    def decide(self, ask: Ask) -> Answer | Waiting:
        """One request in; one decision or refusal out, or the promise of one."""
        state = self._find(ask.pool)
        if state is None:
            message = f"there is no pool {ask.pool!r}" if ask.pool else "no pool is named, and there is not exactly one"
            return denied(ask, Refused(503, "no_endpoints", message))
        wish, now = self._wish(ask, state), ask.now
        if wish.objective.priority < 0 and (shed := self._shed(wish)) is not None:
            return self._denied(wish, shed, now)
        held: Held = "behind"
        if not len(state.flow):  # nobody is before it
            found = self._serve(wish, now)
            if not isinstance(found, str):
                return found
            held = found
        if wish.recording is not None:
            wish.recording.held = held
        return self._wait(wish)

    def poll(self, now: float) -> list[tuple[str, Answer]]:
        """The answers, by the id of the Ask, that those who wait were given since the last call or can be given now.

        To be called when something has changed that may let a request go: one ended, a scrape came, endpoints changed; at
        `next_deadline`; and when `answers` is true.
        """
        for state in self._states.values():
            if len(state.flow):
                self._settle(state.flow.expired(now, endpoints=bool(state.pool.endpoints)), now)
                self._dispatch(state, now)
        found, self._answers = self._answers, {}
        return list(found.items())

    @property
    def waits(self) -> bool:
        """Whether `poll` may find anything to do."""
        return bool(self._waiting or self._answers)

    @property
    def answers(self) -> bool:
        """Whether `poll` has answers to give whatever the time."""
        return bool(self._answers)

    def cancel(self, id_: str, now: float) -> bool:
        """The client of a waiting request has left. False where it does not wait (any more): then its answer is on its way."""
        state = self._waiting.pop(id_, None)
        return state is not None and state.flow.cancel(id_, now) is not None

    def next_deadline(self) -> float | None:
        """When `poll` must be called although nothing happens."""
        found = min((state.flow.deadline for state in self._states.values()), default=inf)
        return None if found == inf else found

    def close(self, now: float) -> None:
        """The gateway ends: whoever waits is answered, through `poll`."""
        for state in self._states.values():
            self._settle(state.flow.clear("shutting_down", now), now)

    def queued(self, pool: str) -> Mapping[int, tuple[int, int]]:
        """(requests, bytes) that wait, by priority."""
        state = self._states.get(pool)
        return state.flow.queues.bands() if state else {}

    def _wish(self, ask: Ask, state: State) -> Wish:
        request, pool = ask.request, state.pool
        why = None if self._records is None else self._records.wants(ask)
        model = target_model(pool.rewrites, request.model, request.session_id or ask.id, request.rewrite)
        return Wish(
            ask,
            state,
            objective_of(pool.objectives, request) or NO_OBJECTIVE,
            model,
            hash_blocks(request.prompt, model, request.cache_salt),
            limits.objective_of(request.headers, state.flow.limits.ttft_objective),
            None if why is None else Recording(why, request),
        )

    def _shed(self, wish: Wish) -> Refused | None:
        """Negative priority is not let in, and does not wait, where there is too much to do for the others."""
        state = wish.state
        if not state.pool.endpoints:
            return None  # nobody is served before it either
        filling = self._filling(state, wish.ask.now)
        full, shed = flow.saturation(*filling), state.profile.shed
        if shed is not None and shed(filling[0], wish.ask.now, wish.ask.id):
            full = max(full, 1.0)
        return flow.admit(wish.objective.priority, full)

    def _wait(self, wish: Wish) -> Answer | Waiting:
        """Join those that wait, and have a turn at once if it comes to that."""
        ask, state, now = wish.ask, wish.state, wish.ask.now
        item = self._item(wish)
        serving = bool(state.pool.endpoints)
        if wish.ttft is not None and serving:
            try:
                view = schedule.rested(self._view(wish, now), state.profile)
            except NoEndpoint as error:  # its subset names nobody
                return self._denied(wish, Refused(503, "no_endpoints", str(error)), now)
            latest = now + wish.ttft - room.after_slot(view)
            if latest < item.until:
                item.until, item.why = latest, "slo_unreachable"
        late = item.why == "slo_unreachable" and now + state.flow.delay(item, now) >= item.until
        if late or item.until <= now:
            reason: Reason = item.why if serving else "no_endpoints"
            return self._denied(wish, state.flow.refusal(reason, now), now)
        others = bool(len(state.flow))
        self._waiting[ask.id] = state
        self._settle(state.flow.join(item, now), now)
        if others and ask.id in self._waiting:
            self._dispatch(state, now)
        found = self._answers.pop(ask.id, None)
        if found is None and not serving:
            self.on_starved(state.pool.name)
        return Waiting(ask.id, item.until) if found is None else found

    def _item(self, wish: Wish) -> Item:
        ask, state = wish.ask, wish.state
        request, bounds = ask.request, state.flow.limits
        limit = bounds.ttl if state.pool.endpoints else bounds.no_endpoint_ttl
        if wish.objective.priority < 0 and state.pool.endpoints:
            limit = min(limit, bounds.negative_ttl)
        item = state.flow.item(
            ask.id,
            wish.objective.priority,
            request.fairness_id,
            tokens=request.prompt_tokens,
            size=request.body_bytes,
            now=ask.now,
            ttl=limits.ttl_of(request.headers, limit),
            objective=wish.ttft,
        )
        item.ask = wish
        return item

    def _dispatch(self, state: State, now: float) -> None:
        """Give turns to those that wait, as long as there is room."""

        def full() -> bool:  # by far the most frequent case, and this is by far the cheapest way to know
            loads = self._signals.loads(state.pool.name).values() if state.flow.limits.enabled else ()
            return bool(loads) and not room.anywhere(loads)

        def serve(item: Item) -> Verdict:
            found = self._serve(item.ask, now)
            if isinstance(found, str):
                return found
            del self._waiting[item.id]
            self._answers[item.id] = found
            return "sent" if isinstance(found, Decision) else "refused"

        state.flow.dispatch(serve, now, full)

    def _settle(self, found: Iterable[tuple[Item, Refused]], now: float) -> None:
        for item, refused in found:
            del self._waiting[item.id]
            self._answers[item.id] = self._denied(item.ask, refused, now)

    def _serve(self, wish: Wish, now: float) -> Answer | Literal["wait", "full"]:
        """The decision with what is known now, or why there is none yet."""
        ask, state = wish.ask, wish.state
        pool, bounds = state.pool, state.flow.limits
        if not pool.endpoints and ask.subset is None and bounds.enabled and not pool.backend.failover:
            return "full"  # of a pool with a failover nobody waits: it is asked next
        view = None
        try:
            view = self._view(wish, now)
            turn = Turn(
                ask.id,
                wish.objective.priority,
                whole=ask.subset is None and not view.lacking,
                limited=bounds.enabled,
                crowded=len(state.flow) > 0,
                stands=state.flow.queues.stands(wish.objective.priority, now),
                others=state.flow.others.left(wish.objective.priority, view.names, now) if bounds.enabled else None,
                left=None if wish.ttft is None else wish.ttft - (now - ask.now),
            )
            found = (choose if wish.recording is None else wish.recording.choose)(view, state.profile, turn)
        except NoEndpoint as error:
            return self._denied(wish, Refused(503, "no_endpoints", str(error)), now, view)
        if found == "late":
            return self._denied(wish, state.flow.refusal("slo_unreachable", now), now, view)
        if isinstance(found, str):
            return found
        self._record(wish, found, now, view)
        return self._decided(wish, found, now)

    def _denied(self, wish: Wish, refused: Refused, now: float, view: View | None = None) -> Denied:
        self._record(wish, refused, now, view)
        found = denied(wish.ask, refused, wish.state.pool.name, wish.objective, wish.model, now - wish.ask.now)
        return replace(found, explained=True) if wish.explained else found

    def _record(self, wish: Wish, answer: Pick | Refused, now: float, view: View | None) -> None:
        """What the answer depended on, where somebody wants to know. Without a `view`: what is known now."""
        recording, state = wish.recording, wish.state
        if recording is None or self._records is None:
            return
        if view is None:
            with suppress(NoEndpoint):
                view = self._view(wish, now)
        queued = len(state.flow) - (state.flow.queues.get(wish.ask.id) is not None)
        self._records.take(
            recording.record(
                wish.ask,
                answer,
                view=view,
                pool=state.pool.name,
                target_model=wish.model,
                priority=wish.objective.priority,
                config=state.in_force,
                now=now,
                queued=queued,
            )
        )

    def _view(self, wish: Wish, now: float) -> View:
        """What is known of the candidates. Raises NoEndpoint."""
        state = wish.state
        loads = self._signals.loads(state.pool.name)
        ask, model = wish.ask, wish.model
        endpoints, names, lacking = state.candidates(ask.subset, model, self._served, now)
        matched = state.matched(names, wish.hashes, now)
        found = [loads.get(name, NO_LOAD) for name in names]
        tokens = tokens_in(len(wish.hashes))
        return View(ask.request, model, endpoints, names, found, matched, tokens, now, None, ask.id, lacking)

    def _decided(self, wish: Wish, pick: Pick, now: float) -> Decision:
        ask, state, best = wish.ask, wish.state, pick.endpoints[0]
        request, waited = ask.request, now - ask.now
        decision = Decision(
            id=ask.id,
            time=ask.wall + waited,
            pool=state.pool.name,
            model=request.model,
            target_model=wish.model,
            objective=wish.objective.name,
            priority=wish.objective.priority,
            fairness_id=request.fairness_id,
            streaming=request.streaming,
            endpoints=pick.endpoints,
            candidates=pick.candidates,
            prompt_tokens=request.prompt_tokens,
            matched_tokens=pick.matched,
            body_bytes=request.body_bytes,
            seconds=waited,  # the shell has the clock, and adds what deciding took: see server.py
            request_id=request.request_id,
            headers=(*pick.headers, *ranks.headers(best)),
            queue=waited,
            explained=wish.explained,
            trace=ask.trace,
        )
        told = self._signals.loads(state.pool.name).get(best, NO_LOAD)
        if wish.hashes and (wanted := state.sent(decision, pick.beside, wish.hashes, told, now)):
            self.on_unlinked(Unlinked(state.pool.name, wish.model, request, wish.hashes, wanted))
        if wish.objective.priority >= 0:
            state.flow.others.sent(best, told, now)
        self._signals.started(decision, now)
        return decision

    def _find(self, pool: str) -> State | None:
        pool = pool or self._default
        if not pool and len(self._states) == 1:
            return next(iter(self._states.values()))
        return self._states.get(pool)


__all__ = ["Answer", "Ask", "Denied", "Picker", "Waiting", "config_problems", "denied", "objective_of", "target_model"]
