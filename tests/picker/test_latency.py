"""What is learned of endpoints: on synthetic servers, and by law."""

import random
from math import inf, isfinite

import pytest
from hypothesis import given, strategies as st

from picker.latency import GUESS, Latency, Sample, Speed

SERVERS = {"a:1": (0.010, 0.2, 8), "b:1": (0.005, 0.05, 32), "c:1": (0.02, 0.5, 8)}  # base, per kilotoken, slots
SIZES = (50, 300, 500, 2000)


def true(endpoint: str, tokens: float, inflight: float, factor: float = 1.0) -> float:
    base, token, slots = SERVERS[endpoint]
    return factor * (base + token * tokens / 1000) * (1 + 2 * inflight / slots)


class World:
    """Requests of different sizes to servers of different speed, with a tenth of noise."""

    def __init__(self) -> None:
        self.latency = Latency()
        self.latency.update({"pool": list(SERVERS)})
        self.chance = random.Random(1)
        self.now = 0.0

    def run(self, count: int, *endpoints: str, factor: float = 1.0, outliers: float = 0.0) -> None:
        for _ in range(count):
            for endpoint in endpoints or SERVERS:
                self.now += 0.02
                tokens, inflight = self.chance.choice(SIZES), self.chance.randrange(SERVERS[endpoint][2])
                ttft = true(endpoint, tokens, inflight, factor) * self.chance.uniform(0.9, 1.1)
                if self.chance.random() < outliers:
                    ttft *= 20
                self.latency.observe(endpoint, Sample(tokens, inflight, self.now, 2.0, ttft))

    def ratio(self, endpoint: str, tokens: float, inflight: float, factor: float = 1.0) -> float:
        found = self.latency.speed(endpoint).prefill(tokens, inflight, self.now)
        return found / true(endpoint, tokens, inflight, factor)


@pytest.mark.parametrize("outliers", [0.0, 0.05])
def test_it_learns_servers_of_different_speed(outliers: float) -> None:
    world = World()
    world.run(150, outliers=outliers)
    for endpoint in SERVERS:
        for tokens in SIZES:
            for inflight in (0, 3, 7):
                assert 0.7 < world.ratio(endpoint, tokens, inflight) < 1.4, (endpoint, tokens, inflight)


def test_a_server_that_slows_down_is_noticed_within_a_few_requests_and_forgiven_as_fast() -> None:
    world = World()
    world.run(100)
    world.run(4, "a:1", factor=5.0)
    assert world.ratio("a:1", 500, 2, 5.0) > 0.7
    world.run(60, "a:1", factor=5.0)
    world.run(6, "a:1")
    assert world.ratio("a:1", 500, 2) < 1.5


def test_one_slow_request_is_no_slow_server() -> None:
    world = World()
    world.run(100)
    world.latency.observe("a:1", Sample(500, 2, world.now, 60.0, 50.0))
    assert world.ratio("a:1", 500, 2) < 1.3


def test_a_new_endpoint_starts_as_its_peers_are() -> None:
    world = World()
    world.run(100, "b:1")
    world.latency.update({"pool": [*SERVERS, "new:1"], "other": ["x:1"]})
    new, old = (world.latency.speed(name).prefill(2000, 3, world.now) for name in ("new:1", "b:1"))
    assert new == pytest.approx(old, rel=0.2)
    assert world.latency.speed("x:1").prefill(2000, 3, world.now) == GUESS.prefill(2000, 3, world.now)
    assert world.latency.speed("unheard of") is GUESS


def test_a_new_rank_starts_as_its_siblings_are() -> None:
    world = World()
    world.run(100)
    world.latency.update({"pool": [*SERVERS, "b:2", "d:2"]})
    assert world.latency.speed("b:2").prefill(500, 3, world.now) == pytest.approx(true("b:1", 500, 3), rel=0.2)
    assert world.latency.speed("d:2").prefill(500, 3, world.now) > 2 * true("b:1", 500, 3)


def test_a_server_that_was_slow_long_ago_gets_another_chance() -> None:
    world = World()
    world.run(100)
    world.run(5, "a:1", factor=10.0)
    assert world.ratio("a:1", 500, 2) > 5
    world.now += 60  # nobody went there
    assert world.ratio("a:1", 500, 2) < 2


