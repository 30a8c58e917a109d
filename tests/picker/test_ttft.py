"""The prediction over a View: laws, the scorer, and what it does between equals."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from picker.latency import Speed
from picker.load import Load
from picker.request import InferenceRequest
from picker.schedule import pick
from picker.scorers import View, max_score_picker
from picker.stage import Profile
from picker.ttft import drain, free, least_predicted_ttft, predict
from xds_server.model.graph import Endpoint

NOW = 100.0
PROFILE = Profile(scorers=(("predicted-latency-scorer", least_predicted_ttft, 1.0),), picker=max_score_picker(3, 1 / 3))


def view(*loads: Load, matched: tuple[int, ...] = (), tokens: int = 640, model: str = "m", session: str = "") -> View:
    endpoints = [Endpoint("10.0.0.1", 8000 + i, node=f"n{i}") for i in range(len(loads))]
    request = InferenceRequest("/x", model=model, prompt=b"x" * (4 * tokens), session_id=session)
    found = matched or (0,) * len(loads)
    return View(request, model, endpoints, [str(one) for one in endpoints], loads, found, tokens // 64 * 64, NOW)


SPEEDS = st.builds(
    Speed,
    st.tuples(*[st.floats(0, 10)] * 4),
    st.floats(-5, 5),
    st.floats(0, NOW),
    st.floats(0, 1000),
    st.floats(1, 1000) | st.just(float("inf")),
    st.floats(0, 1e4),
    st.floats(0, 100),
    st.floats(0, 1),
    st.floats(0, 100),
    st.floats(0, 10),
)
LOADS = st.builds(
    Load,
    max_loras=st.integers(0, 2),
    loras=st.frozensets(st.sampled_from("mn")),
    inflight=st.integers(0, 1000),
    utilization=st.floats(0, 1),
    prefill=st.just((0.0, 0.0, 0.0)) | st.tuples(st.floats(0, 1e3), st.floats(0, NOW), st.floats(NOW, 2 * NOW)),
    speed=SPEEDS,
)


@given(st.lists(LOADS, min_size=1, max_size=6), st.integers(0, 640), st.sampled_from(["", "s"]))
def test_scores_are_in_0_to_1_and_the_order_is_that_of_the_predictions(loads, matched, session) -> None:
    seen = view(*loads, matched=(matched,) * len(loads), session=session)
    scores = least_predicted_ttft(seen)
    assert len(scores) == len(loads)
    assert all(0 < score <= 1 for score in scores)
    assert max(scores) == 1


@given(LOADS, st.integers(0, 600), st.integers(1, 100))
def test_more_tokens_or_more_requests_are_never_faster_and_a_cached_prefix_never_slower(load, matched, more) -> None:
    (base,) = predict(view(load, matched=(matched,)))
    assert predict(view(load, matched=(matched,), tokens=640 + more))[0] >= base
    assert predict(view(replace(load, inflight=load.inflight + more), matched=(matched,)))[0] >= base
    assert predict(view(load, matched=(matched + 1,)))[0] <= base
    assert predict(view(load, matched=(10**6,)))[0] >= 0  # a match is never longer than the prompt


@given(LOADS, st.integers(0, 640))
def test_the_prediction_is_that_of_the_speed(load: Load, matched: int) -> None:
    load = replace(load, utilization=None, max_loras=0)
    speed, inflight = load.speed, load.inflight + load.speed.foreign
    seconds = speed.prefill(640 - matched * speed.trust, inflight, NOW, load.ahead(NOW)) + speed.wait(inflight)
    assert predict(view(load, matched=(matched,))) == pytest.approx([seconds])


@given(LOADS)
def test_a_slot_is_free_exactly_where_nobody_waits_for_one(load: Load) -> None:
    seen = view(load)
    assert (drain(seen)[0] > 0) <= (not free(seen)[0])
    if load.speed.seconds:
        assert free(seen)[0] == (drain(seen)[0] == 0)


def test_nothing_is_known_the_prefix_and_then_the_fewest_in_flight() -> None:
    assert pick(view(Load(inflight=1), Load(), Load(inflight=2)), PROFILE, "id").endpoints[0].endswith("8001")
    assert pick(view(Load(), Load(), matched=(0, 320)), PROFILE, "id").endpoints[0].endswith("8001")


def test_a_match_is_worth_what_the_server_is_trusted_for() -> None:
    doubted = Load(speed=Speed(trust=0.0))
    assert predict(view(doubted, matched=(640,))) == predict(view(Load()))
    assert predict(view(Load(), matched=(640,)))[0] < predict(view(doubted, matched=(640,)))[0]


def test_an_adapter_costs_where_it_is_not_loaded() -> None:
    has, lacks, loads_it = (
        Load(max_loras=2, loras=frozenset("m")),
        Load(max_loras=2, loras=frozenset("n")),
        Load(max_loras=2, loras_waiting=frozenset("m")),
    )
    a, b, c = predict(view(has, lacks, loads_it))
    assert a == c
    assert b == pytest.approx(a + lacks.speed.cold)
    assert len(set(predict(view(has, lacks, model="base")))) == 1  # named by nobody: the base model


def test_an_adapter_whose_slot_others_use_waits_for_them() -> None:
    idle, busy = (Load(max_loras=1, adapters=frozenset("n"), adapters_busy=used) for used in (0, 1))
    has = Load(max_loras=1, adapters=frozenset("m"))
    a, b, c = predict(view(has, idle, busy))
    assert b == pytest.approx(a + idle.speed.cold)
    assert c == pytest.approx(b + busy.speed.seconds)


def test_a_busy_accelerator_is_slow_until_we_know_better() -> None:
    busy = Load(utilization=1.0)
    assert predict(view(busy))[0] == pytest.approx(2 * predict(view(Load()))[0])
    learned = Load(speed=Speed(seen=1000.0), utilization=1.0)
    assert predict(view(learned))[0] < 1.02 * predict(view(Load()))[0]


def test_requests_of_others_are_in_the_way_too() -> None:
    assert predict(view(Load(speed=Speed(foreign=5.0)))) == predict(view(Load(inflight=5)))


def test_a_session_prefers_one_endpoint_among_equals_and_does_not_insist() -> None:
    loads = [Load() for _ in range(4)]
    chosen = {pick(view(*loads, session="s"), PROFILE, str(i)).endpoints[0] for i in range(30)}
    assert len(chosen) == 1
    own = int(chosen.pop()[-1])
    loads[own] = Load(inflight=3)
    assert pick(view(*loads, session="s"), PROFILE, "0").endpoints[0][-1] != str(own)
    firsts = [pick(view(*[Load()] * 4, session=str(i)), PROFILE, "0").endpoints[0] for i in range(200)]
    assert all(25 < firsts.count(one) < 75 for one in set(firsts))


def test_a_session_stays_when_other_endpoints_go() -> None:
    whole = view(*[Load()] * 6, session="s")
    (best, *_) = pick(whole, PROFILE, "0").endpoints
    kept = [i for i, name in enumerate(whole.names) if name == best or i % 2]
    assert pick(whole.only(kept), PROFILE, "0").endpoints[0] == best


def test_fallbacks_are_elsewhere_but_good() -> None:
    slow = Load(speed=Speed(weights=(9.0, 0.0, 0.0, 0.0)))
    seen = view(Load(), Load(), slow)
    seen.endpoints = [replace(one, node=node) for one, node in zip(seen.endpoints, ("n1", "n1", "n2"), strict=True)]
    assert pick(seen, PROFILE, "id").endpoints[2].endswith("8002")
    fast = view(Load(), Load(), Load(inflight=1))
    fast.endpoints = seen.endpoints
    assert pick(fast, PROFILE, "id").endpoints[1].endswith("8002")


def test_who_rests_is_no_candidate_whatever_the_profile() -> None:
    tired = Load(resting=NOW + 1)
    for profile in (PROFILE, Profile()):
        found = pick(view(Load(inflight=9), tired), profile, "id")
        assert (found.endpoints, found.candidates) == (("10.0.0.1:8000",), 1)
    assert pick(view(tired, tired), PROFILE, "id").candidates == 2
    assert pick(view(Load(inflight=9), Load(resting=NOW)), PROFILE, "id").candidates == 2
