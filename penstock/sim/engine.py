"""The scheduler of the simulated server: continuous batching, as a pure state machine given (event, now).

`submit` and `cancel` are events; `advance(now)` does everything that is due until `now` and says what each request got;
`next_time` is when to call it again. First come, first served: a request that lacks KV blocks holds up those behind it, one
that lacks a LoRA slot does not (as in vLLM). Blocks for the whole answer are taken at the start, so nothing is preempted.
"""

import heapq
import random
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from penstock.sim.cache import BlockCache
from penstock.sim.latency import Latency


class Full(Exception):
    """The waiting queue is at its cap: 503."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Sizes of the simulated server."""

    max_num_seqs: int = 8  # requests in the batch
    kv_blocks: int = 4096
    block_tokens: int = 16
    max_loras: int = 0  # adapters in the batch; 0: unlimited
    max_queued: int = 0  # waiting requests; 0: unlimited
    latency: Latency = Latency()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """One request. `hashes` has the full blocks of prompt and answer together."""

    id: int
    prompt_tokens: int
    max_tokens: int
    hashes: tuple[int, ...] = ()
    adapter: str = ""
    natural_end: bool = False  # "stop", not "length", is why it ends


@dataclass(slots=True)
class Progress:
    """What a request got in one `advance`."""

    tokens: int = 0
    finished: str = ""  # "stop", "length"
    cached_tokens: int = 0


