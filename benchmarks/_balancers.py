"""Policies of benchmarks.quality that are not the product: load balancers as Envoy has them, and oracles that know everything."""

import random
from collections.abc import Sequence

from benchmarks._fleet import SLOTS, chain
from benchmarks._simulate import Chosen, Later, Simulation
from benchmarks._workloads import OBJECTIVE, Request
from picker.load import Load

FALLBACKS = 3  # servers of one decision


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
        self.forget()
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

    def forget(self) -> None:
        """What has ended: the oracle needs no access log."""
        requests = self._simulation.requests_by_id
        for name, busy in self._sent.items():
            self._sent[name] = {id_: left for id_, left in busy.items() if requests[id_].end is None}


class PatientOracle(Oracle):
    """The same, and what would not get its first token in time where a slot is free waits in the gateway, or is refused."""

    def __init__(self, seed: int, simulation: Simulation) -> None:
        super().__init__(seed, simulation)
        self._waiting: list[tuple[Request, tuple[int, ...]]] = []  # the oldest first

    def decide(self, request: Request, _now: float) -> Chosen | None:
        self._waiting.append((request, chain(request)))
        return None  # it is asked for again at once

    def poll(self, now: float) -> Later:
        self.forget()
        turns = [(request, hashes, self._turn(request, hashes, now)) for request, hashes in self._waiting]
        self._waiting = [(request, hashes) for request, hashes, chosen in turns if chosen is None]
        return [(request, chosen) for request, _, chosen in turns if chosen is not None]

    def next_deadline(self) -> float | None:
        return self._simulation.now + 0.01 if self._waiting else None

    def _turns(self, now: float) -> list[tuple[Request, Chosen]]:
        self.forget()
        self._turned, kept = [], []
        for request, hashes in self._waiting:
            chosen = self._turn(request, hashes, now)
            if chosen is None:
                kept.append((request, hashes))
            else:
                self._turned.append((request, chosen))
        self._waiting = kept
        return self._turned

    def _turn(self, request: Request, hashes: tuple[int, ...], now: float) -> Chosen | None:
        left = request.offered + OBJECTIVE - now
        best: tuple[float, float, str] | None = None
        possible = False
        for name in self.names:
            ttft, seconds = self._predict(name, request, hashes)
            free = len(self._sent.get(name, {})) < SLOTS
            possible |= ttft <= left or not free
            if free and ttft <= left and (best is None or ttft < best[0]):
                best = ttft, seconds, name
        if best is None:
            return () if not possible or left < 0 else None
        self._sent.setdefault(best[2], {})[request.id] = best[1]
        return (best[2],)
