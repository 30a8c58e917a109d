"""Load: what is known of one endpoint at the moment of a decision.

Scraped from the model server's /metrics, and corrected by what the gateway itself has sent there since. Names of the
metrics per engine: `ENGINES`. Source: Gateway API Inference Extension proposal 003, vLLM 0.32 and SGLang 0.5.23 /metrics.
The page is scanned for the few families that matter and never parsed as a whole: benchmarks/ has the ratio.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from picker.latency import GUESS, Speed

STALE_ERRORS = 3  # scrapes that failed in a row
FREE_SLOTS = 8  # requests that a server without a queue surely runs at once
FEEDBACK = 0.03  # seconds from the end of a request until the next one arrives: Envoy batches its log for 20 ms
MAX_CONCURRENCY = 100  # requests that a server is given at once which cannot be scraped, while others wait
_ABSURD = 1e9  # no server has so many requests or blocks: 2^64 - 1 is a counter that went below 0


@dataclass(frozen=True)
class Load:
    """Counts are requests; `kv_usage` is in [0, 1]; `scraped` is a time.monotonic() value, -inf before the first scrape.

    What follows from it alone is worked out once: most of a pool's Loads stay as they are from one decision to the next.
    """

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    loras: frozenset[str] = frozenset()  # adapters active now
    loras_waiting: frozenset[str] = frozenset()
    max_loras: int = 0  # 0: the server has no adapters
    block_tokens: int = 0  # KV cache block size in tokens; 0: unknown
    blocks: int = 0  # KV cache blocks on the device; 0: unknown
    scraped: float = float("-inf")
    errors: int = 0  # scrapes that failed in a row
    inflight: int = 0  # requests that the gateway has sent there and that have not ended
    inflight_tokens: int = 0  # their uncached prompt tokens
    inflight_at_scrape: int = 0  # `inflight` when the figures above were taken
    utilization: float | None = None  # of the accelerators, in [0, 1]; None where nothing says it
    speed: Speed = GUESS  # as learned from the requests that ended
    prefill: tuple[float, float, float] = (0.0, 0.0, 0.0)  # kilotokens of ours, as of then, and when none will be left
    resting: float = -math.inf  # it failed: a time.monotonic() value before which it gets nothing, see health.py
    sheddable: int = 0  # of `inflight`: those of negative priority
    adapters: frozenset[str] = frozenset()  # probably in its slots, in use or not, or on their way there
    adapters_busy: int = 0  # slots whose adapter is in use

    def ahead(self, now: float) -> float:
        """Kilotokens of ours whose prefill has probably not ended: those of a batch, or of its queue, go one after the other."""
        kilotokens, at, until = self.prefill
        return kilotokens * (until - max(now, at)) / (until - at) if until > now and until > at else 0.0

    @cached_property
    def queue(self) -> int:
        """Requests that wait in the server's queue now: those of the scrape, corrected by what we sent and saw ending since.

        A server with a queue has no free slot, so what was sent since joined the queue. One without a queue has free slots, but
        does not say how many: it is believed to take as many more as it runs, and FREE_SLOTS at least (a slow start, as in TCP).
        So a burst between two scrapes is never taken for idleness, and never counted twice after the next scrape.
        """
        sent = self.inflight - self.inflight_at_scrape
        if self.waiting:
            return max(0, self.waiting + sent)
        return max(0, sent - max(self.running, FREE_SLOTS))

    @cached_property
    def line(self) -> tuple[float, float, float]:
        """Seconds to the first token of one more request whose prompt is cached, for each token that is not, and until a slot is free."""
        inflight = self.inflight + self.speed.foreign
        return *self.speed.line(inflight), self.speed.wait(inflight)

    @cached_property
    def outlook(self) -> tuple[float, float, float, float, float, bool]:
        """What ttft.predict needs: `line`, the trust in a match, when nothing of ours will be read any more, whether more is known."""
        speed = self.speed
        return *self.line, speed.trust, self.prefill[2], bool(speed.drift or self.utilization or self.max_loras)

    @cached_property
    def open(self) -> bool:
        """Whether there is room for one more request while others wait."""
        return self.has_room(crowded=True)

    @cached_property
    def open_to_probes(self) -> bool:
        """The same for one that finds out if there is more room than is known."""
        return self.has_room(crowded=True, probe=True)

    def has_room(self, *, crowded: bool = False, share: float = 1.0, probe: bool = False) -> bool:
        """Whether one more request would start at once, or at the latest when it gets there: a slot must not lie idle meanwhile.

        An endpoint that has nothing of ours always has: whatever was learned of it, it is tried again. `crowded`: others wait, so
        that one which has just come must not be given all of them: as many as it runs, and a few more, until its next scrape.
        """
        speed = self.speed
        if not self.inflight:
            return True
        if speed.slots == math.inf:
            if not crowded:
                return True
            return self.inflight < MAX_CONCURRENCY if self.errors >= STALE_ERRORS else self.queue < 1
        coming = 1.0 + FEEDBACK / max(speed.seconds, 0.001)  # short requests end while the next is on its way
        limit = speed.slots * coming * share
        # All its slots work, and nobody waits there.
        if probe and not self.waiting and self.running >= speed.slots - 0.5:
            limit = max(limit, speed.slots + 1.0)
        return self.inflight + speed.foreign + 1.0 <= limit


class UnknownPage(Exception):
    """The page has none of the metrics of the engine: not a model server, or one that we do not know."""


@dataclass(frozen=True, slots=True)
class Series:
    """Which samples of a page carry one figure."""

    name: bytes
    where: tuple[bytes, bytes] | None = None  # only the samples with this label
    label: bytes = b""  # the figure is this label's value, not the sample's


@dataclass(frozen=True, slots=True)
class Engine:
    """What a model server calls things. Several series for one figure: the first that the page has (new names first)."""

    prefix: bytes
    waiting: tuple[Series, ...]
    running: tuple[Series, ...]
    kv_usage: tuple[Series, ...]
    block_tokens: tuple[Series, ...]
    blocks: tuple[Series, ...]
    lora: bytes = b""
    rank: bytes = b"engine"  # the label that tells data-parallel ranks apart


# How busy the accelerator is, in percent: NVIDIA's DCGM exporter, and the device plugin for TPUs. Their names on a server's own
# page mean that a sidecar or an agent adds them there.
_UTILIZATION = re.compile(
    rb"^(?:DCGM_FI_DEV_GPU_UTIL|(?:tpu_|kubernetes_io:node_accelerator_|node_accelerator_)?duty_cycle(?:_node)?)"
    rb"(?=[{ \t])[^\n]*?[} \t]([0-9.eE+-]+)(?:[ \t]+[0-9]+)?[ \t]*$",
    re.MULTILINE,
)

_TRITON_REQUESTS, _TRITON_BLOCKS = b"nv_trt_llm_request_metrics", b"nv_trt_llm_kv_cache_block_metrics"

ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(
        prefix=b"vllm:",
        waiting=(Series(b"vllm:num_requests_waiting"),),
        running=(Series(b"vllm:num_requests_running"),),
        kv_usage=(Series(b"vllm:kv_cache_usage_perc"), Series(b"vllm:gpu_cache_usage_perc")),
        block_tokens=(Series(b"vllm:cache_config_info", label=b"block_size"),),
        blocks=(Series(b"vllm:cache_config_info", label=b"num_gpu_blocks"),),
        lora=b"vllm:lora_requests_info",
    ),
    "sglang": Engine(
        prefix=b"sglang:",
        waiting=(Series(b"sglang:num_queue_reqs"),),
        running=(Series(b"sglang:num_running_reqs"),),
        kv_usage=(Series(b"sglang:token_usage"),),
        block_tokens=(Series(b"sglang:page_size"), Series(b"sglang:cache_config_info", label=b"page_size")),
        blocks=(Series(b"sglang:num_pages"), Series(b"sglang:cache_config_info", label=b"num_pages")),
        rank=b"dp_rank",
    ),
    "trtllm-serve": Engine(
        prefix=b"trtllm_",
        waiting=(Series(b"trtllm_num_requests_waiting"),),
        running=(Series(b"trtllm_num_requests_running"),),
        kv_usage=(Series(b"trtllm_kv_cache_utilization"),),
        block_tokens=(Series(b"trtllm_kv_cache_tokens_per_block"),),
        blocks=(Series(b"trtllm_kv_cache_max_blocks"),),
    ),
    "triton-tensorrt-llm": Engine(
        prefix=b"nv_trt_llm_",
        waiting=(Series(_TRITON_REQUESTS, where=(b"request_type", b"waiting")),),
        running=(Series(_TRITON_REQUESTS, where=(b"request_type", b"scheduled")),),
        kv_usage=(Series(_TRITON_BLOCKS, where=(b"kv_cache_block_type", b"fraction")),),
        block_tokens=(Series(_TRITON_BLOCKS, where=(b"kv_cache_block_type", b"tokens_per")),),
        blocks=(Series(_TRITON_BLOCKS, where=(b"kv_cache_block_type", b"max")),),
    ),
}

# Unrolled loops: linear on any input, and fast. A quote inside a label's value is escaped, so `,name="` never is inside one.
_QUOTED = rb'"([^"\\]*(?:\\.[^"\\]*)*)"'
_LABELS = rb'(?:\{([^"}]*(?:"[^"\\]*(?:\\.[^"\\]*)*"[^"}]*)*)\})?'
_LABEL = re.compile(rb"([a-zA-Z_]\w*)\s*=\s*" + _QUOTED)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)

Samples = Mapping[bytes, list[tuple[bytes, bytes]]]  # metric name -> (labels, value) of each sample, undecoded


@functools.cache
def _scanner(engine: Engine) -> re.Pattern[bytes]:
    """Finds the engine's samples in one pass: the literal start of the pattern is what makes it fast."""
    every = (engine.waiting, engine.running, engine.kv_usage, engine.block_tokens, engine.blocks)
    names = {one.name for series in every for one in series} | ({engine.lora} if engine.lora else set())
    rest = b"|".join(re.escape(name.removeprefix(engine.prefix)) for name in sorted(names))
    return re.compile(
        rb"\n" + re.escape(engine.prefix) + rb"(" + rest + rb")(?=[{ \t])[ \t]*" + _LABELS + rb"[ \t]*([^\s{]+)"
    )


