"""How often one object's status may be written: at once, until somebody writes it back; then slower and slower.

Pure. Only repeated writes of the same wish count: a Gateway whose routes come and go may be written as often as they do.
"""

from dataclasses import dataclass

from xds_server.model.graph import ObjectStatus
from xds_server.model.objects import ObjectRef


@dataclass(slots=True)
class _Written:
    wish: ObjectStatus
    count: int
    at: float


class Pacing:
    """Seconds. `burst` writes of one wish are free; `quiet` seconds without one, and they are again."""

    def __init__(self, *, burst: int = 3, base: float = 1.0, ceiling: float = 30.0, quiet: float = 120.0) -> None:
        self._burst, self._base, self._ceiling, self._quiet = burst, base, ceiling, quiet
        self._written: dict[ObjectRef, _Written] = {}

    def wait(self, ref: ObjectRef, wish: ObjectStatus, now: float) -> float:
        """How long before `wish` may be written; 0 for now."""
        last = self._written.get(ref)
        if last is None or last.count < self._burst or last.wish != wish:
            return 0.0
        gap = min(self._ceiling, self._base * 2.0 ** min(last.count - self._burst, 20))
        return max(0.0, last.at + gap - now)

    def wrote(self, ref: ObjectRef, wish: ObjectStatus, now: float) -> None:
        last = self._written.get(ref)
        again = last is not None and last.wish == wish and now - last.at < self._quiet
        self._written[ref] = _Written(wish, last.count + 1 if last and again else 1, now)

    def forget(self, ref: ObjectRef) -> None:
        self._written.pop(ref, None)
