"""A user's own scorer: a Python function that the file names, kept from doing harm.

    def cheapest(view):                      # view: ScorerView; one figure for each endpoint, 1 for the best, 0 for the worst
        return [1.0 - endpoint.kv_usage for endpoint in view.endpoints]

One that raises, gives too few figures or one outside [0, 1] counts as UNKNOWN for that request; one that does so three times in a
row, or takes longer than its budget, is left out for half a minute. It runs on the loop that serves picks: nothing can interrupt
it, so one that waits for a network stops all picks until it is back. The clock is an argument: the core has none.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from picker.plugins.parameters import Parameters
from picker.scorers import UNKNOWN, View, running, waiting

KIND = "python-scorer"
BUDGET = 0.001  # seconds of one call
FAR_OVER = 10.0  # budgets that one call may take; several shorter ones may be a pause of the interpreter
STRIKES = 3  # faults, or calls over the budget, in a row
REST = 30.0  # seconds that it is left out
REMEMBER = 300.0  # seconds that a fault is shown


@dataclass(frozen=True, slots=True)
class ScorerEndpoint:
    """One candidate. Requests and tokens are counts, `kv_usage` is in [0, 1]; scraped ones mean nothing unless `known`."""

    name: str  # "ip:port"
    zone: str
    node: str
    labels: Mapping[str, str]  # of the pod
    known: bool  # the figures of its last scrape are fresh
    waiting: float
    running: float
    kv_usage: float
    cached_tokens: int  # of this prompt, as far as we know
    inflight: int  # requests sent by this gateway that have not ended
    inflight_tokens: int  # their uncached prompt tokens


@dataclass(frozen=True, slots=True)
class ScorerView:
    """One request and its candidates."""

    model: str  # as the server will be asked
    prompt_tokens: int  # estimated
    headers: Mapping[str, str]  # lower-case names
    endpoints: tuple[ScorerEndpoint, ...]


Function = Callable[[ScorerView], Iterable[float]]


@dataclass(frozen=True, slots=True)
class Own:
    """What the shell gives: how to find a function by name (raises LookupError with a remedy), and a clock in seconds."""

    find: Callable[[str], Function]
    clock: Callable[[], float]


class Guarded:
    """A Scorer around a user's function."""

    def __init__(self, name: str, function: Function, clock: Callable[[], float], budget: float = BUDGET) -> None:
        self.name = name
        self.calls = self.faults = 0
        self._function, self._clock, self._budget = function, clock, budget
        self._strikes = 0
        self._until = self._seen = float("-inf")  # left out until; when the last fault was
        self._last = ""

    def __call__(self, view: View) -> list[float]:
        count, began = len(view.names), self._clock()
        if began < self._until:
            return [UNKNOWN] * count
        self.calls += 1
        fault, scores = "", [UNKNOWN] * count
        try:
            found = [float(score) for score in self._function(seen(view))]
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a stranger's function does, the pick goes on
            fault = f"{type(error).__name__}: {error}"[:200]
        else:
            wrong = [score for score in found if not 0.0 <= score <= 1.0]
            if len(found) != count:
                fault = f"gave {len(found)} figures for {count} endpoints"
            elif wrong:
                fault = f"gave {wrong[0]!r}, which is not in [0, 1]"
            else:
                scores = found
        now = self._clock()
        took = now - began
        if not fault and took > self._budget:
            fault = f"took {took * 1000:.3g} ms of {self._budget * 1000:.3g}"
        self._strike(fault, now, took)
        return scores

    def _strike(self, fault: str, now: float, took: float) -> None:
        if not fault:
            self._strikes = 0
            return
        self.faults, self._last, self._seen = self.faults + 1, fault, now
        self._strikes += 1
        if self._strikes >= STRIKES or took > FAR_OVER * self._budget:
            self._strikes, self._until = 0, now + REST

    @property
    def problem(self) -> str | None:
        """What went wrong in the last five minutes."""
        now = self._clock()
        if now - self._seen > REMEMBER:
            return None
        state = f"left out for {REST:g} s" if now < self._until else f"counts as {UNKNOWN} where it fails"
        return f"the scorer {self.name!r} failed in {self.faults} of {self.calls} calls, last: {self._last}; {state}"


def seen(view: View) -> ScorerView:
    """The read-only facade."""
    endpoints = tuple(
        ScorerEndpoint(
            view.names[i],
            endpoint.zone,
            endpoint.node,
            dict(endpoint.labels),
            view.known[i],
            waiting(load),
            running(load),
            load.kv_usage,
            view.matched[i],
            load.inflight,
            load.inflight_tokens,
        )
        for i, (endpoint, load) in enumerate(zip(view.endpoints, view.loads, strict=True))
    )
    request = view.request
    return ScorerView(view.model, request.prompt_tokens, MappingProxyType(dict(request.headers)), endpoints)


def read(given: Parameters, name: str, own: Own | None) -> Guarded:
    function, budget = given.text("function"), given.duration("budget", BUDGET)
    if own is None:
        raise given.error("function", "scorers of your own are not loaded here; start the gateway with --scorers DIR")
    try:
        return Guarded(name, own.find(function), own.clock, budget)
    except LookupError as error:
        raise given.error("function", str(error.args[0])) from None
