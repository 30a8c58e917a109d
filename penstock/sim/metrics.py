"""/metrics of the simulated server, with the names and labels of vLLM 0.32."""

import bisect
import time
from collections.abc import Iterable

from penstock.sim.engine import Engine

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
        total, lines = 0, [f"# TYPE {self.name} histogram"]
        for bound, found in zip((*map(str, map(float, self.bounds)), "+Inf"), self.counts, strict=True):
            total += found
            lines.append(f'{self.name}_bucket{{{labels},le="{bound}"}} {total}.0')
        return [*lines, f"{self.name}_count{{{labels}}} {total}.0", f"{self.name}_sum{{{labels}}} {self.sum!r}"]


class Page:
    """The page of one engine; keeps the histograms, and the LoRA label sets that vLLM never forgets."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._model = model
        self._labels = f'engine="0",model_name="{escaped(model)}"'
        self._ttft = Histogram("vllm:time_to_first_token_seconds", _TTFT)
        self._e2e = Histogram("vllm:e2e_request_latency_seconds", _E2E)
        self._loras: dict[tuple[str, str], float] = {}

    def text(self) -> str:
        engine, stats = self._engine, self._engine.stats
        self._ttft.observe(stats.ttft)
        self._e2e.observe(stats.duration)
        stats.ttft.clear()
        stats.duration.clear()
        running, waiting = (escaped(",".join(names)) for names in engine.adapters())
        self._loras[running, waiting] = time.time()
        model = f'model_name="{escaped(self._model)}"'
        lines = [
            *self._gauge("num_requests_running", engine.running),
            *self._gauge("num_requests_waiting", engine.waiting),
            *self._gauge("kv_cache_usage_perc", engine.usage),
            *self._counter("prefix_cache_queries", stats.cache_queries),
            *self._counter("prefix_cache_hits", stats.cache_hits),
            *self._counter("prompt_tokens", stats.prompt_tokens),
            *self._counter("prompt_tokens_cached", stats.cache_hits),
            *self._counter("generation_tokens", stats.generation_tokens),
            "# TYPE vllm:request_success_total counter",
            *(
                f'vllm:request_success_total{{engine="0",finished_reason="{why}",{model}}} {count}.0'
                for why, count in stats.finished.items()
            ),
            "# TYPE vllm:admission_rejections_total counter",
            f'vllm:admission_rejections_total{{{model},reason="max_num_queued_reqs"}} {stats.rejected}.0',
            *self._ttft.lines(self._labels),
            *self._e2e.lines(self._labels),
            *self._lora_lines(),
            *self._cache_lines(),
        ]
        return "\n".join(lines) + "\n"

    def _gauge(self, name: str, value: float) -> tuple[str, str]:
        return f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{self._labels}}} {float(value)!r}"

    def _counter(self, name: str, value: int) -> tuple[str, str]:
        return f"# TYPE vllm:{name}_total counter", f"vllm:{name}_total{{{self._labels}}} {value}.0"

    def _lora_lines(self) -> list[str]:
        slots = self._engine.settings.max_loras
        if not slots:
            return []
        return [
            "# TYPE vllm:lora_requests_info gauge",
            *(
                f'vllm:lora_requests_info{{max_lora="{slots}",running_lora_adapters="{running}",'
                f'waiting_lora_adapters="{waiting}"}} {time!r}'
                for (running, waiting), time in self._loras.items()
            ),
        ]

    def _cache_lines(self) -> tuple[str, str]:
        settings = self._engine.settings
        labels = {
            "block_size": settings.block_tokens,
            "enable_prefix_caching": True,
            "engine": 0,
            "kv_cache_size_tokens": settings.kv_blocks * settings.block_tokens,
            "num_gpu_blocks": settings.kv_blocks,
            "prefix_caching_hash_algo": "sha256",
        }
        pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return "# TYPE vllm:cache_config_info gauge", f"vllm:cache_config_info{{{pairs}}} 1.0"


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
