"""The policies that benchmarks.quality compares: load balancers as Envoy has them, profiles of llm-d, ours, and an oracle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from benchmarks._balancers import Balancer, LeastRequest, Oracle, PatientOracle, RoundRobin
from benchmarks._simulate import Chosen, Later, Simulation
from benchmarks._workloads import Request
from picker.facts import Decision
from picker.inflight import LogEntry
from picker.load import Load
from picker.picker import Ask, Denied, Picker
from picker.request import InferenceRequest
from picker.signals import Signals
from xds_server.model.graph import Backend, Endpoint, Objective, Pool
from xds_server.model.objects import ObjectRef

REF = ObjectRef("inference.networking.k8s.io", "InferencePool", "default", "pool")
BATCH = Objective("batch", -1)
OBJECTIVE_HEADER = "x-llm-d-slo-ttft-ms"


def config(*plugins: tuple[str, float | None, Mapping[str, object]]) -> Mapping[str, object]:
    """An EndpointPickerConfig of (plugin, weight, parameters)."""
    picked = [*plugins, ("max-score-picker", None, {})]
    return {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": name, "parameters": parameters} for name, _, parameters in picked],
        "schedulingProfiles": [
            {
                "name": "default",
                "plugins": [
                    {"pluginRef": name} if weight is None else {"pluginRef": name, "weight": weight}
                    for name, weight, _ in picked
                ],
            }
        ],
    }


LLM_D_DEFAULT = config(("queue-scorer", 2, {}), ("kv-cache-utilization-scorer", 2, {}), ("prefix-cache-scorer", 3, {}))
# Told the true speed: the server reads 5000 tokens a second, and the picker counts 1.25 for each of them.
_AFFINITY = ("prefix-cache-affinity-filter", None, {"peakPrefillThroughput": 6250})
GUIDE_TOKENS = config(_AFFINITY, ("token-load-scorer", 1, {}))
GUIDE_ACTIVE = config(_AFFINITY, ("active-request-scorer", 1, {}))


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

    def __init__(self, content: Mapping[str, object] | None = None, signals: Callable[[], Signals] = Signals) -> None:
        self._config = content
        self._signals = signals()
        self.picker = Picker(self._signals)
        self._waiting: dict[str, Request] = {}

    def ready(self, servers: Sequence[str], _now: float) -> None:
        endpoints = tuple(Endpoint(name.partition(":")[0], 8000) for name in servers)
        pool = Pool(REF, Backend("pool/default/pool", REF, pool=True), endpoints, (BATCH,), config=self._config)
        self._signals.update({pool.name: endpoints})
        self.picker.update({pool.name: pool})
        if self.picker.problems:
            raise ValueError(self.picker.problems)

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


class Rival(Picked):
    """llm-d's router: what a file means there, with figures as they were scraped, and no queue in the gateway."""

    def __init__(self, content: Mapping[str, object]) -> None:
        super().__init__(content, Blind)

    def ready(self, servers: Sequence[str], now: float) -> None:
        super().ready(servers, now)
        for state in self.picker._states.values():  # noqa: SLF001 - its feature gate is off there, which no file of ours says
            state.flow.configure(replace(state.flow.limits, enabled=False))


POLICIES: Mapping[str, Callable[[int, Simulation], object]] = {
    "random": lambda seed, _: Balancer(seed),
    "round-robin": lambda seed, _: RoundRobin(seed),
    "least-request": lambda seed, _: LeastRequest(seed),
    "llm-d default": lambda _seed, _: Rival(LLM_D_DEFAULT),
    "llm-d default, here": lambda _seed, _: Picked(LLM_D_DEFAULT),
    "llm-d guide, tokens": lambda _seed, _: Rival(GUIDE_TOKENS),
    "llm-d guide, active": lambda _seed, _: Rival(GUIDE_ACTIVE),
    "ours": lambda _seed, _: Picked(),
    "oracle": Oracle,
    "oracle, waiting": PatientOracle,
}
