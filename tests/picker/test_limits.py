"""Limits: durations as Go writes them, and what a request may ask for."""

import pytest
from hypothesis import given, strategies as st

from picker.limits import Band, Limits, duration, objective_of, ttl_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("0", 0.0),
        ("1.5h", 5400.0),
        ("10us", 1e-5),
        ("", None),
        ("5", None),
        ("-1s", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(max_size=20))
def test_no_text_crashes_it(text: str) -> None:
    assert ttl_of({"x-llm-d-inference-ttl": text}, 60.0) <= 60.0
    found = objective_of({"x-slo-ttft-ms": text}, None)
    assert found is None or found > 0


def test_a_request_may_only_wait_for_less() -> None:
    assert [ttl_of({"x-llm-d-inference-ttl": text}, 60.0) for text in ("5s", "2h", "soon")] == [5.0, 60.0, 60.0]
    assert ttl_of({}, 3.0) == 3.0


def test_the_newer_name_of_the_objective_wins() -> None:
    assert objective_of({"x-llm-d-slo-ttft-ms": "200", "x-slo-ttft-ms": "300"}, 9.0) == 0.2
    assert objective_of({"x-slo-ttft-ms": "300"}, 9.0) == 0.3
    assert [objective_of({"x-slo-ttft-ms": text}, 9.0) for text in ("nan", "-1", "inf", "x", "")] == [9.0] * 5


def test_a_band_is_configured_else_by_the_sign_of_its_priority() -> None:
    own, negative = Band(requests=1), Band(requests=2)
    limits = Limits(negative_band=negative, bands={7: own})
    assert [limits.of(priority) for priority in (7, 1, 0, -1)] == [own, limits.band, limits.band, negative]
