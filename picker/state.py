"""State: one pool, its profile, its queue, and what was learned about it. Owned by the Picker."""

from collections.abc import Iterable, Mapping, Sequence

from picker import kv_source, limits, profile, schedule
from picker.errors import ConfigError
from picker.facts import Decision
from picker.flow import FlowControl
from picker.kv_source import KvSource
from picker.load import Load
from picker.precise import Precise, Wanted
from picker.prefix import TOKENS, PrefixIndex
from picker.profile import Own
from picker.record import Config, config_of
from picker.served import LONGEST, Served
from picker.stage import Profile
from xds_server.model.graph import Endpoint, Pool
from xds_server.model.objects import Problem

_MODELS = 1000  # whose candidates are kept: clients may name any

# Endpoints, "ip:port" of each; and of those that lack the model.
Candidates = tuple[list[Endpoint], list[str], tuple[str, ...]]


class State:
    """One pool, its profile and what was learned about it."""

    __slots__ = (
        "_candidates",
        "_edition",
        "config",
        "flow",
        "in_force",
        "own",
        "pool",
        "precise",
        "prefixes",
        "problem",
        "profile",
    )

    def __init__(self, pool: Pool, own: Own | None = None) -> None:
        self.pool = pool
        self.own = own
        self.flow = FlowControl()
        self.config: Mapping[str, object] | None = None
        self.profile: Profile = profile.DEFAULT
        self.in_force = Config()  # what the profile was read from
        self.problem: Problem | None = None
        self.prefixes = PrefixIndex()
        self.precise: Precise | None = None  # where the servers tell what they have cached
        self._candidates: dict[str, Candidates] = {}  # by model, without a hint
        self._edition = -1  # of what servers list, when these were found

    def candidates(self, subset: tuple[str, ...] | None, model: str, served: Served, now: float) -> Candidates:
        """The endpoints that may be chosen for a model. Raises NoEndpoint."""
        if len(model) > LONGEST or not self.pool.model_lists:
            model = ""  # no server lists it, or nobody cares
        edition = served.edition(now)  # what is too old is forgotten
        if subset is not None:
            return self._among(schedule.hinted(self.pool.endpoints, subset), model, served)
        if edition != self._edition or len(self._candidates) > _MODELS:
            self._candidates, self._edition = {}, edition
        found = self._candidates.get(model)
        if found is None:
            found = self._candidates[model] = self._among(schedule.hinted(self.pool.endpoints, None), model, served)
        return found

    @staticmethod
    def _among(endpoints: list[Endpoint], model: str, served: Served) -> Candidates:
        names = [str(endpoint) for endpoint in endpoints]
        having = served.candidates(names, model) if model else None
        if having is not None:
            endpoints = [endpoints[i] for i in having]
        found = schedule.fresh(endpoints)
        lacking = () if having is None else tuple(sorted(set(names).difference(map(str, endpoints))))
        return found, [str(endpoint) for endpoint in found], lacking

    def update(self, pool: Pool) -> None:
        """Take the pool as it is now; a bad profile leaves the last good one in force and becomes `problem`."""
        if not self.pool.endpoints:
            self.flow.drain.forget()  # nobody could be served: that says nothing of how fast it will be
        self.pool, self._candidates = pool, {}
        names = {str(endpoint) for endpoint in pool.endpoints}
        self.prefixes.retain(names)
        self.flow.others.retain(names)
        if pool.config != self.config:
            self._configure(pool)
        if self.kv_events is None:
            self.precise = None
        elif self.precise is None:
            self.precise = Precise(self.prefixes)
        else:
            self.precise.retain(names)
        self.flow.configure(limits.of_pool(self.profile.limits, pool))

    @property
    def kv_events(self) -> KvSource | None:
        """Where the servers publish what they have cached; None where that is not to be listened to."""
        return kv_source.of_pool(self.profile.kv_events, self.pool)

    @property
    def published(self) -> tuple[KvSource, Precise] | None:
        """That, and what is known of it."""
        source = self.kv_events
        return None if source is None or self.precise is None else (source, self.precise)

    def matched(self, names: Sequence[str], hashes: Sequence[int], now: float) -> list[int]:
        """How many tokens of a prompt each of these endpoints has cached, as far as we know."""
        found = self.prefixes.match(hashes)
        if self.precise is not None:
            found = self.precise.match(hashes, found, now)
        if not found:
            return [0] * len(names)
        blocks = found.get
        return [TOKENS[blocks(name, 0)] for name in names]

    def sent(self, decision: Decision, beside: Sequence[str], hashes: Sequence[int], told: Load, now: float) -> Wanted:
        """A request goes to its first endpoint, and its prompt to those `beside`. Gives whether to ask a tokenizer."""
        best, precise = decision.endpoints[0], self.precise
        wanted: Wanted = ""
        if precise is not None:
            wanted = precise.wants(hashes, self.prefixes.match(hashes))
            precise.resize(best, told.blocks)
            precise.decided(decision, hashes, now)
        self.prefixes.resize(best, told.blocks * told.block_tokens)
        for name in (best, *beside):
            self.prefixes.record(name, hashes)
        return wanted

    def _configure(self, pool: Pool) -> None:
        self.config, self.problem = pool.config, None
        try:
            self.profile = profile.DEFAULT if pool.config is None else profile.read(pool.config, self.own)
            self.in_force = config_of(pool.config)
        except ConfigError as error:
            ref, source = pool.config_of or (pool.ref, "")
            message = f"{error.message}; the last good configuration stays in effect"
            self.problem = Problem(ref, error.field, "InvalidConfig", message, source)

    def problems(self) -> list[Problem]:
        """Of the configuration, and of the user's own scorers that it names."""
        ref, source = self.pool.config_of or (self.pool.ref, "")
        faulty = [Problem(ref, "plugins", "FaultyScorer", message, source) for message in self.profile.problems]
        return faulty if self.problem is None else [self.problem, *faulty]


def config_problems(pools: Iterable[Pool], own: Own | None = None) -> tuple[Problem, ...]:
    """What is wrong with the configurations of these pools, without serving them."""
    states = [State(pool, own) for pool in pools]
    for state in states:
        state.update(state.pool)
    return problems_of(states)


def problems_of(states: Iterable[State]) -> tuple[Problem, ...]:
    """Each once: pools may share a configuration."""
    return tuple(dict.fromkeys(problem for state in states for problem in state.problems()))
