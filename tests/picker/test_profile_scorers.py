"""Scorers of llm-d: formulas, and what they remember."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from picker.errors import ConfigError
from picker.load import Load
from picker.plugins.scorers import SCORERS
from picker.scorers import View
from picker.stage import Profile
from tests.picker._views import endpoint, fresh, plugin, profile, view

A, B, C = endpoint(1), endpoint(2), endpoint(3)


def scored(kind: str, seen: View, **parameters: Any) -> list[float]:
    return profile(plugin(kind, **parameters)).scorers[0][1](seen)


REQUIRED = {
    "header-label-affinity-scorer": {"headerName": "X-Tenant", "labelKey": "tenant"},
    "endpoint-attribute-scorer": {"attributeKey": "InFlightTokens", "algorithm": {"type": "linear_lower_is_better"}},
}
LOADS = st.builds(
    Load,
    waiting=st.integers(0, 1000),
    running=st.integers(0, 1000),
    kv_usage=st.floats(0, 1),
    scraped=st.sampled_from([float("-inf"), 100.0]),
    inflight=st.integers(0, 1000),
    inflight_tokens=st.integers(0, 10**7),
)


@pytest.mark.parametrize("kind", sorted(SCORERS))
@given(st.lists(LOADS, min_size=1, max_size=4), st.data())
def test_every_score_is_in_0_to_1(kind: str, loads: list[Load], data: st.DataObject) -> None:
    endpoints = [endpoint(i, **{"llm-d.ai__context-length-range": f"{i}-{i * 100}"}) for i in range(len(loads))]
    whole = data.draw(st.integers(0, 576))
    matched = tuple(data.draw(st.integers(0, whole)) for _ in loads)
    headers = data.draw(
        st.sampled_from([{}, {"x-session-token": "a"}, {"x-llm-d-slo-ttft-ms": "300"}, {"x-llm-d-slo-ttft-ms": "nan"}])
    )
    prompt = b"x" * data.draw(st.integers(0, 5000))
    found = profile(plugin(kind, **REQUIRED.get(kind, {})))
    for _ in range(2):
        seen = view(
            *endpoints,
            loads=tuple(loads),
            matched=matched,
            cacheable=whole,
            prompt=prompt,
            headers=headers,
            media=(1, 2),
        )
        scores = found.scorers[0][1](seen)
        assert len(scores) == len(loads)
        assert all(0 <= score <= 1 for score in scores)
        for after in found.after:
            after(seen, (str(endpoints[0]),))


def test_what_is_cold_goes_round() -> None:
    found = profile(plugin("no-hit-lru-scorer", lruSize=2))
    score, (after,) = found.scorers[0][1], found.after
    cold, warm = view(A, B, C), view(A, B, C, matched=(0, 64, 0), cacheable=128)
    assert score(cold) == [1, 1, 1]
    after(cold, (str(A),))
    after(warm, (str(C),))
    assert score(cold) == [0, 1, 1]
    after(cold, (str(B),))
    assert score(cold) == [0.5, 0, 1]
    after(cold, (str(C),))
    assert score(cold) == [1, 0.5, 0]  # two are remembered
    assert score(warm) == [0.5, 0.5, 0.5]
    assert score(view(A)) == [1]


def test_media_are_sent_where_they_were_encoded() -> None:
    found = profile("mm-embeddings-cache-scorer")
    score, (after,) = found.scorers[0][1], found.after
    after(view(A, B, media=(1, 2)), (str(A), str(C)))
    assert score(view(A, B, C, media=(1, 2, 3, 4))) == [0.5, 0, 0.5]
    assert score(view(A, B)) == [0, 0]
    after(view(A), (str(A),))
    for number in range(2048):
        after(view(A, media=(number + 9,)), (str(A),))
    assert score(view(A, media=(1, 2056))) == [0.5]


@pytest.mark.parametrize(
    ("bounds", "score"),
    [
        ("0-0", 0.3 / 1.2), ("200-200", 1.0), ("0-10000", 0.3 + 0.7 * (0.35 + 0.3 * 0.98)), ("300-400", 0.3 / 1.1), ("junk", 0), ("9-1", 0),
    ],
)  # fmt: skip
def test_context_lengths(bounds: str, score: float) -> None:
    seen = view(endpoint(1, range=bounds), endpoint(2), prompt=b"x" * 800)
    assert scored("context-length-aware", seen, label="range") == [pytest.approx(score), 0.5]


def test_affinity_by_header() -> None:
    seen = view(endpoint(1, tenant="a"), endpoint(2, tenant="b"), endpoint(3), headers={"x-tenant": "b"})
    assert scored("header-label-affinity-scorer", seen, headerName="X-Tenant", labelKey="tenant") == [0, 1, 0]
    assert scored("header-label-affinity-scorer", view(A), headerName="X-Tenant", labelKey="tenant") == [0]
    for mistake in ({}, {"headerName": "a"}):
        with pytest.raises(ConfigError, match="must name"):
            scored("header-label-affinity-scorer", seen, **mistake)


def test_affinity_by_session() -> None:
    scores = scored("session-affinity-scorer", view(A, B, C, headers={"x-session-token": "t"}))
    assert sorted(scores) == [0, 0, 1]
    assert scored("session-affinity-scorer", view(A, B, C)) == [0, 0, 0]


def test_attributes() -> None:
    seen = view(A, B, C, loads=(fresh(kv_usage=0.2), fresh(kv_usage=0.6), Load(kv_usage=0.1)))

    def score(kind: str, **normalization: Any) -> list[float]:
        algorithm = {"type": f"linear_{kind}_is_better", "normalization": normalization}
        return [
            round(one, 6)
            for one in scored(
                "endpoint-attribute-scorer", seen, attributeKey="KVCacheUsagePercent", algorithm=algorithm
            )
        ]

    assert score("lower") == score("lower", adaptiveRange={}) == [1, 0, 0.5]
    assert score("higher", fixedRange={"min": 0, "max": 0.5}) == [0.4, 1, 0.5]
    for mistake in ({"fixedRange": {"min": 2, "max": 1}}, {"fixedRange": {"min": 0, "max": 1}, "adaptiveRange": {}}):
        with pytest.raises(ConfigError, match="adaptiveRange"):
            score("lower", **mistake)
    alike = view(A, B, loads=(fresh(), fresh()))
    algorithm = {"type": "linear_lower_is_better"}
    assert scored("endpoint-attribute-scorer", alike, attributeKey="WaitingQueueSize", algorithm=algorithm) == [1, 1]


def test_the_latency_scorer_fits_the_objective() -> None:
    loads = (fresh(), fresh(inflight=6), fresh(inflight=3000))
    asked = view(A, B, C, loads=loads, prompt=b"x" * 4000, headers={"x-llm-d-slo-ttft-ms": "900"})
    least, most = (scored("latency-scorer", asked, headroomSelectionStrategy=which) for which in ("least", "most"))
    assert least[1] > least[0] > least[2] == 0  # B has just enough room
    assert most[0] > most[1] > most[2] == 0
    assert scored("latency-scorer", view(A, B, C, loads=loads, prompt=b"x" * 4000)) == [0.51, 0, 0]  # only A is idle
    busy = view(A, B, loads=(fresh(inflight=9), fresh(inflight=6)), prompt=b"x" * 4000)
    assert scored("latency-scorer", busy) == [0.01, 1]
    assert scored("latency-scorer", view(A, B, loads=(fresh(waiting=4), fresh(kv_usage=0.5)))) == pytest.approx(
        [1 / 3, 1.5 / 3]
    )


def test_every_scorer_of_a_profile_has_its_own_memory() -> None:
    def made() -> Profile:
        return profile("no-hit-lru-scorer")

    one, two = made(), made()
    one.after[0](view(A, B), (str(A),))
    assert two.scorers[0][1](view(A, B)) == [1, 1]
