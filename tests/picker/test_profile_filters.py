"""Filters of llm-d: what stays, what is remembered, and where everybody stays instead of nobody."""

from typing import Any

import pytest

from picker.errors import ConfigError, NoEndpoint
from picker.plugins.affinity import MOST_SESSIONS
from picker.schedule import pick
from picker.scorers import Filter, View
from tests.picker._views import endpoint, fresh, plugin, profile, view

A, B, C = endpoint(1), endpoint(2), endpoint(3)


def a_filter(kind: str, **parameters: Any) -> Filter:
    return profile(plugin(kind, **parameters)).filters[0][1]


ROLES = ("", "decode", "prefill", "encode", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both")


@pytest.mark.parametrize(
    ("kind", "stay"),
    [
        ("decode-filter", ["", "decode", "prefill-decode", "encode-prefill-decode", "both"]),
        ("prefill-filter", ["prefill", "prefill-decode", "encode-prefill", "encode-prefill-decode", "both"]),
        ("encode-filter", ["encode", "encode-prefill", "encode-prefill-decode"]),
    ],
)
def test_roles(kind: str, stay: list[str]) -> None:
    seen = view(*(endpoint(number, role) for number, role in enumerate(ROLES, 1)))
    assert [ROLES[i] for i in a_filter(kind)(seen)] == stay


def test_by_label() -> None:
    seen = view(endpoint(1, gpu="h100"), endpoint(2, gpu="l4"), endpoint(3))
    assert a_filter("by-label", label="gpu", validValues=["h100"])(seen) == [0]
    assert a_filter("by-label", label="gpu", validValues=["l4"], allowsNoLabel=True)(seen) == [1, 2]
    for mistake in ({}, {"label": "gpu"}, {"label": "gpu", "validValues": "h100"}):
        with pytest.raises(ConfigError):
            a_filter("by-label", **mistake)


def test_utilization() -> None:
    seen = view(A, B, C, loads=(fresh(waiting=9), fresh(kv_usage=0.9), fresh(inflight=3, inflight_at_scrape=3)))
    conditions = [{"metric": "waiting-queue", "maxValue": 5}, {"metric": "kv-cache-utilization", "maxValue": 0.5}]
    assert a_filter("utilization-filter", conditions=conditions)(seen) == [2]
    conditions = [
        {"metric": metric, "maxValue": 0} for metric in ("waiting-queue", "active-requests", "kv-cache-utilization")
    ]
    assert a_filter("utilization-filter", conditions=conditions)(seen) == []
    assert a_filter("utilization-filter", conditions=conditions, fallbackOnEmpty=True)(seen) == [0, 1, 2]
    for mistake in ([], [{"metric": "heat", "maxValue": 1}], [{"metric": "waiting-queue"}]):
        with pytest.raises(ConfigError):
            a_filter("utilization-filter", conditions=mistake)


def test_attributes() -> None:
    seen = view(A, B, loads=(fresh(inflight_tokens=7), fresh(inflight_tokens=9)))

    def keep(operator: str, value: float, **more: Any) -> list[int]:
        algorithm = {"type": "threshold", "threshold": {"operator": operator, "value": value}}
        return a_filter("endpoint-attribute-filter", attribute="InFlightTokens", algorithm=algorithm, **more)(seen)

    assert keep("LessThan", 9) == keep("NotEqual", 9) == [0]
    assert keep("GreaterThanOrEqual", 9) == keep("GreaterThan", 7) == keep("Equal", 9) == [1]
    assert keep("LessThanOrEqual", 9) == keep("LessThan", 1, fallbackOnEmpty=True) == [0, 1]
    with pytest.raises(ConfigError, match=r"'GPUTemperature' is not measured here.*InFlightTokens"):
        a_filter("endpoint-attribute-filter", attribute="GPUTemperature", producer="dcgm-extractor")


def test_busy_accelerators_are_passed_over_and_unknown_ones_are_not() -> None:
    seen = view(A, B, endpoint(3), loads=(fresh(utilization=0.95), fresh(utilization=0.2), fresh()))
    algorithm = {"type": "threshold", "threshold": {"operator": "LessThanOrEqual", "value": 0.9}}
    assert a_filter("endpoint-attribute-filter", attribute="GPUUtilization", algorithm=algorithm)(seen) == [1, 2]


def test_the_cached_prefix_is_sticky_until_it_is_too_busy() -> None:
    keep = a_filter("prefix-cache-affinity-filter", maxTTFTPenaltyMs=1000, peakPrefillThroughput=100)

    def seen(tokens: int, matched: int = 9) -> View:
        return view(A, B, loads=(fresh(inflight_tokens=tokens), fresh()), matched=(matched, 0), cacheable=10)

    assert keep(seen(100)) == [0]
    assert keep(seen(101)) == [0, 1]  # 1.01 s late
    assert keep(seen(0, 7)) == [0, 1]  # 70 % is not 80
    always = a_filter("prefix-cache-affinity-filter", maxTTFTPenaltyMs=0)
    assert always(seen(10**9)) == [0]
    assert a_filter("prefix-cache-affinity-filter", explorationProbability=1)(seen(0)) == [0, 1]
    assert a_filter("prefix-cache-affinity-filter", ttftSource="latencyPredictor")(seen(0)) == [0]
    with pytest.raises(ConfigError):
        a_filter("prefix-cache-affinity-filter", peakPrefillThroughput=0)


def test_those_that_meet_the_objective_come_first() -> None:
    keep = a_filter("slo-headroom-tier-filter", epsilonExploreNeg=0)
    loads = (fresh(), fresh(inflight=500))
    assert keep(view(A, B, loads=loads, prompt=b"x" * 4000, headers={"x-llm-d-slo-ttft-ms": "500"})) == [0]
    assert keep(view(A, B, loads=loads, prompt=b"x" * 4000)) == [0, 1]
    explore = a_filter("slo-headroom-tier-filter", epsilonExploreNeg=1)
    assert explore(view(A, B, loads=loads, prompt=b"x" * 4000, headers={"x-slo-ttft-ms": "500"})) == [1]


def test_context_length_is_a_filter_only_when_asked() -> None:
    seen = view(endpoint(1, **{"llm-d.ai__context-length-range": "0-100"}), endpoint(2, **{"llm-d.ai__context-length-range": "x"}),
                endpoint(3), prompt=b"x" * 800)  # fmt: skip
    assert a_filter("context-length-aware", enableFiltering=True)(seen) == [2]
    assert a_filter("context-length-aware")(seen) == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "stay"), [("10.0.0.2", [1]), ("10.0.0.3:8000, 10.0.0.1", [0, 2]), ("10.0.0.1:9", []), ("", [])]
)
def test_the_filter_of_conformance_tests(value: str, stay: list[int]) -> None:
    seen = view(A, B, C, headers={"test-epp-endpoint-selection": value} if value else None)
    assert a_filter("header-based-testing-filter")(seen) == stay