def test_what_was_learned_long_ago_fades_towards_the_peers() -> None:
    world = World()
    world.run(100)
    before = world.ratio("c:1", 500, 0)
    world.latency.scraped("c:1", 0, 0, 0, world.now + 1)
    assert world.ratio("c:1", 500, 0) == before  # a moment is nothing
    world.now += 3600
    world.latency.scraped("c:1", 0, 0, 0, world.now)
    assert world.ratio("c:1", 500, 0) < before * 0.8


def test_slots_are_what_runs_while_others_wait() -> None:
    latency = Latency()
    latency.update({"pool": ["a:1"]})
    latency.scraped("a:1", 5, 0, 5, 0.0)
    assert latency.speed("a:1").slots == inf
    latency.scraped("a:1", 8, 3, 11, 0.1)
    assert latency.speed("a:1").slots == 8
    latency.scraped("a:1", 10, 0, 10, 0.2)  # it runs more
    assert latency.speed("a:1").slots == 10
    latency.scraped("a:1", 2, 1, 3, 0.3)  # who has just arrived waits for a moment
    assert latency.speed("a:1").slots == 10
    for i in range(200):
        latency.scraped("a:1", 4, 9, 13, 0.4 + i / 10)  # the memory is full
    assert latency.speed("a:1").slots == pytest.approx(4, abs=0.1)


def test_slots_grow_where_none_waits_since_waiting_in_the_gateway_hides_them() -> None:
    latency = Latency()
    latency.update({"pool": ["a:1"]})
    latency.scraped("a:1", 4, 9, 13, 0.0)
    now, over = 0.0, 0
    for _ in range(600):  # it has 8; what is sent is what we believe in
        now += 0.1
        sent = int(latency.speed("a:1").slots)
        over += sent > 8
        latency.scraped("a:1", min(sent, 8), max(sent - 8, 0), sent, now)
    assert 8 <= latency.speed("a:1").slots < 9.5
    assert over < 120
    before = latency.speed("a:1").slots
    latency.scraped("a:1", 1, 0, 1, now + 60)  # an idle server says nothing
    assert latency.speed("a:1").slots == before


def test_slots_of_a_server_that_does_not_say_what_it_runs() -> None:
    world = World()
    world.run(50)
    for _ in range(30):  # 16 share 4 slots: three quarters of 4 s in the queue
        world.latency.observe("a:1", Sample(100, 15, world.now, 4.0, 3.0))
    assert world.latency.speed("a:1").slots == pytest.approx(4, rel=0.3)
    for _ in range(50):  # a long prompt with a short answer is no queue
        world.latency.observe("b:1", Sample(4000, 3, world.now, 0.3, true("b:1", 4000, 3)))
    assert world.latency.speed("b:1").slots == inf


def test_slots_without_a_queue_where_one_was_expected_grow() -> None:
    latency = Latency()
    latency.update({"pool": ["a:1"]})
    latency.scraped("a:1", 2, 1, 3, 0.0)
    for i in range(50):
        latency.observe("a:1", Sample(100, 15, float(i), 2.0, 0.02))
    assert latency.speed("a:1").slots > 14


def test_the_wait_is_learned_from_durations_and_not_from_queues() -> None:
    latency = Latency()
    latency.update({"pool": ["a:1"]})
    latency.scraped("a:1", 4, 4, 8, 0.0)
    for i in range(100):
        latency.observe("a:1", Sample(100, 7, float(i), 8.0 + 0.03, 4.03))  # 4 s in the queue, 4 s in the slot
    speed = latency.speed("a:1")
    assert speed.seconds == pytest.approx(4.0, rel=0.1)
    assert speed.wait(3) == 0
    assert speed.wait(7) == pytest.approx(4.0, rel=0.1)
    assert speed.seen == 0  # a queue says nothing of the prefill


@pytest.mark.parametrize("shared", [True, False])
def test_whether_prompts_wait_for_each_others_prefill_is_learned(shared: bool) -> None:
    latency, chance = Latency(), random.Random(3)
    latency.update({"pool": ["a:1"]})
    for i in range(200):
        tokens, ahead = chance.choice(SIZES), chance.choice([0.0, 0.5, 4.0])
        ttft = 0.01 + 0.2 * (tokens / 1000 + (ahead if shared else 0.0))
        latency.observe("a:1", Sample(tokens, chance.randrange(4), i / 10, 2.0, ttft, ahead=ahead))
    found = latency.speed("a:1")
    assert found.prefill(500, 2, 20.0, 4.0) == pytest.approx(0.91 if shared else 0.11, rel=0.15)
    assert found.prefill(500, 2, 20.0, 0.0) == pytest.approx(0.11, rel=0.15)


