"""Every scorer's formula, what an unknown load means, the LoRA filter, and the pickers' determinism."""

import pytest
from hypothesis import given, strategies as st

from picker.load import FREE_SLOTS, STALE_ERRORS, Load
from picker.request import InferenceRequest
from picker.scorers import (
    STALE_AFTER,
    View,
    active_request_scorer,
    kv_cache_utilization_scorer,
    label_selector_filter,
    load_aware_scorer,
    lora_affinity_scorer,
    lora_filter,
    max_score_picker,
    prefix_cache_scorer,
    queue_scorer,
    random_picker,
    role_filter,
    running,
    running_requests_size_scorer,
    token_load_scorer,
    waiting,
    weighted_random_picker,
)
from xds_server.model.graph import Endpoint
from xds_server.model.objects import LabelSelector

NOW = 100.0
ALL = (
    queue_scorer,
    kv_cache_utilization_scorer,
    prefix_cache_scorer(),
    prefix_cache_scorer(0.5),
    running_requests_size_scorer,
    active_request_scorer(),
    lora_affinity_scorer,
    load_aware_scorer(),
    token_load_scorer(),
)


def fresh(**what: object) -> Load:
    return Load(scraped=NOW, **what)


def view(*loads: Load, matched: tuple[int, ...] = (), cacheable: int = 0, endpoints: tuple[Endpoint, ...] = (), model: str = "m",
         prompt: bytes = b"") -> View:  # fmt: skip
    found = endpoints or tuple(Endpoint("10.0.0.1", 8000 + i) for i in range(len(loads)))
    loads = loads or (Load(),) * len(found)
    names = [str(endpoint) for endpoint in found]
    request = InferenceRequest("/x", model=model, prompt=prompt)
    return View(request, model, found, names, loads, matched or (0,) * len(loads), cacheable, NOW)


LOADS = st.builds(
    Load,
    waiting=st.integers(0, 1000),
    running=st.integers(0, 1000),
    kv_usage=st.floats(0, 1.5),
    loras=st.frozensets(st.sampled_from("mn")),
    loras_waiting=st.frozensets(st.sampled_from("mn")),
    max_loras=st.integers(0, 2),
    scraped=st.sampled_from([float("-inf"), 0.0, NOW]),
    errors=st.integers(0, 4),
    inflight=st.integers(0, 1000),
    inflight_tokens=st.integers(0, 10**7),
    inflight_at_scrape=st.integers(0, 1000),
)


@given(st.lists(LOADS, min_size=1, max_size=6), st.integers(0, 1 << 17))
def test_every_score_is_in_0_to_1(loads: list[Load], whole: int) -> None:
    seen = view(
        *loads, matched=tuple(min(i * 448, whole) for i in range(len(loads))), cacheable=whole, prompt=b"x" * 999
    )
    for scorer in ALL:
        scores = scorer(seen)
        assert len(scores) == len(loads)
        assert all(0 <= score <= 1 for score in scores)


@given(st.lists(LOADS, min_size=1, max_size=6))
def test_an_unknown_load_is_never_taken_for_an_idle_one(loads: list[Load]) -> None:
    scored = view(*loads, Load(), fresh(max_loras=4, loras=frozenset("m")))
    for scorer in (
        queue_scorer,
        running_requests_size_scorer,
        kv_cache_utilization_scorer,
        lora_affinity_scorer,
        load_aware_scorer(),
    ):
        unknown, idle = scorer(scored)[-2:]
        assert unknown < idle


@given(LOADS)
def test_waiting_and_running_add_up_to_what_the_server_was_given(load: Load) -> None:
    total = load.waiting + load.running + load.inflight - load.inflight_at_scrape
    assert waiting(load) >= 0
    assert waiting(load) + running(load) == max(total, waiting(load))


def test_the_queue_is_corrected_by_what_was_sent_since_the_scrape() -> None:
    assert waiting(fresh(waiting=3, inflight=7, inflight_at_scrape=5)) == 5  # no free slot: it joined the queue
    assert waiting(fresh(waiting=3, inflight=3, inflight_at_scrape=5)) == 1  # two have ended
    assert waiting(fresh(waiting=1, inflight=0, inflight_at_scrape=5)) == 0
    assert waiting(fresh(inflight=FREE_SLOTS)) == 0
    assert waiting(fresh(inflight=FREE_SLOTS + 3)) == 3
    assert waiting(fresh(running=20, inflight=25)) == 5


def test_stale_is_too_old_or_failing() -> None:
    seen = view(Load(scraped=NOW - STALE_AFTER - 1), fresh(errors=STALE_ERRORS), fresh(errors=1), Load())
    assert seen.known == [False, False, True, False]