@dataclass(slots=True)
class Stats:
    """Since the start, as in /metrics; times are seconds."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0  # tokens
    cache_hits: int = 0
    rejected: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stop", "length", "abort", "error"), 0))
    ttft: list[float] = field(default_factory=list)  # not yet taken by the histogram
    duration: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Seat:
    """A request in the batch."""

    job: Job
    arrived: float
    prompt_blocks: int
    private: int
    cached_tokens: int
    tokens: int = 0


class Engine:
    """One model server's scheduler."""

    def __init__(self, settings: EngineSettings = EngineSettings()) -> None:
        self.settings = settings
        self.stats = Stats()
        self.cache = BlockCache(settings.kv_blocks)
        self._random = random.Random(settings.seed)  # noqa: S311  # jitter
        self._waiting: deque[tuple[Job, float]] = deque()
        self._seats: dict[int, _Seat] = {}
        self._prefills: list[tuple[float, int]] = []  # heap of (done, id); cancelled ones stay until they are due
        self._decoding: dict[int, _Seat] = {}
        self._tick: float | None = None
        self._adapters: OrderedDict[str, int] = OrderedDict()  # in a slot -> requests; least recently used first

    @property
    def running(self) -> int:
        return len(self._seats)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def usage(self) -> float:
        return self.cache.used / self.cache.blocks

    def adapters(self) -> tuple[list[str], list[str]]:
        """(running, waiting) adapters, sorted."""
        running = {name for name, users in self._adapters.items() if users}
        waiting = {job.adapter for job, _ in self._waiting if job.adapter}
        return sorted(running), sorted(waiting)

    def fits(self, tokens: int) -> bool:
        """A request this long can ever run."""
        return self._blocks(tokens) <= self.settings.kv_blocks

    def submit(self, job: Job, now: float) -> None:
        """A request arrives. Raises Full."""
        self._admit(now)
        if self.settings.max_queued and len(self._waiting) >= self.settings.max_queued:
            self.stats.rejected += 1
            raise Full(f"{len(self._waiting)} requests are waiting")
        self._waiting.append((job, now))
        self._admit(now)

    def cancel(self, id_: int, now: float) -> None:
        """The client went away; nothing happens for an unknown or finished request."""
        if id_ in self._seats:
            self._leave(self._seats[id_], "abort", now)
        else:
            self._waiting = deque(one for one in self._waiting if one[0].id != id_)
        self._admit(now)

    def next_time(self) -> float | None:
        """When `advance` has something to do; None while nothing runs."""
        times = [self._tick] if self._tick is not None else []
        if self._prefills:
            times.append(self._prefills[0][0])
        return min(times, default=None)

    def advance(self, now: float) -> dict[int, Progress]:
        """Everything until `now`, each at its own time: being called late changes nothing but when it is heard of."""
        heard: dict[int, Progress] = {}
        while (due := self.next_time()) is not None and due <= now:
            if self._tick is not None and self._tick <= due:
                self._tick = None
                for seat in list(self._decoding.values()):
                    self._token(seat, due, heard)
            else:
                _, id_ = heapq.heappop(self._prefills)
                seat_or_none = self._seats.get(id_)
                if seat_or_none is not None and not seat_or_none.tokens:
                    self.stats.ttft.append(due - seat_or_none.arrived)
                    self._decoding[id_] = seat_or_none
                    self._token(seat_or_none, due, heard)
            self._admit(due)
            if self._tick is None and self._decoding:
                step = self.settings.latency.step(len(self._decoding), self.settings.max_num_seqs)
                self._tick = due + self._jittered(step)
        return heard

    def _token(self, seat: _Seat, now: float, heard: dict[int, Progress]) -> None:
        seat.tokens += 1
        self.stats.generation_tokens += 1
        progress = heard.get(seat.job.id)
        if progress is None:
            progress = heard[seat.job.id] = Progress(cached_tokens=seat.cached_tokens)
        progress.tokens += 1
        if seat.tokens >= seat.job.max_tokens:
            progress.finished = "stop" if seat.job.natural_end else "length"
            self._leave(seat, progress.finished, now)

    def _leave(self, seat: _Seat, why: str, now: float) -> None:
        job = seat.job
        del self._seats[job.id]
        self._decoding.pop(job.id, None)
        if not self._decoding:
            self._tick = None
        # The last token is sampled, never computed: its KV does not exist.
        computed = (job.prompt_tokens + max(seat.tokens - 1, 0)) // self.settings.block_tokens if seat.tokens else 0
        self.cache.give_back(job.hashes[: seat.prompt_blocks], seat.private, job.hashes[seat.prompt_blocks : computed])
        if job.adapter:
            self._adapters[job.adapter] -= 1
        self.stats.finished[why] += 1
        self.stats.duration.append(now - seat.arrived)

    def _admit(self, now: float) -> None:
        """Seat waiting requests while there are slots and blocks; those that wait for a LoRA slot are passed over."""
        passed: list[tuple[Job, float]] = []
        while self._waiting and len(self._seats) < self.settings.max_num_seqs:
            job, arrived = self._waiting[0]
            if not self._has_slot(job.adapter):
                passed.append(self._waiting.popleft())
                continue
            if not self._seat(job, arrived, now):
                break
            self._waiting.popleft()
        self._waiting.extendleft(reversed(passed))

    def _seat(self, job: Job, arrived: float, now: float) -> bool:
        size, latency = self.settings.block_tokens, self.settings.latency
        full = min(job.prompt_tokens // size, len(job.hashes))
        # The last prompt token is always computed: its output is the first token.
        reusable = (job.prompt_tokens - 1) // size
        hits = self.cache.hits(job.hashes[: min(full, reusable)])
        private = self._blocks(job.prompt_tokens + job.max_tokens) - full
        if not self.cache.take(job.hashes[:full], private):
            return False
        cached = hits * size
        seat = self._seats[job.id] = _Seat(job, arrived, full, private, cached)
        self.stats.prompt_tokens += job.prompt_tokens
        self.stats.cache_queries += job.prompt_tokens
        self.stats.cache_hits += cached
        seconds = latency.prefill(job.prompt_tokens - cached, len(self._seats), self.settings.max_num_seqs)
        if job.adapter:
            seconds += self._load_adapter(job.adapter)
        heapq.heappush(self._prefills, (now + self._jittered(seconds), seat.job.id))
        return True

    def _has_slot(self, adapter: str) -> bool:
        slots = self.settings.max_loras
        if not adapter or not slots or adapter in self._adapters or len(self._adapters) < slots:
            return True
        return any(not users for users in self._adapters.values())

    def _load_adapter(self, adapter: str) -> float:
        """Seconds to bring an adapter into a slot: none if it is there."""
        known = adapter in self._adapters
        if not known and self.settings.max_loras and len(self._adapters) >= self.settings.max_loras:
            del self._adapters[next(name for name, users in self._adapters.items() if not users)]
        self._adapters[adapter] = self._adapters.get(adapter, 0) + 1
        self._adapters.move_to_end(adapter)
        return 0.0 if known else self.settings.latency.lora_ms / 1000.0

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.settings.block_tokens)

    def _jittered(self, seconds: float) -> float:
        jitter = self.settings.latency.jitter
        return seconds * self._random.uniform(1.0 - jitter, 1.0 + jitter) if jitter else seconds