def parse(page: bytes, engine: str = "", now: float = -math.inf) -> Load:
    """The figures of one /metrics page in the Prometheus text format, taken at `now`.

    Counts and blocks are summed and utilisation is averaged over data parallel ranks. `engine` is the
    value of the pod label llm-d.ai/engine-type; "" or an unknown one: told by the names on the page. Families that the page
    lacks keep the defaults of Load. Raises UnknownPage when it has neither waiting, running nor KV usage.
    """
    names = _engine(page, engine)
    return _load(_samples(page, names), names, now, _utilization(page))


def parse_ranks(page: bytes, engine: str = "", now: float = -math.inf) -> dict[int, Load]:
    """The same for each rank that the page tells by a label, Engine.rank; what has no such label is true of every rank.

    Raises UnknownPage where it names no rank.
    """
    names = _engine(page, engine)
    ranks: dict[int, dict[bytes, list[tuple[bytes, bytes]]]] = {}
    common: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for name, samples in _samples(page, names).items():
        for labels, value in samples:
            rank = _label(labels, names.rank)
            of = ranks.setdefault(int(rank), {}) if rank.isdigit() and len(rank) < 5 else common
            of.setdefault(name, []).append((labels, value))
    if not ranks:
        raise UnknownPage(f"the page tells no ranks apart: nothing on it has the label {names.rank.decode()}")
    utilization = _utilization(page)
    return {rank: _load({**common, **found}, names, now, utilization) for rank, found in ranks.items()}


