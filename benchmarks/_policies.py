"""The policies that benchmarks.quality compares: load balancers as Envoy has them, profiles of llm-d, ours, and an oracle."""

from collections.abc import Callable, Mapping, Sequence

from benchmarks._balancers import Balancer, LeastRequest, Oracle, PatientOracle, RoundRobin
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
OBJECTIVE_HEADER = "x-llm-d-slo-ttft-ms"

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
            headers={} if request.objective is None else {OBJECTIVE_HEADER: f"{request.objective * 1000:g}"},
        )
        return self._chosen(request, self.picker.decide(Ask(asked, "default/pool", None, str(request.id), now, now)))

    def _chosen(self, request: Request, found: object) -> Chosen | None:
        if isinstance(found, Denied):
            request.reason = found.refused.reason
            return ()
        if not isinstance(found, Decision):
            self._waiting[str(request.id)] = request
            return None
        request.estimate = found.prompt_tokens, found.matched_tokens
        return found.endpoints

    def poll(self, now: float) -> Later:
        if not self._waiting:
            return ()
        found = [(self._waiting.pop(id_), answer) for id_, answer in self.picker.poll(now)]
        return [(request, self._chosen(request, answer) or ()) for request, answer in found]

    def next_deadline(self) -> float | None:
        return self.picker.next_deadline() if self._waiting else None

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
    "oracle, waiting": PatientOracle,
}
