"""The event loop of benchmarks.quality: requests, servers, scrapes and access log entries in virtual time.

What a gateway cannot have it does not get here: figures of servers come by scrapes that are sent every 50 to 200 ms and take
5 to 50 ms, the end of a request is known when its access log entry comes (Envoy sends them every 20 ms), and a server that died
leaves the list of ready ones seconds later.
"""

import heapq
import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from benchmarks._fleet import Server
from benchmarks._workloads import Request, Workload
from picker.load import Load

HOP = 0.001  # from the gateway to a server
LOG = 0.02  # from the end of a request until the picker hears of it
SCRAPE = (0.05, 0.2)
SCRAPE_TAKES = (0.005, 0.05)
NOTICED = 5.0  # from the death, or the return, of a server until the list of ready servers says so
LONGEST = 3600.0  # a run that lasts longer hangs

Chosen = tuple[str, ...]  # servers, best first; () is a refusal
Later = Iterable[tuple[Request, Chosen]]


class Policy(Protocol):
    """Who decides. `decide` gives None for a request that waits: then `poll` gives it at another time."""

    def ready(self, servers: Sequence[str], now: float) -> None: ...
    def decide(self, request: Request, now: float) -> Chosen | None: ...
    def poll(self, now: float) -> Later: ...
    def next_deadline(self) -> float | None: ...
    def finished(self, request: Request, now: float) -> None: ...
    def asked(self, server: str) -> None: ...
    def scraped(self, server: str, figures: Load | None, sent_at: float, now: float) -> None: ...


class Simulation:
    """One run: `run` gives the requests back when every one has ended."""

    def __init__(
        self, workload: Workload, requests: Sequence[Request], seconds: float, servers: int, seed: int
    ) -> None:
        self.now = 0.0
        self.fleet = {
            f"10.0.0.{index + 1}:8000": Server(f"10.0.0.{index + 1}:8000", workload) for index in range(servers)
        }
        self.requests = requests
        self.requests_by_id = {request.id: request for request in requests}
        self._workload = workload
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._open = len(requests)
        self._next: dict[int, list[Request]] = {}  # id -> the turns that come after it
        self._poll_at: float | None = None

    def run(self, policy: Policy) -> Sequence[Request]:
        self._policy = policy
        policy.ready(list(self.fleet), 0.0)
        for request in self.requests:
            if request.after is None:
                self._at(request.arrival, self._arrive, request)
            else:
                self._next.setdefault(request.after.id, []).append(request)
        for server in self.fleet.values():
            self._at(self._chance.uniform(0.0, SCRAPE[0]), self._ask, server)
        self._faults()
        while self._open:
            self.now, _, act, arguments = heapq.heappop(self._events)
            if self.now > LONGEST:
                raise RuntimeError(f"{self._open} requests never end")
            act(*arguments)
        return self.requests

    def _at(self, when: float, act: Callable[..., None], *arguments: object) -> None:
        heapq.heappush(self._events, (when, next(self._order), act, arguments))

    # --- the gateway ---

    def _arrive(self, request: Request) -> None:
        request.offered = self.now
        chosen = self._policy.decide(request, self.now)
        if chosen is not None:
            self._send(request, chosen)
        self._poll()

    def _poll(self) -> None:
        """Let those that wait go on, and come back when the policy says so."""
        for request, chosen in self._policy.poll(self.now):
            self._send(request, chosen)
        due = self._policy.next_deadline()
        if due is not None and (self._poll_at is None or due < self._poll_at):
            self._poll_at = max(due, self.now + 1e-6)
            self._at(self._poll_at, self._polled, self._poll_at)

    def _polled(self, at: float) -> None:
        if at == self._poll_at:
            self._poll_at = None
            self._poll()

    def _send(self, request: Request, chosen: Chosen) -> None:
        if not chosen:
            self._ended(request, 429)
            return
        request.sent = self.now
        self._at(self.now + HOP, self._connect, request, chosen)

    def _connect(self, request: Request, chosen: Chosen) -> None:
        """As Envoy does it: a server that does not accept the connection is followed by the next of the list."""
        server = next((self.fleet[name] for name in chosen if self.fleet[name].alive), None)
        request.server = chosen[0] if server is None else server.name
        if server is None:
            self._ended(request, 503)
            return
        server.submit(request, self.now)
        self._schedule(server)

    def _ended(self, request: Request, status: int) -> None:
        assert request.end is None, f"request {request.id} ends twice"
        request.status, request.end = status, self.now
        self._open -= 1
        if request.sent is not None:
            self._at(self.now + LOG, self._logged, request)
        for turn in self._next.pop(request.id, ()):
            self._at(max(turn.arrival, self.now + turn.think), self._arrive, turn)

    def _logged(self, request: Request) -> None:
        self._policy.finished(request, self.now)
        self._poll()

    # --- the servers ---

    def _schedule(self, server: Server) -> None:
        due = server.engine.next_time()
        if due is not None and (server.scheduled is None or due < server.scheduled):
            server.scheduled = due
            self._at(due, self._advance, server, due)

    def _advance(self, server: Server, due: float) -> None:
        if server.scheduled != due:
            return  # another event comes earlier, or came
        server.scheduled = None
        for request, ended in server.advance(self.now):
            if request.first is None:
                request.first = self.now
            if ended:
                self._ended(request, 200)
        self._schedule(server)

    def _ask(self, server: Server) -> None:
        self._policy.asked(server.name)
        figures = server.figures(self.now) if server.alive else None
        self._at(self.now + self._chance.uniform(*SCRAPE_TAKES), self._answer, server, figures, self.now)

    def _answer(self, server: Server, figures: Load | None, sent_at: float) -> None:
        self._policy.scraped(server.name, figures, sent_at, self.now)
        self._poll()
        self._at(sent_at + self._chance.uniform(*SCRAPE), self._ask, server)

    # --- what goes wrong ---

    def _faults(self) -> None:
        servers = list(self.fleet.values())
        for fault in self._workload.faults:
            start, stop = fault.start * self._seconds, fault.stop * self._seconds
            for index in fault.servers:
                if fault.dead:
                    self._at(start, self._die, servers[index])
                    self._at(stop, self._revive, servers[index])
                else:
                    self._at(start, servers[index].slow_down, fault.slowdown)
                    self._at(stop, servers[index].slow_down, 1.0)

    def _die(self, server: Server) -> None:
        for request in server.die():
            self._ended(request, 503)
        server.scheduled = None
        self._at(self.now + NOTICED, self._notice)

    def _revive(self, server: Server) -> None:
        server.alive = True
        self._at(self.now + NOTICED, self._notice)

    def _notice(self) -> None:
        self._policy.ready([server.name for server in self.fleet.values() if server.alive], self.now)
        self._poll()
