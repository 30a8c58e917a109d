"""Election: whose a Lease is, by our own clock alone."""

from datetime import UTC, datetime
from typing import Any

from xds_server.kubernetes.election import Candidate, Terms, micro_time, release

WALL = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
TERMS = Terms(duration=15.0, deadline=10.0, retry=2.0)


def lease(holder: str, renewed: str = "then", **spec: Any) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15, **spec}}


def test_a_lease_that_nobody_has_is_taken() -> None:
    spec = Candidate("me", TERMS).claim(None, 0.0, WALL)
    assert spec == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "renewTime": "2026-01-02T03:04:05.000006Z",
        "acquireTime": "2026-01-02T03:04:05.000006Z",
        "leaseTransitions": 0,
    }


def test_another_s_lease_is_taken_once_it_has_stood_still_for_its_duration() -> None:
    candidate = Candidate("me", TERMS)
    assert candidate.claim(lease("you", "1"), 100.0, WALL) is None
    assert candidate.claim(lease("you", "1"), 114.9, WALL) is None
    assert candidate.claim(lease("you", "2"), 115.1, WALL) is None  # renewed meanwhile
    taken = candidate.claim(lease("you", "2", leaseTransitions=3), 130.2, WALL)
    assert taken and taken["holderIdentity"] == "me" and taken["leaseTransitions"] == 4


def test_a_released_lease_is_taken_at_once() -> None:
    assert Candidate("me", TERMS).claim({"spec": release(WALL)}, 0.0, WALL)


def test_ours_is_renewed_without_a_transition() -> None:
    renewal = Candidate("me", TERMS).claim(lease("me"), 0.0, WALL)
    assert renewal == {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": micro_time(WALL)}
