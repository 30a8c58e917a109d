"""/metrics of the simulated server, with the names and labels of vLLM 0.32."""

import bisect
import time
from collections.abc import Callable, Iterable, Sequence

from penstock.sim.engine import Engine, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# vLLM's own buckets, in seconds.
_TTFT = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_E2E = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)


class Histogram:
    """Cumulative when written, not when observed."""

    def __init__(self, name: str, bounds: tuple[float, ...]) -> None:
        self.name, self.bounds = name, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, values: Iterable[float]) -> None:
        for value in values:
            self.counts[bisect.bisect_left(self.bounds, value)] += 1
            self.sum += value

    def lines(self, labels: str) -> list[str]:
        total, lines = 0, []
        for bound, found in zip((*map(str, map(float, self.bounds)), "+Inf"), self.counts, strict=True):
            total += found
            lines.append(f'{self.name}_bucket{{{labels},le="{bound}"}} {total}.0')
        return [*lines, f"{self.name}_count{{{labels}}} {total}.0", f"{self.name}_sum{{{labels}}} {self.sum!r}"]


class Page:
    """The page of a server's engines; keeps the histograms, and the LoRA label sets that vLLM never forgets."""

    def __init__(self, engines: Sequence[Engine], model: str) -> None:
        self._engines = engines
        self._model = f'model_name="{escaped(model)}"'
        self._ttft = [Histogram("vllm:time_to_first_token_seconds", _TTFT) for _ in engines]
        self._e2e = [Histogram("vllm:e2e_request_latency_seconds", _E2E) for _ in engines]
        self._loras: dict[tuple[str, str], float] = {}

    def text(self) -> str:
        rejected = sum(engine.stats.rejected for engine in self._engines)
        lines = [
            *self._family("num_requests_running", "gauge", lambda engine: float(engine.running)),
            *self._family("num_requests_waiting", "gauge", lambda engine: float(engine.waiting)),
            *self._family("kv_cache_usage_perc", "gauge", lambda engine: engine.usage),
            *self._counter("prefix_cache_queries", lambda stats: stats.cache_queries),
            *self._counter("prefix_cache_hits", lambda stats: stats.cache_hits),
            *self._counter("prompt_tokens", lambda stats: stats.prompt_tokens),
            *self._counter("prompt_tokens_cached", lambda stats: stats.cache_hits),
            *self._counter("generation_tokens", lambda stats: stats.generation_tokens),
            "# TYPE vllm:request_success_total counter",
            *(
                f'vllm:request_success_total{{engine="{rank}",finished_reason="{why}",{self._model}}} {count}.0'
                for rank, engine in enumerate(self._engines)
                for why, count in engine.stats.finished.items()
            ),
            "# TYPE vllm:admission_rejections_total counter",
            f'vllm:admission_rejections_total{{{self._model},reason="max_num_queued_reqs"}} {rejected}.0',
            *self._histograms(self._ttft, lambda stats: stats.ttft),
            *self._histograms(self._e2e, lambda stats: stats.duration),
            *self._lora_lines(),
            *self._cache_lines(),
        ]
        return "\n".join(lines) + "\n"

    def _labels(self, rank: int) -> str:
        return f'engine="{rank}",{self._model}'

    def _family(self, name: str, kind: str, figure: Callable[[Engine], float]) -> Iterable[str]:
        yield f"# TYPE vllm:{name} {kind}"
        for rank, engine in enumerate(self._engines):
            yield f"vllm:{name}{{{self._labels(rank)}}} {float(figure(engine))!r}"

    def _counter(self, name: str, figure: Callable[[Stats], int]) -> Iterable[str]:
        return self._family(f"{name}_total", "counter", lambda engine: figure(engine.stats))

    def _histograms(self, kept: Sequence[Histogram], new: Callable[[Stats], list[float]]) -> Iterable[str]:
        yield f"# TYPE {kept[0].name} histogram"
        for rank, (histogram, engine) in enumerate(zip(kept, self._engines, strict=True)):
            values = new(engine.stats)
            histogram.observe(values)
            values.clear()
            yield from histogram.lines(self._labels(rank))

    def _lora_lines(self) -> list[str]:
        """Of all engines together: vLLM puts no label on them that tells which."""
        slots = self._engines[0].settings.max_loras
        if not slots:
            return []
        found = [engine.adapters() for engine in self._engines]
        running, waiting = (escaped(",".join(sorted(set().union(*names)))) for names in zip(*found, strict=True))
        self._loras[running, waiting] = time.time()
        return [
            "# TYPE vllm:lora_requests_info gauge",
            *(
                f'vllm:lora_requests_info{{max_lora="{slots}",running_lora_adapters="{running}",'
                f'waiting_lora_adapters="{waiting}"}} {time!r}'
                for (running, waiting), time in self._loras.items()
            ),
        ]

    def _cache_lines(self) -> Iterable[str]:
        yield "# TYPE vllm:cache_config_info gauge"
        for rank, engine in enumerate(self._engines):
            settings = engine.settings
            labels = {
                "block_size": settings.block_tokens,
                "enable_prefix_caching": True,
                "engine": rank,
                "kv_cache_size_tokens": settings.kv_blocks * settings.block_tokens,
                "num_gpu_blocks": settings.kv_blocks,
                "prefix_caching_hash_algo": "sha256",
            }
            pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
            yield f"vllm:cache_config_info{{{pairs}}} 1.0"


def accelerator(engine: Engine) -> str:
    """The page of a DCGM exporter beside the server: one GPU, as busy as the batch is full."""
    busy = 100 * engine.running // max(engine.settings.max_num_seqs, 1)
    name, labels = (
        "DCGM_FI_DEV_GPU_UTIL",
        'gpu="0",UUID="GPU-sim",device="nvidia0",modelName="simulated",Hostname="sim"',
    )
    return f"# TYPE {name} gauge\n{name}{{{labels}}} {busy}\n"


def escaped(value: str) -> str:
    """A label's value as the text format wants it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