def test_a_detector_that_a_profile_refers_to_is_a_filter() -> None:
    loads = (fresh(waiting=11), fresh(inflight=5, inflight_tokens=50), fresh(kv_usage=0.81))
    use = {"schedulingProfiles": [{"plugins": [{"pluginRef": "d"}]}]}
    for kind, parameters, stay in (
        ("utilization-detector", {"queueDepthThreshold": 10}, [1]),
        ("utilization-detector", {"queueDepthThreshold": 10, "headroom": 0.2}, [0, 1, 2]),
        ("concurrency-detector", {"maxConcurrency": 4}, [0, 2]),
        ("concurrency-detector", {"maxTokenConcurrency": 40, "concurrencyMode": "hybrid"}, [0, 2]),
        ("concurrency-detector", {"maxConcurrency": 4, "concurrencyMode": "tokens"}, [0, 1, 2]),
    ):
        found = profile({"type": kind, "name": "d", "parameters": parameters}, **use)
        assert found.filters[0][1](view(A, B, C, loads=loads)) == stay
        assert [name for name, _ in profile({"type": kind}).filters] == ["lora-filter"]


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_token_belongs_to_one_endpoint_whoever_decides() -> None:
    one, two = (a_filter("session-affinity-filter") for _ in range(2))
    tokens = [{"x-session-token": f"t{number}"} for number in range(60)]
    stay = [one(view(A, B, C, headers=token)) for token in tokens]
    assert stay == [two(view(A, B, C, headers=token)) for token in tokens]
    assert {i for found in stay for i in found} == {0, 1, 2}
    assert all(len(found) == 1 for found in stay)
    for token, (before,) in zip(tokens, stay, strict=True):  # without C only those of C move
        assert before == 2 or one(view(A, B, headers=token)) == [before]
    assert one(view(A, B, C)) == [0, 1, 2]


def test_a_session_stays_where_its_last_request_went() -> None:
    found = profile(
        plugin("session-affinity-filter", strategy="session_id", sessionIdConfig={"evictionTtlSeconds": 60})
    )
    keep, (after,) = found.filters[0][1], found.after
    seen = view(A, B, C, headers={"x-session-id": "s"})
    assert keep(seen) == [0, 1, 2]
    after(seen, (str(B),))
    after(view(A, B, C), (str(C),))
    assert keep(seen) == [1]
    assert keep(view(A, C, headers={"x-session-id": "s"})) == [0, 1]  # gone: anybody
    later = view(A, B, C, headers={"x-session-id": "s"})
    later.now += 61
    assert keep(later) == [0, 1, 2]


def test_a_profile_tells_its_filters_where_requests_went() -> None:
    found = profile(plugin("session-affinity-filter", strategy="session_id"), "random-picker")
    first = pick(view(A, B, C, headers={"x-session-id": "s"}), found, "1").endpoints[0]
    assert {pick(view(A, B, C, headers={"x-session-id": "s"}), found, str(i)).endpoints[0] for i in range(20)} == {
        first
    }


def test_sessions_are_remembered_up_to_a_number() -> None:
    found = profile(
        plugin(
            "session-affinity-filter",
            strategy="session_id",
            sessionIdConfig={"sources": [{"attribute": "agent-identity"}]},
        )
    )
    keep, (after,) = found.filters[0][1], found.after
    for number in range(MOST_SESSIONS + 1):
        after(view(A, session_id=str(number)), (str(A),))
    assert keep(view(B, A, session_id="0")) == [0, 1]
    assert keep(view(B, A, session_id="1")) == [1]


@pytest.mark.parametrize(
    "parameters",
    [
        {"strategy": "sticky"},
        {"sessionIdConfig": {"sources": [{}]}},
        {"sessionIdConfig": {"sources": [{"header": "a", "attribute": "b"}]}},
        {"sessionIdConfig": {"sources": {}}},
        {"sessionIdConfig": {"evictionTtlSeconds": 0}},
        {"encodedEndpointHeaderConfig": {"haeder": "a"}},
    ],
)
def test_mistakes_of_sessions(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        a_filter("session-affinity-filter", **parameters)


def test_nobody_left_is_no_endpoint() -> None:
    with pytest.raises(NoEndpoint, match="encode-filter"):
        pick(view(A), profile("encode-filter"), "id")
