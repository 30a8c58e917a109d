"""The simulated servers of benchmarks.quality: the engine of penstock.sim in virtual time, which can be slow, die and come back."""

from dataclasses import replace

from xxhash import xxh3_64_intdigest

from benchmarks._workloads import WORD, Request, Workload
from penstock.sim.engine import Engine, EngineSettings, Job
from penstock.sim.latency import Latency
from picker.load import Load

SLOTS = 8  # sequences of one server
BLOCK_TOKENS = 16


def chain(request: Request) -> tuple[int, ...]:
    """One hash for each full block of prompt and answer together, over all blocks before it too."""
    size = BLOCK_TOKENS * WORD
    text = memoryview(request.prompt + request.answer)
    parent = xxh3_64_intdigest(request.adapter.encode())
    return tuple(
        [
            parent := xxh3_64_intdigest(text[start : start + size], parent)
            for start in range(0, len(text) - size + 1, size)
        ]
    )


class Server:
    """One model server; `name` is "ip:port"."""

    def __init__(self, name: str, workload: Workload) -> None:
        self.name = name
        self.alive = True
        self.requests: dict[int, Request] = {}  # that it has
        self.scheduled: float | None = None  # when the event loop looks again
        latency = Latency(lora_ms=workload.lora_ms)
        self._settings = EngineSettings(SLOTS, workload.kv_blocks, BLOCK_TOKENS, workload.loras, latency=latency)
        self.engine = Engine(self._settings)

    def submit(self, request: Request, now: float) -> None:
        job = Job(request.id, request.prompt_tokens, request.max_tokens, chain(request), request.adapter)
        self.requests[request.id] = request
        self.engine.submit(job, now)

    def advance(self, now: float) -> list[tuple[Request, bool]]:
        """What got tokens until `now`, and whether it ended."""
        heard = []
        for id_, progress in self.engine.advance(now).items():
            request = self.requests[id_]
            request.tokens += progress.tokens
            request.cached = progress.cached_tokens
            heard.append((request, bool(progress.finished)))
            if progress.finished:
                del self.requests[id_]
        return heard

    def slow_down(self, factor: float) -> None:
        """From the next step and the next prefill on; 1 is as before."""
        was = self._settings.latency
        latency = replace(
            was,
            overhead_ms=was.overhead_ms * factor,
            prefill_ms_per_token=was.prefill_ms_per_token * factor,
            decode_ms=was.decode_ms * factor,
        )
        self.engine.settings = replace(self._settings, latency=latency)

    def die(self) -> list[Request]:
        """All that it had, which is lost; the cache too."""
        lost, self.requests = list(self.requests.values()), {}
        self.engine = Engine(self._settings)
        self.alive = False
        return lost

    def figures(self, now: float) -> Load:
        """What its /metrics would say."""
        engine = self.engine
        running, waiting = engine.adapters()
        return Load(
            waiting=engine.waiting,
            running=engine.running,
            kv_usage=min(1.0, engine.usage),
            loras=frozenset(running),
            loras_waiting=frozenset(waiting),
            max_loras=self._settings.max_loras,
            block_tokens=BLOCK_TOKENS,
            blocks=self._settings.kv_blocks,
            scraped=now,
        )

    def cached_tokens(self, hashes: tuple[int, ...], prompt_tokens: int) -> int:
        """Of a prompt, now: nobody outside knows it, but the oracle."""
        return self.engine.cache.hits(hashes[: (prompt_tokens - 1) // BLOCK_TOKENS]) * BLOCK_TOKENS
