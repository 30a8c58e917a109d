"""Demand: what one replica knows of a pool's work, and what all of them know together."""

import json
from dataclasses import replace
from typing import Any

import pytest

from picker.ask import Waiting
from picker.demand import Demand, Figures, merged, of_plain
from picker.latency import Speed
from picker.load import Load
from picker.picker import Picker
from tests.picker.test_picker import A, B, FakeSignals, ask, picker_of, pool
from xds_server.model.graph import Endpoint

NOW = 100.0
LEARNED = Speed(weights=(0.0, 0.1, 0.0, 0.0), seen=5.0, slots=4.0, seconds=2.0, ended=7)  # 10 000 tokens a second


def figures(**given: Any) -> Figures:
    return Figures(**{
        "pod": "10.0.0.1", "known": True, "age": 1.0, "waiting": 0.0, "running": 0.0, "kv_usage": 0.0, "inflight": 0,
        "tokens": 0.0, "slots": None, "seconds": 2.0, "prefill": None, **given,
    })  # fmt: skip


def demand(*rows: Figures, queued: int = 0, queued_tokens: float = 0.0, **more: Any) -> Demand:
    named = {f"{row.pod}:{8000 + index}": row for index, row in enumerate(rows)}
    return Demand("ns/pool", named, queued, queued_tokens, **more)


def measured(picker: Picker, **labels: str) -> Demand:
    found = picker.demand("ns/pool", NOW, labels)
    assert found is not None
    return found


def test_an_endpoint_is_what_its_load_says() -> None:
    load = Load(waiting=3, running=4, kv_usage=0.5, scraped=NOW - 2, inflight=7, inflight_at_scrape=7, speed=LEARNED)
    found = measured(picker_of(pool(A, B), signals=FakeSignals({str(A): load}))).endpoints
    one, unknown = found[str(A)], found[str(B)]
    assert (one.known, one.age, one.waiting, one.running, one.kv_usage, one.inflight) == (True, 2.0, 3.0, 4.0, 0.5, 7)
    assert (one.slots, one.seconds, one.busy, one.ended) == (4.0, 2.0, 7.0, 7)
    assert one.prefill == pytest.approx(10_000)
    assert (unknown.known, unknown.age, unknown.prefill, unknown.slots, unknown.busy) == (False, None, None, None, 0.0)


def test_prompts_whose_prefill_has_not_ended_count() -> None:
    load = Load(scraped=NOW, inflight=1, prefill=(4.0, NOW - 1, NOW + 1))  # half of 4 kilotokens is left
    found = measured(picker_of(pool(A), signals=FakeSignals({str(A): load})))
    assert found.endpoints[str(A)].tokens == pytest.approx(2000)
    assert found.active


def test_what_drains_and_what_other_labels_say_is_not_counted_on() -> None:
    decode = replace(A, labels=(("role", "decode"), ("x", "y")))
    picker = picker_of(pool(decode, B, Endpoint("10.0.0.9", 80, draining=True)))
    assert list(measured(picker).endpoints) == [str(A), str(B)]
    assert list(measured(picker, role="decode").endpoints) == [str(A)]
    assert picker.demand("ns/other", NOW) is None


def test_what_waits_counts_less_what_is_cached() -> None:
    """100 blocks are cached on A, which then goes; four of those that wait share them, the fifth shares nothing."""
    picker = picker_of(pool(A))
    prompt = b"x" * 25_600
    picker.decide(ask(prompt=prompt))
    cached = picker._states["ns/pool"].prefixes
    picker.update({"ns/pool": pool()})
    assert isinstance(picker.decide(ask(id="1", prompt=prompt)), Waiting)
    assert measured(picker).queued_tokens == 6400  # it is gone, and so is its cache
    picker.update({"ns/pool": pool(A)})
    cached.record(str(A), picker._states["ns/pool"].flow.queues.get("1").ask.hashes)  # type: ignore[union-attr]
    assert measured(picker).queued_tokens == 0
    picker.update({"ns/pool": pool()})
    found = measured(picker)
    assert (found.queued, found.active, found.pods) == (1, True, 0)


def test_a_request_that_waits_for_a_pool_at_zero_is_told_of_at_once() -> None:
    picker, told = picker_of(pool()), []
    picker.on_starved = told.append
    picker.decide(ask())
    assert told == ["ns/pool"]


def test_a_pool_is_idle_when_nobody_waits_and_nobody_is_served() -> None:
    assert not demand(figures()).active
    assert demand(figures(running=1.0)).active
    assert not demand(figures(running=1.0, known=False)).active
    assert demand(figures(inflight=1, known=False)).active
    assert demand(queued=1).active


def test_ranks_of_one_pod_are_one_pod() -> None:
    assert demand(figures(), figures(), figures(pod="10.0.0.2")).pods == 2


def test_replicas_add_up_what_is_theirs_and_believe_who_knows_best() -> None:
    mine = demand(figures(inflight=2, tokens=100.0, age=9.0, kv_usage=0.1), queued=3, queued_tokens=50.0)
    theirs = demand(
        figures(inflight=5, tokens=10.0, age=1.0, kv_usage=0.4, slots=8.0, prefill=500.0, seen=9.0), queued=1
    )
    found = merged([mine, theirs])
    (one,) = found.endpoints.values()
    assert (found.queued, found.queued_tokens) == (4, 50.0)
    assert (one.inflight, one.tokens, one.kv_usage, one.slots, one.prefill) == (7, 110.0, 0.4, 8.0, 500.0)


def test_one_replica_that_cannot_scrape_does_not_spoil_what_the_other_knows() -> None:
    blind, sees = demand(figures(known=False, age=60.0, waiting=99.0)), demand(figures(waiting=2.0))
    (one,) = merged([blind, sees]).endpoints.values()
    assert (one.known, one.waiting) == (True, 2.0)
    (one,) = merged([blind, blind]).endpoints.values()
    assert not one.known


def test_an_endpoint_that_another_replica_does_not_know_yet_is_as_we_know_it() -> None:
    mine = demand(figures(inflight=1))
    assert merged([mine, replace(mine, endpoints={})]).endpoints == mine.endpoints


def test_it_travels_as_json() -> None:
    found = demand(figures(slots=3.0), figures(age=None), queued=2, ttft_objective=0.5)
    assert of_plain(json.loads(json.dumps(found.plain()))) == found
    with pytest.raises((TypeError, KeyError)):
        of_plain({"pool": "ns/p", "endpoints": {"a": {"later": 1}}})
