"""Workloads of benchmarks.quality: who asks what and when, the same for every policy, decided by the seed alone.

Of the kinds that inference-perf has: shared prefixes with skewed popularity, conversations that grow, adapters; and what goes
wrong in a fleet. A word is five bytes and one token of the server; the picker believes that four bytes are one, as it does of
real tokenizers, so its figures are never exactly those of the server.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

WORD = 5  # bytes: four letters and a space
OBJECTIVE = 0.5  # seconds to the first token: what counts as good
BURST = 0.25  # shape of the gamma distribution between arrivals: the deviation is twice the mean
SKEW = 1.05  # of Zipf's law


@dataclass(slots=True, eq=False)
class Request:
    """One request: what is asked, then what became of it. Times are virtual seconds, None until they come."""

    id: int
    arrival: float  # at the earliest: a turn of a conversation also waits for the one before it
    prompt: bytes
    answer: bytes
    model: str = "llama"
    adapter: str = ""
    tenant: str = "default"
    priority: int = 0
    objective: float | None = None  # seconds to the first token, where the client says so
    after: "Request | None" = None  # the turn before, and ...
    think: float = 0.0  # ... seconds from its end to this one
    offered: float = 0.0
    sent: float | None = None  # by the gateway to a server
    first: float | None = None
    end: float | None = None
    status: int = 0
    reason: str = ""  # of a refusal
    server: str = ""
    cached: int = 0  # prompt tokens
    estimate: tuple[int, int] = (0, 0)  # what the picker thought: prompt tokens, cached ones
    tokens: int = 0  # generated

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt) // WORD

    @property
    def max_tokens(self) -> int:
        return len(self.answer) // WORD

    @property
    def ttft(self) -> float | None:
        return None if self.first is None else self.first - self.offered

    @property
    def good(self) -> bool:
        return self.status == 200 and self.first is not None and self.first - self.offered <= OBJECTIVE


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to servers between two shares of the time: all of it is slow, or it is gone."""

    servers: tuple[int, ...]
    start: float
    stop: float
    slowdown: float = 1.0
    dead: bool = False


Make = Callable[["Text", float, float, float], list[Request]]  # (text, capacity in requests a second, load, seconds)


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    about: str
    make: Make
    kv_blocks: int = 1900  # of 16 tokens: a quarter of 100 prefixes of 1200 words
    faults: tuple[Fault, ...] = ()
    loras: int = 0  # slots of each server
    lora_ms: float = 200.0
    loads: tuple[float, ...] = (0.5, 0.8, 0.95, 1.1, 1.4)
    split: str = ""  # the field of Request by which results are told apart as well


