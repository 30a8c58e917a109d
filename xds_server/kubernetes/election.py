"""Leader election on a Lease, without a network or a clock of its own: whose it is, and what to write to have it.

Source: `coordination.k8s.io/v1`; client-go's leaderelection. Times of other machines are never compared with ours: a lease is
free once we have seen it unchanged for as long as its holder asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds; each less than the one before, as in client-go."""

    duration: float = 15.0  # others wait this long after the last renewal that they saw
    deadline: float = 10.0  # a leader that could not renew for this long stops leading: before another may start
    retry: float = 2.0


class Candidate:
    """Shown the Lease again and again, says what to write."""

    def __init__(self, identity: str, terms: Terms) -> None:
        self.identity, self._terms = identity, terms
        self._seen: tuple[str, str] = ("", "")  # (holder, renewTime)
        self._since = 0.0

    def claim(self, lease: Mapping[str, Any] | None, now: float, wall: datetime) -> Json | None:
        """The spec that makes or keeps the Lease ours; None while it is another's. `now` in seconds of a steady clock."""
        spec = (lease or {}).get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        renewal = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, int(self._terms.duration)),
            "renewTime": micro_time(wall),
        }
        if holder == self.identity:
            return renewal
        seen = (holder, spec.get("renewTime") or "")
        if seen != self._seen:
            self._seen, self._since = seen, now
        if holder and now - self._since < float(spec.get("leaseDurationSeconds") or self._terms.duration):
            return None
        transitions = int(spec.get("leaseTransitions") or 0) + bool(lease)
        return renewal | {"acquireTime": micro_time(wall), "leaseTransitions": transitions}


def release(wall: datetime) -> Json:
    """The spec that lets the next one start at once."""
    return {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(wall)}


def micro_time(wall: datetime) -> str:
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
