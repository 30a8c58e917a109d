"""The scheduler, without sleeping: time is a number."""

from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from penstock.sim import tokens
from penstock.sim.engine import Engine, EngineSettings, Full, Job
from penstock.sim.latency import Latency

FLAT = Latency(overhead_ms=10, prefill_ms_per_token=1, decode_ms=5, prefill_slowdown=0, decode_slowdown=0, lora_ms=50)
SETTINGS = EngineSettings(max_num_seqs=2, kv_blocks=100, latency=FLAT)


def job(id_: int, prompt: int = 16, answer: int = 2, adapter: str = "", text: str = "") -> Job:
    hashes = tokens.chain(adapter, (text or f"{id_:04}").encode() * (prompt + answer), 16)[: (prompt + answer) // 16]
    return Job(id_, prompt, answer, hashes, adapter)


def run(engine: Engine, until: float = 1e9) -> list[tuple[float, int, int, str]]:
    """(time, id, tokens, finished) of all progress, at the engine's own times."""
    seen = []
    while (due := engine.next_time()) is not None and due <= until:
        heard = engine.advance(due)
        seen += [(round(due, 6), id_, progress.tokens, progress.finished) for id_, progress in heard.items()]
    return seen


def test_prefill_then_a_token_a_step() -> None:
    engine = Engine(SETTINGS)
    assert engine.next_time() is None
    engine.submit(job(1, prompt=16, answer=3), now=1.0)
    assert run(engine) == [(1.026, 1, 1, ""), (1.031, 1, 1, ""), (1.036, 1, 1, "length")]
    assert (engine.running, engine.waiting, engine.usage) == (0, 0, 0.0)
    assert engine.stats.ttft == [pytest.approx(0.026)]


def test_late_calls_change_nothing_but_when_it_is_heard() -> None:
    engine = Engine(SETTINGS)
    for id_ in (1, 2, 3):
        engine.submit(job(id_), now=0.0)
    heard = engine.advance(1e6)
    assert {id_: (one.tokens, one.finished) for id_, one in heard.items()} == dict.fromkeys((1, 2, 3), (2, "length"))
    assert max(engine.stats.duration) == pytest.approx(0.031 + 0.031)


def test_more_than_the_slots_wait_their_turn_and_beyond_the_cap_are_refused() -> None:
    engine = Engine(replace(SETTINGS, max_queued=1))
    for id_ in (1, 2, 3):
        engine.submit(job(id_), now=0.0)
    assert (engine.running, engine.waiting) == (2, 1)
    with pytest.raises(Full):
        engine.submit(job(4), now=0.0)
    assert engine.stats.rejected == 1
    assert [id_ for _, id_, _, finished in run(engine) if finished] == [1, 2, 3]


def test_a_request_waits_for_blocks_and_holds_up_those_behind_it() -> None:
    engine = Engine(replace(SETTINGS, max_num_seqs=8, kv_blocks=4))
    engine.submit(job(1, prompt=32, answer=16), now=0.0)
    engine.submit(job(2, prompt=32, answer=16), now=0.0)
    engine.submit(job(3, prompt=8, answer=1), now=0.0)
    assert (engine.running, engine.waiting, engine.usage) == (1, 2, 0.75)
    assert [id_ for _, id_, _, finished in run(engine) if finished] == [1, 3, 2]
    assert not engine.fits(65)


def test_the_cached_prefix_costs_nothing_and_the_last_token_is_always_computed() -> None:
    engine = Engine(SETTINGS)
    engine.submit(job(1, prompt=64, text="same"), now=0.0)
    run(engine)
    engine.submit(job(2, prompt=64, text="same"), now=10.0)
    (first, *_), heard = [engine.next_time()], engine.advance(11.0)
    assert first == pytest.approx(10.0 + 0.010 + 0.016)
    assert heard[2].cached_tokens == 48
    assert (engine.stats.cache_queries, engine.stats.cache_hits) == (128, 48)
    engine.submit(job(3, prompt=64, text="same", adapter="lora"), now=20.0)
    assert engine.advance(21.0)[3].cached_tokens == 0  # an adapter has its own cache


def test_an_adapter_is_loaded_once_and_one_without_a_slot_is_passed_over() -> None:
    engine = Engine(replace(SETTINGS, max_num_seqs=8, max_loras=1))
    engine.submit(job(1, adapter="a"), now=0.0)
    engine.submit(job(2, adapter="b"), now=0.0)
    engine.submit(job(3, adapter="a"), now=0.0)
    engine.submit(job(4), now=0.0)
    assert engine.adapters() == (["a"], ["b"])
    firsts = {}
    for time, id_, _, _ in run(engine):
        firsts.setdefault(id_, time)
    assert firsts == {3: 0.026, 4: 0.026, 1: 0.076, 2: pytest.approx(0.081 + 0.076)}


def test_a_cancelled_request_gives_everything_back() -> None:
    engine = Engine(replace(SETTINGS, max_num_seqs=1, max_loras=1))
    engine.submit(job(1, adapter="a"), now=0.0)
    engine.submit(job(2), now=0.0)
    engine.submit(job(3), now=0.0)
    engine.cancel(2, now=0.001)
    engine.cancel(1, now=0.002)
    engine.cancel(99, now=0.002)
    assert (engine.running, engine.waiting, engine.adapters()) == (1, 0, ([], []))
    assert {id_ for _, id_, _, _ in run(engine)} == {3}
    assert engine.stats.finished["abort"] == 1


def test_a_full_batch_is_slower() -> None:
    slow = Latency(overhead_ms=10, prefill_ms_per_token=1, decode_ms=10, prefill_slowdown=2, decode_slowdown=2)
    assert slow.prefill(10, 8, 8) == pytest.approx(0.060)
    assert slow.step(4, 8) == pytest.approx(0.020)


def test_equal_seeds_give_equal_runs() -> None:
    def times(seed: int) -> list[tuple[float, int, int, str]]:
        engine = Engine(replace(SETTINGS, seed=seed, latency=replace(FLAT, jitter=0.2)))
        for id_ in range(5):
            engine.submit(job(id_), now=0.0)
        return run(engine)

    assert times(1) == times(1) != times(2)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "cancel", "wait"]),
        st.integers(0, 70),
        st.integers(1, 40),
        st.sampled_from(["", "a", "b", "c"]),
    ),
    max_size=40,
)