def test_loading_an_adapter_costs_what_it_was_seen_to_cost() -> None:
    world = World()
    world.run(100)
    for _ in range(60):
        world.latency.observe("a:1", Sample(500, 0, world.now, 2.0, true("a:1", 500, 0) + 1.5, cold=True))
    assert world.latency.speed("b:1").cold == pytest.approx(1.5, rel=0.1)
    assert world.ratio("a:1", 500, 0) < 1.3


def test_answers_that_are_not_streamed_teach_how_long_a_slot_is_taken() -> None:
    world = World()
    world.run(20)
    before = world.latency.speed("a:1")
    for _ in range(60):
        world.latency.observe("a:1", Sample(500, 0, world.now, 9.0))
    after = world.latency.speed("a:1")
    assert after.weights == before.weights
    assert after.seconds == pytest.approx(9.0, rel=0.1)
    assert (after.ended - before.ended, Latency().speed("a:1").ended) == (60, 0)


def test_trust_falls_where_nothing_is_cached_and_comes_back() -> None:
    latency = Latency()
    latency.update({"pool": ["a:1"]})
    assert latency.speed("a:1").trust == 1
    for _ in range(30):
        latency.cached("a:1", 0.0)
    assert latency.speed("a:1").trust < 0.1
    for _ in range(40):
        latency.cached("a:1", 0.9)
    assert latency.speed("a:1").trust > 0.9


def test_requests_of_others_count_on_the_average() -> None:
    latency = Latency()
    latency.update({"pool": ["a:1"]})
    for _ in range(30):
        latency.scraped("a:1", 7, 0, 3, 0.0)
    assert latency.speed("a:1").foreign == pytest.approx(4, rel=0.1)


def test_memory_is_bounded_by_the_endpoints_that_exist() -> None:
    latency = Latency()
    for i in range(300):
        latency.update({f"pool {i}": [f"{i}:1"]})
        latency.observe(f"{i}:1", Sample(100, 0, 0.0, 1.0, 0.1))
        latency.observe(f"{i - 1}:1", Sample(100, 0, 0.0, 1.0, 0.1))  # gone
        latency.adapters([f"{i} {n}" for n in range(50)])
    assert len(latency._endpoints) == len(latency._pools) == len(latency._pool_of) == 1
    assert len(latency._adapters) == 1024
    assert latency.is_adapter("299 49")
    assert not latency.is_adapter("0 0")


SAMPLES = st.builds(
    Sample,
    st.floats(0, 1e6),
    st.floats(0, 1e4),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e5),
    st.none() | st.floats(0, 1e5),
    st.booleans(),
)


@given(
    st.lists(st.one_of(SAMPLES, st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500))), max_size=30)
)
def test_whatever_happens_predictions_are_finite_and_grow_with_tokens_and_requests(steps: list[object]) -> None:
    latency = Latency()
    latency.update({"pool": ["a:1", "b:1"]})
    for number, step in enumerate(steps):
        if isinstance(step, Sample):
            latency.observe("a:1", step)
        else:
            latency.scraped("a:1", *step, float(number))  # type: ignore[misc]
    for name in ("a:1", "b:1"):
        speed = latency.speed(name)
        assert speed.slots >= 1
        for now in (0.0, 1e7):
            found = [
                [speed.prefill(tokens, inflight, now) + speed.wait(inflight) for inflight in (0, 1, 5, 100)]
                for tokens in (0, 10, 1e5)
            ]
            assert all(isfinite(one) and one >= 0 for row in found for one in row)
            assert all(row == sorted(row) for row in found)
            assert all(list(column) == sorted(column) for column in zip(*found, strict=True))


def test_the_formula() -> None:
    speed = Speed((0.01, 0.2, 0.001, 0.02), slots=4, seconds=2.0)
    assert speed.prefill(500, 2, 0.0) == pytest.approx(0.01 + 0.1 + 0.002 + 0.02)
    assert speed.prefill(500, 99, 0.0) == speed.prefill(500, 3, 0.0)  # it starts when three others run
    assert [speed.wait(n) for n in (0, 3, 4, 7)] == [0, 0, 0.5, 2.0]
