"""The policies that benchmarks.quality compares: load balancers as Envoy has them, profiles of llm-d, ours, and an oracle."""

import random
from collections.abc import Callable, Mapping, Sequence

from benchmarks._fleet import SLOTS, chain
from benchmarks._simulate import Chosen, Later, Simulation
from benchmarks._workloads import Request
from picker.facts import Decision
from picker.inflight import LogEntry
from picker.load import Load
from picker.picker import Ask, Denied, Picker
from picker.profile import Profile
from picker.request import InferenceRequest
from picker.scorers import View, active_request_scorer, max_score_picker, token_load_scorer
from picker.signals import Signals
from xds_server.model.graph import Backend, Endpoint, Objective, Pool
from xds_server.model.objects import ObjectRef

REF = ObjectRef("inference.networking.k8s.io", "InferencePool", "default", "pool")
BATCH = Objective("batch", -1)
FALLBACKS = 3  # servers of one decision, where the policy is not the picker's

LLM_D_DEFAULT: Mapping[str, object] = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "plugins": [
        {"type": "queue-scorer"},
        {"type": "kv-cache-utilization-scorer"},
        {"type": "prefix-cache-scorer"},
        {"type": "max-score-picker"},
    ],
    "schedulingProfiles": [
        {
            "name": "default",
            "plugins": [
                {"pluginRef": "queue-scorer", "weight": 2},
                {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
                {"pluginRef": "prefix-cache-scorer", "weight": 3},
                {"pluginRef": "max-score-picker"},
            ],
        }
    ],
}


class Balancer:
    """Policies that look at nothing but what they did themselves."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.names: list[str] = []
        self.active: dict[str, int] = {}

    def ready(self, servers: Sequence[str], _now: float) -> None:
        self.names = list(servers)

    def decide(self, request: Request, _now: float) -> Chosen | None:
        found = tuple(self.order(request)[:FALLBACKS])
        if found:
            self.active[found[0]] = self.active.get(found[0], 0) + 1
        return found

    def order(self, _request: Request) -> list[str]:
        return self.chance.sample(self.names, len(self.names))

    def poll(self, _now: float) -> Later:
        return ()

    def next_deadline(self) -> float | None:
        return None

    def finished(self, request: Request, _now: float) -> None:
        if request.server in self.active:
            self.active[request.server] -= 1

    def asked(self, server: str) -> None:
        pass

    def scraped(self, server: str, figures: Load | None, sent_at: float, now: float) -> None:
        pass


class RoundRobin(Balancer):
    at = -1

    def order(self, _request: Request) -> list[str]:
        self.at += 1
        return [self.names[(self.at + step) % len(self.names)] for step in range(len(self.names))]


class LeastRequest(Balancer):
    """Of all servers, not of two: the best that a count can do."""

    def order(self, _request: Request) -> list[str]:
        names = self.chance.sample(self.names, len(self.names))
        return sorted(names, key=lambda name: self.active.get(name, 0))


class Oracle(Balancer):
    """The least TTFT by the servers' true state and true speed: how much of the rest is ignorance. It refuses nothing."""

    def __init__(self, seed: int, simulation: Simulation) -> None:
        super().__init__(seed)
        self._simulation = simulation
        self._sent: dict[str, dict[int, float]] = {}  # server -> id -> seconds that it will hold a slot

    def order(self, request: Request) -> list[str]:
        hashes = chain(request)
        predicted = {name: self._predict(name, request, hashes) for name in self.names}
        names = sorted(self.chance.sample(self.names, len(self.names)), key=lambda name: predicted[name][0])
        self._sent.setdefault(names[0], {})[request.id] = predicted[names[0]][1]
        return names

    def _predict(self, name: str, request: Request, hashes: tuple[int, ...]) -> tuple[float, float]:
        server = self._simulation.fleet[name]
        latency = server.engine.settings.latency
        busy = self._sent.get(name, {})
        uncached = request.prompt_tokens - server.cached_tokens(hashes, request.prompt_tokens)
        running = min(SLOTS, len(busy) + 1)
        prefill = latency.prefill(uncached, running, SLOTS)
        if request.adapter and request.adapter not in server.engine.adapters()[0]:
            prefill += latency.lora_ms / 1000
        seconds = prefill + request.max_tokens * latency.step(running, SLOTS)
        left = sum(busy.values()) * (0.5 if len(busy) <= SLOTS else 1 - 0.5 * SLOTS / len(busy))
        return prefill + (left / SLOTS if len(busy) >= SLOTS else 0.0), seconds

    def poll(self, _now: float) -> Later:
        for name, busy in self._sent.items():  # the oracle needs no access log
            requests = self._simulation.requests_by_id
            self._sent[name] = {id_: left for id_, left in busy.items() if requests[id_].end is None}
        return ()


class Blind(Signals):
    """Figures as they were scraped, as llm-d's router has them: nothing that was sent since is added to a queue."""

    def loads(self, pool: str) -> Mapping[str, Load]:
        return {
            name: Load(
                load.waiting, load.running, load.kv_usage, load.loras, load.loras_waiting, load.max_loras,
                load.block_tokens, load.blocks, load.scraped, load.errors, load.inflight, load.inflight_tokens,
                load.inflight,
            )
            for name, load in super().loads(pool).items()
        }  # fmt: skip


