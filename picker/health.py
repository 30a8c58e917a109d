"""Health: which endpoints get no requests for a while, because those that they got failed, or never ended.

What failed is told by the ends of real requests alone, so there is nothing to configure and nothing else to be wrong:

- fails: connections refused, resets, 5xx. It rests, twice as long each time, then requests trickle in, twice as often each time.
- hangs: requests are in flight and none ends, while those of its peers do. It rests until one ends well, which those do that are
  there if it goes on; others are sent seldom, half as often each time, since each of them may be stuck, too.

Mistakes of clients (4xx), and clients that leave, never count. Where all candidates rest, all are candidates. No clock in here.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import inf
from operator import attrgetter, le

from picker.facts import Reason
from picker.load import Load

# How sure a failure makes us; at 2 the endpoint rests. A 5xx may be the request's own fault: two in a row are not.
_CERTAINTY: dict[Reason, int] = {
    "upstream_connect": 2,
    "upstream_reset": 2,
    "stream_aborted": 1,  # a time limit of the route cuts long answers, too
    "upstream_5xx": 1,
    "upstream_timeout": 1,
}
_FIRST_REST, _LONGEST_REST = 0.5, 15.0  # seconds
_FIRST_TRICKLE, _LAST_TRICKLE = 0.5, 0.02  # seconds between the requests that try it; below the last it is well
_MOSTLY = 0.5  # the share of failures that is too many, though some requests end well
_HANGS_AFTER = 2.0  # seconds at least
_RESTING = attrgetter("resting")


@dataclass(slots=True)
class _Patient:
    """One endpoint. Times are those of the caller's clock."""

    until: float = -inf  # it gets nothing before
    trickle: float = 0.0  # seconds between the requests that it gets after that; 0: it is well
    since: float = -inf  # when it last began to rest: what was sent before is no news
    rests: int = 0  # in a row
    certainty: int = 0
    failing: float = 0.0  # share of the latest requests
    ended: float = -inf  # the last that ended, in whatever way
    busy: float = -inf  # when the first was sent that found nobody there
    hangs: bool = False


class Health:
    """Of all endpoints ("ip:port")."""

    def __init__(self) -> None:
        self._patients: dict[str, _Patient] = {}
        self.rests = 0  # ever
        self._latest: tuple[str, float] = ("", -inf)  # endpoint and time of the last request that ended well
        self._before: float = -inf  # the last one of any other endpoint than that

    def update(self, endpoints: Collection[str]) -> None:
        """These exist; the others are forgotten."""
        for gone in [name for name in self._patients if name not in endpoints]:
            del self._patients[gone]
        for new in endpoints:
            self._patients.setdefault(new, _Patient())

    def until(self, endpoint: str) -> float:
        """It gets no requests before this time."""
        patient = self._patients.get(endpoint)
        return patient.until if patient else -inf

    def resting(self, now: float) -> dict[str, float]:
        """Endpoints that get no requests now, or only a trickle, and until when they get none."""
        return {name: one.until for name, one in self._patients.items() if one.trickle or one.until > now}

    def started(self, endpoint: str, others: int, now: float) -> None:
        """A request was sent there, where `others` are."""
        patient = self._patients.get(endpoint)
        if patient is None:
            return
        if not others:
            patient.busy = now
        if patient.trickle:
            patient.until = max(patient.until, now + patient.trickle)
            if not patient.hangs:
                self._widen(patient, 2.0)
            elif others:
                patient.trickle = min(2.0 * patient.trickle, _LONGEST_REST)

    def ended(self, endpoint: str, reason: Reason, since: float, now: float) -> None:
        """A request that was sent there at `since` ended."""
        patient = self._patients.get(endpoint)
        if patient is None:
            return
        if not reason or reason in ("upstream_4xx", "client_cancelled"):
            if reason == "client_cancelled":
                return
            self._well(endpoint, patient, since, now)
        elif certainty := _CERTAINTY.get(reason, 0):
            self._failed(patient, certainty, since, now)

    def retried(self, endpoint: str, since: float, now: float) -> None:
        """A request that was sent there at `since` failed there, and went elsewhere."""
        if patient := self._patients.get(endpoint):
            self._failed(patient, 1, since, now)

    def check(self, endpoint: str, inflight: int, seconds: float, now: float) -> None:
        """To be called now and then: does it hang? `seconds` is how long a request takes there on the average."""
        patient = self._patients.get(endpoint)
        if patient is None or patient.hangs or inflight < 2:
            return
        quiet_since = max(patient.ended, patient.busy, patient.since)
        # As many as there are in flight end in the time of one; that long nothing ends only by a very unlikely chance.
        patience = max(_HANGS_AFTER, 1.5 * seconds, 6.0 * seconds / inflight)
        name, latest = self._latest
        peers = self._before if name == endpoint else latest
        if now - quiet_since > patience and peers > now - patience / 2:
            patient.hangs = True
            self._rest(patient, now)

    def _well(self, endpoint: str, patient: _Patient, since: float, now: float) -> None:
        patient.ended = max(patient.ended, now)
        patient.certainty = 0
        patient.failing *= 0.9
        if self._latest[0] != endpoint:
            self._before = self._latest[1]
        self._latest = endpoint, max(now, self._latest[1])
        if patient.hangs or since >= patient.since:
            patient.hangs, patient.rests = False, 0
            self._widen(patient, 4.0)
            patient.until = min(patient.until, now + patient.trickle)

    def _failed(self, patient: _Patient, certainty: int, since: float, now: float) -> None:
        patient.ended = max(patient.ended, now)
        if since < patient.since:
            return  # one more of those that told us before
        patient.certainty += certainty
        patient.failing += 0.1 * (1.0 - patient.failing)
        if patient.certainty >= 2 or patient.trickle or patient.failing > _MOSTLY:
            self._rest(patient, now)

    def _rest(self, patient: _Patient, now: float) -> None:
        rest = min(_FIRST_REST * 2.0 ** min(patient.rests, 10), _LONGEST_REST)
        patient.until, patient.since, patient.trickle = now + rest, now, _FIRST_TRICKLE
        if patient.hangs:
            patient.trickle = max(rest, 2 * _FIRST_TRICKLE)
        patient.rests += 1
        patient.certainty = 0
        self.rests += 1

    def _widen(self, patient: _Patient, factor: float) -> None:
        patient.trickle /= factor
        if patient.trickle < _LAST_TRICKLE:
            patient.trickle, patient.failing = 0.0, min(patient.failing, _MOSTLY / 2)


def healthy(loads: Sequence[Load], now: float) -> list[int]:
    """The indices of those that do not rest; of all, where all do."""
    if all(map(le, map(_RESTING, loads), repeat(now))):  # nearly always
        return list(range(len(loads)))
    return [i for i, load in enumerate(loads) if load.resting <= now] or list(range(len(loads)))