def test_formulas() -> None:
    assert queue_scorer(view(fresh(waiting=0), fresh(waiting=5), fresh(waiting=10))) == [1, 0.5, 0]
    assert queue_scorer(view(fresh(waiting=5), fresh(waiting=5))) == [1, 1]
    assert running_requests_size_scorer(view(fresh(running=0), fresh(running=4))) == [1, 0]
    assert kv_cache_utilization_scorer(view(fresh(kv_usage=0.25), fresh(kv_usage=1.2))) == [0.75, 0]
    assert prefix_cache_scorer()(view(fresh(), fresh(), matched=(0, 192), cacheable=256)) == [0, 0.75]
    assert prefix_cache_scorer()(view(fresh())) == [0]
    assert prefix_cache_scorer(1.0, 128)(view(fresh(), matched=(64,), cacheable=256)) == [0.25]
    assert active_request_scorer()(view(fresh(), Load(inflight=1), Load(inflight=4))) == [1, 0.75, 0]
    assert active_request_scorer(2, 0.5)(view(Load(inflight=2), Load(inflight=4), Load(inflight=3))) == [1, 0, 0.125]
    assert load_aware_scorer(10)(view(fresh(), fresh(waiting=5), fresh(waiting=99))) == [0.5, 0.25, 0]
    assert token_load_scorer(1000)(view(fresh(inflight_tokens=500), prompt=b"x" * 400)) == [0.4]
    assert token_load_scorer(1000)(view(fresh(), matched=(64,), cacheable=64, prompt=b"x" * 400)) == [1 - 36 / 1000]


def test_lora_affinity() -> None:
    m, n = frozenset("m"), frozenset("n")
    loads = (
        fresh(loras=m, max_loras=1),
        fresh(loras=n, max_loras=2),
        fresh(loras=n, loras_waiting=m, max_loras=1),
        fresh(loras=n, max_loras=1),
        fresh(),
    )
    assert lora_affinity_scorer(view(*loads)) == [1, 0.8, 0.6, 0, 0]
    assert lora_filter(view(*loads)) == [0, 1, 2]


def test_the_lora_filter_lets_everybody_pass_where_nothing_is_known_of_the_adapter() -> None:
    n = frozenset("n")
    full = fresh(loras=n, max_loras=1)
    assert lora_filter(view(full, fresh(max_loras=2))) == [0, 1]  # a base model, or loaded nowhere
    assert lora_filter(view(Load(loras=frozenset("m"), max_loras=1), full)) == [
        0,
        1,
    ]  # stale: nobody is known to have it


def test_filters_by_label() -> None:
    endpoints = tuple(
        Endpoint("10.0.0.1", port, labels=labels)
        for port, labels in ((1, (("llm-d.ai/role", "decode"),)), (2, (("llm-d.ai/role", "prefill"),)), (3, ()))
    )
    seen = view(endpoints=endpoints)
    assert label_selector_filter(LabelSelector({"llm-d.ai/role": "prefill"}))(seen) == [1]
    assert role_filter(frozenset(("decode",)), unlabelled=True)(seen) == [0, 2]
    assert role_filter(frozenset(("prefill",)), unlabelled=False)(seen) == [1]


PICKERS = [max_score_picker, random_picker, weighted_random_picker]


@pytest.mark.parametrize("picker", PICKERS)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=8),
    st.integers(1, 4),
    st.text(max_size=5),
    st.randoms(),
)
def test_a_pick_depends_on_the_request_and_not_on_the_order(picker, scores, count, request_id, chance) -> None:
    endpoints = [Endpoint("10.0.0.1", i, node=f"n{i % 3}") for i in range(len(scores))]
    order = list(range(len(scores)))
    chance.shuffle(order)
    one = [endpoints[i] for i in picker(count)(view(endpoints=tuple(endpoints)), scores, request_id)]
    mixed, moved = [endpoints[i] for i in order], [scores[i] for i in order]
    two = [mixed[i] for i in picker(count)(view(endpoints=tuple(mixed)), moved, request_id)]
    assert one == two
    assert len(one) == len(set(one)) == min(count, len(scores))
    if picker is max_score_picker:
        assert scores[endpoints.index(one[0])] == max(scores)


@pytest.mark.parametrize("picker", PICKERS)
def test_requests_spread_over_equal_endpoints(picker) -> None:
    seen = view(*[fresh()] * 4)
    firsts = [picker(1)(seen, [1.0] * 4, str(i))[0] for i in range(400)]
    assert all(60 < firsts.count(i) < 140 for i in range(4))


def test_weights_are_proportions() -> None:
    seen = view(*[fresh()] * 2)
    firsts = [weighted_random_picker(1)(seen, [3.0, 1.0], str(i))[0] for i in range(1000)]
    assert 700 < firsts.count(0) < 800


def test_fallbacks_prefer_other_failure_domains() -> None:
    places = [("a1", "a"), ("a1", "a"), ("a2", "a"), ("b1", "b")]
    endpoints = tuple(Endpoint("10.0.0.1", i, node=node, zone=zone) for i, (node, zone) in enumerate(places))
    assert max_score_picker(4)(view(endpoints=endpoints), [4.0, 3.0, 2.0, 1.0], "id") == [0, 3, 2, 1]
