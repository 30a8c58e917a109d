"""Failures on demand: for a share of the requests, for one (header `x-sim-fail`), or from now on (POST /sim).

A kind is `500`, `503`, `reset` (the connection is closed before the answer), `hang` (no answer ever), `slow` (a second late),
`abort` or `abort:N` (the connection is closed after N tokens, 1 if not said).
"""

import random
from dataclasses import dataclass

KINDS = ("500", "503", "reset", "hang", "slow", "abort")


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request."""

    kind: str
    tokens: int = 1  # "abort": after so many

    @staticmethod
    def parse(text: str) -> "Fault":
        """Raises ValueError."""
        kind, _, count = text.partition(":")
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        return Fault(kind, int(count) if count else 1)


@dataclass(slots=True)
class Faults:
    """Which requests fail; `rate` is in [0, 1], of all requests to the completion paths."""

    kind: str = "500"
    rate: float = 0.0
    healthy: bool = True  # /health
    slow_seconds: float = 1.0

    def change(self, fields: dict[str, object]) -> None:
        """From JSON with some of `kind`, `rate`, `healthy`, `slow_seconds`. Raises ValueError, and then changes nothing."""
        unknown = fields.keys() - {"kind", "rate", "healthy", "slow_seconds"}
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        kind = Fault.parse(str(fields.get("kind", self.kind)))
        rate, slow = (
            _number(fields.get(name, now)) for name, now in (("rate", self.rate), ("slow_seconds", self.slow_seconds))
        )
        if not 0.0 <= rate <= 1.0:
            raise ValueError("rate is not in [0, 1]")
        self.kind = f"{kind.kind}:{kind.tokens}" if kind.kind == "abort" else kind.kind
        self.rate, self.slow_seconds = rate, slow
        self.healthy = bool(fields.get("healthy", self.healthy))

    def of(self, header: str, dice: random.Random) -> Fault | None:
        """The fault of one request; its own header first. Raises ValueError for a header that is none of the kinds."""
        if header:
            return Fault.parse(header)
        return Fault.parse(self.kind) if self.rate and dice.random() < self.rate else None


def _number(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    raise ValueError(f"{value!r} is not a number")