@given(EVENTS, st.integers(0, 3))
def test_every_request_ends_once_and_nothing_leaks(events: list[tuple[str, int, int, str]], max_loras: int) -> None:
    engine = Engine(EngineSettings(max_num_seqs=3, kv_blocks=8, max_loras=max_loras))
    now, submitted, cancelled, ended, got = 0.0, {}, set(), [], dict.fromkeys(range(50), 0)

    def hear(until: float) -> None:
        for id_, progress in engine.advance(until).items():
            got[id_] += progress.tokens
            ended.extend([id_] if progress.finished else [])

    for number, (what, size, answer, adapter) in enumerate(events):
        now += 0.003
        if what == "submit" and engine.fits(size + 1 + answer):
            submitted[number] = answer
            engine.submit(job(number, size + 1, answer, adapter, "same"), now)
        elif what == "cancel" and size in submitted and size not in ended:
            cancelled.add(size)
            engine.cancel(size, now)
        elif what == "wait":
            hear(now := now + size / 1000)
        assert engine.running <= 3
        assert engine.usage <= 1
    while engine.next_time() is not None:
        hear(engine.next_time())
    assert sorted(ended) == sorted(submitted.keys() - cancelled)
    assert all(got[id_] == submitted[id_] for id_ in ended)
    assert (engine.running, engine.waiting, engine.usage, engine.adapters()) == (0, 0, 0.0, ([], []))