class Text:
    """Words out of a hat, and the dice of one workload."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["".join(self.chance.choices(letters, k=WORD - 1)).encode() for _ in range(5000)]
        self._pool = b" ".join(self.chance.choices(words, k=300_000)) + b" "
        self._ids = itertools.count(1)
        self.prefixes = [self.words(1200) for _ in range(100)]

    def words(self, count: int) -> bytes:
        at = self.chance.randrange(300_000 - count) * WORD
        return self._pool[at : at + count * WORD]

    def between(self, low: int, high: int) -> bytes:
        return self.words(self.chance.randint(low, high))

    def id(self) -> int:
        return next(self._ids)

    def arrivals(self, rate: float, start: float, stop: float) -> Iterator[float]:
        """Times of bursty arrivals."""
        now = start
        while rate > 0 and (now := now + self.chance.gammavariate(BURST, 1.0 / (rate * BURST))) < stop:
            yield now


def zipf(count: int) -> list[float]:
    """Cumulative weights of the ranks."""
    return list(itertools.accumulate((rank + 1) ** -SKEW for rank in range(count)))


def shared(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """One of 100 prefixes of 1200 words, then a question of its own; four tenants."""
    weights = zipf(100)
    return [
        Request(
            text.id(),
            at,
            text.chance.choices(text.prefixes, cum_weights=weights)[0] + text.between(20, 120),
            text.between(20, 80),
            tenant=f"tenant-{text.chance.randrange(4)}",
        )
        for at in text.arrivals(load * capacity, 0.0, seconds)
    ]


def objective(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """The same, and each says that it wants its first token within 0.5 s."""
    found = shared(text, capacity, load, seconds)
    for one in found:
        one.objective = OBJECTIVE
    return found


def conversations(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """Conversations of 6 turns on one of 20 system prompts of 300 words; each turn has all turns before it."""
    systems, weights = [text.words(300) for _ in range(20)], zipf(20)
    found = []
    turns, pause = 6, seconds / 14  # most conversations end within the time
    for start in text.arrivals(load * capacity / turns, -turns * pause, seconds):
        history = text.chance.choices(systems, cum_weights=weights)[0]
        before: Request | None = None
        at = start
        tenant = f"tenant-{text.chance.randrange(4)}"
        for _ in range(turns):
            history += text.between(50, 300)
            answer, think = text.between(20, 80), pause * text.chance.uniform(0.5, 1.5)
            if 0.0 <= at < seconds:
                before = Request(text.id(), at, history, answer, tenant=tenant, after=before, think=think / 2)
                found.append(before)
            history += answer
            at += think
    return sorted(found, key=lambda one: one.arrival)


def adapters(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """One of 16 adapters, each with a system prompt of 300 words; servers have 4 slots."""
    names, weights = [f"adapter-{rank}" for rank in range(16)], zipf(16)
    systems = {name: text.words(300) for name in names}
    found = []
    for at in text.arrivals(load * capacity, 0.0, seconds):
        name = text.chance.choices(names, cum_weights=weights)[0]
        prompt = systems[name] + text.between(50, 300)
        tenant = f"tenant-{text.chance.randrange(4)}"
        found.append(Request(text.id(), at, prompt, text.between(20, 80), model=name, adapter=name, tenant=tenant))
    return found


STEADY = 0.4  # of the capacity: interactive traffic beside a flood
QUIET = 0.3  # of the capacity: a tenant beside a noisy one


def flood(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """Interactive traffic all the time; what is more than STEADY comes as batch, from a third of the time on."""
    found = shared(text, capacity, STEADY, seconds)
    for one in found:
        one.tenant = "interactive"
    extra = shared(text, capacity, max(0.0, load - STEADY), seconds * 2 / 3)
    for one in extra:
        one.arrival += seconds / 3
        one.tenant, one.priority = "batch", -1
    return sorted(found + extra, key=lambda one: one.arrival)


def neighbours(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """Two tenants of one priority: one asks for QUIET all the time, the other for all the rest."""
    found = objective(text, capacity, load, seconds)
    for one in found:
        one.tenant = "quiet" if text.chance.random() * load < QUIET else "noisy"
    return found


def _half(count: int = 8) -> tuple[int, ...]:
    return tuple(range(count // 2))


WORKLOADS = {
    one.name: one
    for one in (
        Workload("shared-prefix", "100 prefixes of 1200 words, Zipf 1.05, bursts", shared),
        Workload("objective", "the same with a TTFT objective of 0.5 s", objective),
        Workload("conversations", "6 turns that grow", conversations),
        Workload("adapters", "16 LoRA adapters, Zipf 1.05, 4 slots a server, 200 ms to load one", adapters, loras=4),
        Workload("accelerators", "half of the servers 2.5 times slower", shared, faults=(Fault(_half(), 0, 1e9, 2.5),)),
        Workload("slow-server", "one server 5 times slower for a third of the time", shared, faults=(Fault((0,), 0.4, 0.73, 5.0),)),
        Workload("dead-server", "one server dies and comes back", shared, faults=(Fault((0,), 0.4, 0.7, dead=True),)),
        Workload("flood", "batch beside interactive traffic (0.4 of the capacity)", flood, split="tenant"),
        Workload("neighbours", "two tenants, one of them noisy, objective 0.5 s", neighbours, split="tenant"),
    )
}  # fmt: skip
