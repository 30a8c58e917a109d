"""Pacing: who fights over a status is slowed down, and nobody else."""

from xds_server.kubernetes.pacing import Pacing
from xds_server.model.graph import ObjectStatus
from xds_server.model.objects import ObjectRef

REF = ObjectRef("g", "Gateway", "ns", "a")
WISH = ObjectStatus(REF)
OTHER = ObjectStatus(REF, supported_features=("x",))


def test_writing_the_same_again_and_again_takes_longer_and_longer() -> None:
    pacing = Pacing(burst=2, base=1.0, ceiling=3.0, quiet=100.0)
    waits = []
    for _ in range(6):
        waits.append(pacing.wait(REF, WISH, 10.0))
        pacing.wrote(REF, WISH, 10.0)
    assert waits == [0, 0, 1, 2, 3, 3]
    assert pacing.wait(REF, WISH, 12.0) == 1.0 and pacing.wait(REF, WISH, 13.0) == 0


def test_a_new_wish_is_written_at_once() -> None:
    pacing = Pacing(burst=1)
    for wish in (WISH, OTHER) * 20:
        assert pacing.wait(REF, wish, 0.0) == 0
        pacing.wrote(REF, wish, 0.0)


def test_quiet_makes_up() -> None:
    pacing = Pacing(burst=1, quiet=60.0)
    for now in (0.0, 1.0, 2.0, 100.0):
        pacing.wrote(REF, WISH, now)
    assert pacing.wait(REF, WISH, 100.0) == 1.0
    pacing.forget(REF)
    assert pacing.wait(REF, WISH, 100.0) == 0
