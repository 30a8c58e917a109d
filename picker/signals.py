"""Signals: the Load of every endpoint of every pool, merged from scrapes and from our own in-flight count.

`loads` is on the request path: only the endpoints that changed since the last call are built again. No clock in here.
"""

from collections.abc import Callable, Mapping, Sequence

from picker.facts import Decision, Outcome
from picker.inflight import TIMEOUT, InFlight, LogEntry
from picker.load import Load
from xds_server.model.graph import Endpoint

_UNKNOWN = Load()


class Signals:
    """What is known of the endpoints. `now` and other times are time.monotonic() values."""

    def __init__(self, timeout: float = TIMEOUT, on_busy: Callable[[str], None] = lambda _: None) -> None:
        """`timeout`: see InFlight. `on_busy` is called with an endpoint that gets its first request in flight."""
        self.inflight = InFlight(timeout, self._changed)
        self.on_busy = on_busy
        self._figures: dict[str, Load] = {}  # as scraped
        self._asked: dict[str, int] = {}  # what was in flight when the scrape that runs was sent
        self._at_scrape: dict[str, int] = {}  # what was in flight when the figures were taken
        self.failures: dict[str, int] = {}  # scrapes that failed, ever, of the endpoints that there are
        self._busy: set[str] = set()
        self._loads: dict[str, dict[str, Load]] = {}  # pool -> endpoint -> merged
        self._stale: dict[str, set[str]] = {}  # pool -> endpoints to merge again
        self._pools: dict[str, tuple[str, ...]] = {}  # endpoint -> pools

    def update(self, pools: Mapping[str, Sequence[Endpoint]]) -> None:
        """The endpoints of each pool, by the pool's name; figures of endpoints that are gone are forgotten."""
        keys = {pool: [str(endpoint) for endpoint in endpoints] for pool, endpoints in pools.items()}
        of: dict[str, list[str]] = {}
        for pool, found in keys.items():
            for key in found:
                of.setdefault(key, []).append(pool)
        self._pools = {key: tuple(names) for key, names in of.items()}
        for known in (self._figures, self._asked, self._at_scrape, self.failures):
            for gone in known.keys() - of.keys():
                del known[gone]
        self._loads = {pool: {key: self._merged(key) for key in found} for pool, found in keys.items()}
        self._stale = {pool: set() for pool in keys}

    def loads(self, pool: str) -> Mapping[str, Load]:
        """Every endpoint ("ip:port") of the pool; empty for an unknown pool. Valid until something else is called."""
        if stale := self._stale.get(pool):
            merged = self._loads[pool]
            for key in stale:
                merged[key] = self._merged(key)
            stale.clear()
        return self._loads.get(pool, {})

    def started(self, decision: Decision, now: float) -> None:
        """Count a request that was given endpoints."""
        self.inflight.started(decision, max(decision.prompt_tokens - decision.matched_tokens, 0), now)

    def finished(self, entry: LogEntry) -> Outcome | None:
        """See InFlight.finished."""
        return self.inflight.finished(entry)

    def reported(self, outcome: Outcome) -> None:
        """See InFlight.reported."""
        self.inflight.reported(outcome)

    def expired(self, now: float) -> list[Outcome]:
        """See InFlight.expired; to be called every few seconds."""
        return self.inflight.expired(now)

    def asked(self, endpoint: str) -> None:
        """A scrape was sent. What is in flight now is what the figures will contain, give or take one."""
        self._asked[endpoint] = self.inflight.count(endpoint)

    def scraped(self, endpoint: str, figures: Load, sent_at: float) -> None:
        """A scrape that was sent at `sent_at` came back."""
        self._figures[endpoint] = figures
        counted = self.inflight.count(endpoint)
        self.inflight.on_scrape(endpoint, figures, sent_at)
        ghosts = counted - self.inflight.count(endpoint)  # not in the figures either
        self._at_scrape[endpoint] = max(self._asked.pop(endpoint, 0) - ghosts, 0)
        self._changed(endpoint)

    def failed(self, endpoint: str) -> int:
        """A scrape failed: the last figures stay, `errors` counts. Returns how many failed in a row."""
        self._asked.pop(endpoint, None)
        known = self._figures.get(endpoint, _UNKNOWN)
        self.failures[endpoint] = self.failures.get(endpoint, 0) + 1
        self._figures[endpoint] = _with(known, known.errors + 1, 0, 0, 0)
        self._changed(endpoint)
        return known.errors + 1

    def contended(self, endpoint: str) -> bool:
        """It has requests in flight, or requests of others wait there: worth a fresh look."""
        return self.inflight.count(endpoint) > 0 or self._figures.get(endpoint, _UNKNOWN).waiting > 0

    def _changed(self, endpoint: str) -> None:
        for pool in self._pools.get(endpoint, ()):
            self._stale[pool].add(endpoint)
        if not self.inflight.count(endpoint):
            self._busy.discard(endpoint)
        elif endpoint not in self._busy:
            self._busy.add(endpoint)
            self.on_busy(endpoint)

    def _merged(self, endpoint: str) -> Load:
        figures, inflight = self._figures.get(endpoint, _UNKNOWN), self.inflight
        at_scrape = self._at_scrape.get(endpoint, 0)
        return _with(figures, figures.errors, inflight.count(endpoint), inflight.tokens(endpoint), at_scrape)


def _with(figures: Load, errors: int, inflight: int, tokens: int, at_scrape: int) -> Load:
    """dataclasses.replace takes three times as long."""
    return Load(
        figures.waiting,
        figures.running,
        figures.kv_usage,
        figures.loras,
        figures.loras_waiting,
        figures.max_loras,
        figures.block_tokens,
        figures.blocks,
        figures.scraped,
        errors,
        inflight,
        tokens,
        at_scrape,
    )