def _engine(page: bytes, engine: str) -> Engine:
    names = ENGINES.get(engine) or next((e for e in ENGINES.values() if e.prefix in page), None)
    if names is None:
        expected = ", ".join(f"{e.waiting[0].name.decode()} ({name})" for name, e in ENGINES.items())
        raise UnknownPage(f"no metrics of a model server on the page; expected one of {expected}")
    return names


def _load(samples: Samples, names: Engine, now: float, utilization: float | None) -> Load:
    waiting, running, usage = (_figures(samples, series) for series in (names.waiting, names.running, names.kv_usage))
    if not (waiting or running or usage):
        wanted = (names.waiting[0], names.running[0], names.kv_usage[0])
        raise UnknownPage(f"the page has none of {', '.join(s.name.decode() for s in wanted)}")
    loras, loras_waiting, max_loras = _adapters(samples.get(names.lora, ()))
    return Load(
        waiting=int(sum(waiting)),
        running=int(sum(running)),
        kv_usage=min(max(sum(usage) / len(usage), 0.0), 1.0) if usage else 0.0,
        loras=loras,
        loras_waiting=loras_waiting,
        max_loras=max_loras,
        block_tokens=int(max(_figures(samples, names.block_tokens), default=0)),  # one size for all ranks of a server
        blocks=int(sum(_figures(samples, names.blocks))),
        scraped=now,
        utilization=utilization,
    )