class Picked:
    """The product: picker.Picker over picker.Signals, told what the shells would tell them."""

    def __init__(
        self,
        config: Mapping[str, object] | None = None,
        profile: Profile | None = None,
        signals: Callable[[], Signals] = Signals,
    ) -> None:
        self._config, self._profile = config, profile
        self._signals = signals()
        self.picker = Picker(self._signals)
        self._waiting: dict[str, Request] = {}

    def ready(self, servers: Sequence[str], _now: float) -> None:
        endpoints = tuple(Endpoint(*name.split(":")[:1], 8000) for name in servers)
        pool = Pool(REF, Backend("pool/default/pool", REF, pool=True), endpoints, (BATCH,), config=self._config)
        self._signals.update({pool.name: endpoints})
        self.picker.update({pool.name: pool})
        if self.picker.problems:
            raise ValueError(self.picker.problems)
        if self._profile is not None:
            self.picker._states[pool.name].profile = self._profile  # noqa: SLF001 - it has no file

    def decide(self, request: Request, now: float) -> Chosen | None:
        asked = InferenceRequest(
            "/v1/chat/completions",
            model=request.model,
            streaming=True,
            prompt=request.prompt,
            max_tokens=request.max_tokens,
            body_bytes=len(request.prompt),
            objective=BATCH.name if request.priority < 0 else "",
            fairness_id=request.tenant,
        )
        found = self.picker.decide(Ask(asked, "default/pool", None, str(request.id), now, now))
        return self._chosen(request, found)

    def _chosen(self, request: Request, found: object) -> Chosen | None:
        if isinstance(found, Denied):
            return ()
        assert isinstance(found, Decision)
        request.estimate = found.prompt_tokens, found.matched_tokens
        return found.endpoints

    def poll(self, _now: float) -> Later:
        return ()

    def next_deadline(self) -> float | None:
        return None

    def finished(self, request: Request, _now: float) -> None:
        aborted = request.status != 200
        self._signals.finished(
            LogEntry(
                id=str(request.id),
                cluster="pool/default/pool",
                endpoint=request.server,
                status=200 if request.first is not None else request.status,
                details="" if aborted else "via_upstream",
                flags=frozenset({"UC"}) if aborted else frozenset(),
                time=request.offered,
                duration=None if request.end is None else request.end - request.offered,
                ttft=request.ttft,
                input_tokens=request.prompt_tokens,
                cached_tokens=request.cached,
                output_tokens=request.tokens,
                attempts=1,
            )
        )

    def asked(self, server: str) -> None:
        self._signals.asked(server)

    def scraped(self, server: str, figures: Load | None, sent_at: float, _now: float) -> None:
        if figures is None:
            self._signals.failed(server)
        else:
            self._signals.scraped(server, figures, sent_at)


def affinity_filter(
    threshold: float = 0.8, penalty: float = 18.0, speed: float = 5000.0
) -> Callable[[View], list[int]]:
    """llm-d's prefix-cache-affinity-filter: the servers that have most of the prompt, unless others would be so much faster.

    `speed`: prompt tokens a second, in the picker's estimate of tokens; theirs is 15928 unless told.
    """

    def keep(view: View) -> list[int]:
        everybody = list(range(len(view.names)))
        sticky = [i for i in everybody if view.blocks and view.matched[i] >= threshold * view.blocks]
        if not sticky or len(sticky) == len(everybody):
            return everybody
        wait = [load.inflight_tokens / speed for load in view.loads]
        least = min(wait[i] for i in everybody if i not in set(sticky))
        return everybody if min(wait[i] for i in sticky) - least > penalty else sticky

    return keep


WORD_RATIO = 1.25  # the picker counts that many tokens for each of the server
_AFFINITY = (("prefix-cache-affinity-filter", affinity_filter(speed=5000 * WORD_RATIO)),)
GUIDE_TOKENS = Profile(_AFFINITY, (("token-load-scorer", token_load_scorer(), 1.0),), max_score_picker(1))
GUIDE_ACTIVE = Profile(_AFFINITY, (("active-request-scorer", active_request_scorer(), 1.0),), max_score_picker(1))

POLICIES: Mapping[str, Callable[[int, Simulation], object]] = {
    "random": lambda seed, _: Balancer(seed),
    "round-robin": lambda seed, _: RoundRobin(seed),
    "least-request": lambda seed, _: LeastRequest(seed),
    "llm-d default": lambda _seed, _: Picked(LLM_D_DEFAULT, signals=Blind),
    "llm-d default, our signals": lambda _seed, _: Picked(LLM_D_DEFAULT),
    "llm-d guide, tokens": lambda _seed, _: Picked(profile=GUIDE_TOKENS, signals=Blind),
    "llm-d guide, active": lambda _seed, _: Picked(profile=GUIDE_ACTIVE, signals=Blind),
    "ours": lambda _seed, _: Picked(),
    "oracle": Oracle,
}
