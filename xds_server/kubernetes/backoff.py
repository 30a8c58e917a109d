"""How long to wait before the next attempt: exponential, with a ceiling and jitter, so that replicas do not come in step."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds."""

    base: float = 0.5
    ceiling: float = 10.0  # low: an API server that is back should find us soon

    def delay(self, attempt: int, chance: Callable[[], float], at_least: float = 0.0) -> float:
        """Before attempt 1, 2, ...: half of it fixed, half by `chance` in [0, 1); `at_least` is what the server asked for."""
        full = min(self.ceiling, self.base * 2.0 ** min(max(attempt, 1) - 1, 30))
        return max(full * (0.5 + chance() / 2), at_least)