def _utilization(page: bytes) -> float | None:
    """The mean over the accelerators of the page, in [0, 1]; None where it names none."""
    if b"DCGM_FI_DEV_GPU_UTIL" not in page and b"duty_cycle" not in page:  # 20 times as fast as the search
        return None
    found = [percent for text in _UTILIZATION.findall(page) if (percent := _percent(text)) is not None]
    return min(sum(found) / len(found) / 100.0, 1.0) if found else None


def _percent(text: bytes) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _samples(page: bytes, engine: Engine) -> Samples:
    found: dict[bytes, list[tuple[bytes, bytes]]] = {}
    if page.startswith(engine.prefix):
        page = b"\n" + page
    for name, labels, value in _scanner(engine).findall(page):
        found.setdefault(engine.prefix + name, []).append((labels, value))
    return found


def _figures(samples: Samples, series: tuple[Series, ...]) -> list[float]:
    """Every finite figure of the first series that the page has."""
    for one in series:
        every = (_figure(one, labels, value) for labels, value in samples.get(one.name, ()))
        if found := [figure for figure in every if figure is not None]:
            return found
    return []


def _figure(series: Series, labels: bytes, value: bytes) -> float | None:
    if series.where and _label(labels, series.where[0]) != series.where[1]:
        return None
    try:
        figure = float(_label(labels, series.label) if series.label else value)
    except ValueError:  # vLLM writes num_gpu_blocks="None" before it has measured
        return None
    return figure if figure < _ABSURD and math.isfinite(figure) else None


@functools.cache
def _label_finder(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?:^|,)\s*" + re.escape(name) + rb"\s*=\s*" + _QUOTED)


def _label(labels: bytes, name: bytes) -> bytes:
    found = _label_finder(name).search(labels)
    return found[1] if found else b""


def _adapters(samples: Sequence[tuple[bytes, bytes]]) -> tuple[frozenset[str], frozenset[str], int]:
    """Active adapters, waiting adapters, slots. The value is a timestamp; old label sets stay forever: the newest counts."""
    if not samples:
        return frozenset(), frozenset(), 0
    newest, _ = max(samples, key=lambda sample: _time(sample[1]))
    pairs = {key: _unescape(value) for key, value in _LABEL.findall(newest)}
    slots = pairs.get(b"max_lora", "")
    return (
        _names(pairs.get(b"running_lora_adapters", "")),
        _names(pairs.get(b"waiting_lora_adapters", "")),
        int(slots) if slots.isdecimal() else 0,
    )


def _time(value: bytes) -> float:
    try:
        time = float(value)
    except ValueError:
        return -math.inf
    return -math.inf if math.isnan(time) else time


def _names(listed: str) -> frozenset[str]:
    return frozenset(name for part in listed.split(",") if (name := part.strip()))


def _unescape(value: bytes) -> str:
    if b"\\" in value:
        value = _ESCAPE.sub(lambda found: b"\n" if found[1] == b"n" else found[1], value)
    return value.decode(errors="replace")
