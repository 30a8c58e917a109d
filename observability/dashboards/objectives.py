"""Service level objectives: what counts as good, how much of it, and how fast the budget of errors burns.

Multi-window, multi-burn-rate, as in the SRE workbook, chapter 5: a long window says that it matters, a short one that it is still
going on. Bounds of latencies are bounds of buckets, so that the ratios are exact.
"""

from dataclasses import dataclass

from observability import catalogue as c
from observability.catalogue import Metric

PERIOD = "28d"
# Requests a second, over the long window, below which a ratio says nothing: one error of three is no outage.
FLOOR = 0.05


@dataclass(frozen=True, slots=True)
class Burn:
    """Alert when both windows burn `factor` times what would use the budget up in exactly 28 days."""

    name: str
    factor: float
    long: str
    short: str
    page: bool


_STRICT = (
    Burn("Fast", 14.4, "1h", "5m", page=True),
    Burn("Quick", 6.0, "6h", "30m", page=True),
    Burn("Slow", 3.0, "1d", "2h", page=False),
    Burn("Creeping", 1.0, "3d", "6h", page=False),
)
# 14.4 times 5 % is 72 % of all requests: an objective that loose is broken long before.
_LOOSE = (Burn("Fast", 10.0, "1h", "5m", page=True), *_STRICT[1:])


@dataclass(frozen=True, slots=True)
class Objective:
    """Of each pool. With `below`, `total` is a histogram and good is what it counts up to there; else `bad` are its errors."""

    name: str
    title: str
    goal: float
    total: Metric
    where: str = ""  # of `total`
    bad: Metric | None = None
    bad_where: str = ""
    below: float = 0.0  # seconds
    burns: tuple[Burn, ...] = ()  # that alert

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1.0 - self.goal, 9)

    def record(self, window: str) -> str:
        """The name of the recording rule."""
        return f"pool:penstock_{self.name}_bad:ratio_rate{window}"

    def requests(self, window: str, selector: str = "") -> str:
        """Those that count, a second, by pool."""
        return f"sum by (pool) (rate({self.total.name}{self._suffix}{{{_and(self.where, selector)}}}[{window}]))"

    def ratio(self, window: str, selector: str = "", by: str = "pool") -> str:
        """The share that was bad, as PromQL; where there was no request there is none. `by` "" for all pools together."""
        grouped = f"sum by ({by})" if by else "sum"
        total = f"{grouped} (rate({self.total.name}{self._suffix}{{{_and(self.where, selector)}}}[{window}]))"
        if self.bad is None:
            le = f'le="{float(self.below)!r}"'
            good = f"{grouped} (rate({self.total.name}_bucket{{{_and(self.where, le, selector)}}}[{window}]))"
            return f"1 - {good} / {total}"
        bad = f"{grouped} (rate({self.bad.name}{{{_and(self.bad_where, selector)}}}[{window}]))"
        return f"({bad} or 0 * {total}) / {total}"  # absent until the first error

    @property
    def _suffix(self) -> str:
        return "" if self.bad else "_count"


def _and(*matchers: str) -> str:
    return ",".join(each for each in matchers if each)


_STREAMS = 'streaming="true"'
AVAILABILITY = Objective(
    *("availability", "Requests without an error of ours", 0.999, c.REQUESTS_TOTAL),
    bad=c.REQUEST_ERRORS_TOTAL,
    bad_where='class="server"',
    burns=_STRICT,
)
TTFT = Objective(
    *("ttft", "Streams whose first token came within 2 s", 0.95, c.TIME_TO_FIRST_TOKEN_SECONDS, _STREAMS),
    below=2.0,
    burns=_LOOSE,
)
TPOT = Objective(
    *("tpot", "Streams with at most 0.1 s per output token", 0.99, c.TIME_PER_OUTPUT_TOKEN_SECONDS), below=0.1
)
SCHEDULE = Objective("schedule", "Decisions within 10 ms", 0.99, c.SCHEDULE_DURATION_SECONDS, below=0.01)
OBJECTIVES = (AVAILABILITY, TTFT, TPOT, SCHEDULE)


def recording() -> tuple[tuple[Objective, str], ...]:
    """The windows of each objective that alerts look at: they are recorded, since nobody wants to sum three days every 30 s."""
    return tuple(
        (objective, window)
        for objective in OBJECTIVES
        for window in dict.fromkeys(window for burn in objective.burns for window in (burn.short, burn.long))
    )


def recorded() -> dict[str, tuple[str, ...]]:
    """The series that the recording rules make, with their labels."""
    return {objective.record(window): ("pool",) for objective, window in recording()}
