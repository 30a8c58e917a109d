"""The simulation that decisions are judged by: laws that hold whatever the policy, and figures that can be worked out by hand."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from benchmarks import quality
from benchmarks._fleet import SLOTS
from benchmarks._plot import draw
from benchmarks._policies import POLICIES
from benchmarks._score import fair_shares, fairness, jain, percentile, row
from benchmarks._simulate import HOP, NOTICED, Simulation
from benchmarks._workloads import WORKLOADS, Fault, Request, Text, Workload, conversations, shared

SECONDS = 3.0
RATE = 30.0


def cold(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """Nothing that any two share."""
    return [
        Request(text.id(), at, b"%06d" % index + text.words(400)[6:], text.words(50))
        for index, at in enumerate(text.arrivals(capacity * load, 0.0, seconds))
    ]


def single(text: Text, capacity: float, load: float, seconds: float) -> list[Request]:
    """One prefix, one answer."""
    prompt = text.words(1200)
    return [Request(text.id(), at, prompt, text.words(5)) for at in text.arrivals(capacity * load, 0.0, seconds)]


COLD = Workload("cold", "", cold)
SINGLE = Workload("single", "", single)


def run(
    workload: Workload, policy: str, *, rate: float = RATE, seconds: float = SECONDS, servers: int = 4, seed: int = 1
) -> Sequence[Request]:
    requests = workload.make(Text(seed), rate, 1.0, seconds)
    quality.simulate(workload, policy, requests, seconds, servers, seed)
    return requests


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_once(workload: Workload, policy: str) -> None:
    for one in run(workload, policy):  # a second end is an AssertionError of the simulation
        assert one.end is not None
        assert one.end >= one.offered >= one.arrival >= 0.0
        if one.status == 200:
            assert one.sent is not None
            assert one.first is not None
            assert one.offered <= one.sent < one.first <= one.end
            assert one.tokens == one.max_tokens
            assert 0 <= one.cached < one.prompt_tokens
        else:
            assert one.status in (429, 503)


@pytest.mark.parametrize("policy", ["random", "llm-d default", "ours", "oracle, waiting"])
def test_equal_seeds_give_equal_rows(policy: str) -> None:
    workload = WORKLOADS["objective"]
    first, second, other = (row(workload, 1.0, policy, run(workload, policy, seed=seed), SECONDS) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_every_policy_gets_the_same_requests() -> None:
    asked = [
        [(one.arrival, one.prompt) for one in run(WORKLOADS["shared-prefix"], name)] for name in ("random", "ours")
    ]
    assert asked[0] == asked[1]


def test_a_cold_request_of_an_idle_server_takes_what_the_formula_says() -> None:
    request = Request(1, 0.0, Text(1).words(1000), Text(2).words(11))
    quality.simulate(COLD, "round-robin", [request], 1.0, 1, 1)
    busy = 1.0 + 2.0 / SLOTS
    assert request.ttft == pytest.approx(HOP + (0.010 + 0.2) * busy)
    assert request.end is not None
    assert request.first is not None
    assert request.end - request.first == pytest.approx(10 * 0.010 * busy)


@pytest.mark.parametrize("policy", ["round-robin", "oracle"])
def test_servers_that_are_always_full_have_the_capacity_of_the_formula(policy: str) -> None:
    servers, seconds = 2, 30.0
    capacity = quality.ideal_capacity(servers, 400, 50)
    requests = run(COLD, policy, rate=capacity * 1.5, seconds=seconds, servers=servers)
    ended = sum(10.0 <= one.end < seconds for one in requests if one.end is not None)
    assert ended / (seconds - 10.0) == pytest.approx(capacity, rel=0.05)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_prefix_is_always_cached(policy: str) -> None:
    requests = [one for one in run(SINGLE, policy, rate=40, servers=2) if one.arrival > 1.0]
    prompts = sum(one.prompt_tokens for one in requests)
    assert sum(one.cached for one in requests) / prompts > 0.98  # but the last block, whose output is the first token


def test_nothing_shared_is_never_cached() -> None:
    assert not any(one.cached for one in run(COLD, "ours"))


def test_a_slow_server_is_slow_while_it_is() -> None:
    workload = Workload("slow", "", cold, faults=(Fault((0,), 0.0, 0.5, 5.0),))
    slow, fast = (Request(n, at, Text(n).words(500), Text(n).words(5)) for n, at in ((1, 0.5), (2, 6.0)))
    quality.simulate(workload, "round-robin", [slow, fast], 10.0, 1, 1)
    assert slow.ttft is not None
    assert fast.ttft is not None
    assert (slow.ttft - HOP) / (fast.ttft - HOP) == pytest.approx(5.0)


def test_a_dead_server_loses_its_requests_and_its_cache_and_others_take_the_next() -> None:
    workload = Workload("dead", "", single, kv_blocks=1000, faults=(Fault((0,), 0.3, 0.5, dead=True),))
    requests = run(workload, "round-robin", rate=40, seconds=30.0, servers=2)
    died, back = 9.0, 15.0
    gone = "10.0.0.1:8000"
    lost = [one for one in requests if one.status == 503]
    assert lost
    assert all(one.server == gone and one.end == died for one in lost)
    assert not [
        one for one in requests if one.status == 200 and one.server == gone and died <= one.offered < back - HOP
    ]
    again = [one for one in requests if one.server == gone and one.offered >= back]
    assert again
    assert again[0].offered >= back + NOTICED - 0.1
    assert again[0].cached == 0


def test_turns_of_a_conversation_come_one_after_the_other_and_find_what_was_said() -> None:
    requests = run(Workload("turns", "", conversations, kv_blocks=8000), "ours", rate=8, seconds=20.0, servers=1)
    later = [one for one in requests if one.after is not None]
    assert later
    for one in later:
        before = one.after
        assert before is not None
        assert before.end is not None
        assert one.offered >= before.end + one.think
        assert one.prompt.startswith(before.prompt + before.answer)
    assert sum(one.cached for one in later) / sum(one.prompt_tokens for one in later) > 0.6


def test_arrivals_come_at_the_rate_that_was_asked_for_in_bursts() -> None:
    times = list(Text(3).arrivals(100.0, 0.0, 200.0))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert len(times) == pytest.approx(20_000, rel=0.05)
    assert deviation / mean == pytest.approx(2.0, rel=0.1)


def test_an_end_that_comes_twice_is_an_error() -> None:
    request = Request(1, 0.0, b"word " * 50, b"word " * 5)
    simulation = Simulation(COLD, [request], 1.0, 1, 1)
    simulation.run(POLICIES["random"](1, simulation))
    with pytest.raises(AssertionError):
        simulation._ended(request, 200)


# --- figures ----------------------------------------------------------------------------------------------------------


def test_percentile_is_a_value_that_occurred() -> None:
    values = list(range(100))
    random.Random(1).shuffle(values)
    assert [percentile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)] == [0, 50, 90, 99, 99]
    assert percentile([], 0.5) is None


def test_jain() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)


def test_fair_shares_give_the_modest_all_and_the_others_the_same() -> None:
    assert fair_shares([10, 100, 200], 70) == [10, 30, 30]
    assert fair_shares([10, 20], 70) == [10, 20]


def test_a_noisy_tenant_that_gets_less_than_it_asks_for_is_no_unfairness() -> None:
    def served(tenant: str, count: int, good: int) -> list[Request]:
        found = [Request(0, 0.0, b"", b"", tenant=tenant) for _ in range(count)]
        for one in found[:good]:
            one.status, one.first, one.end = 200, 0.1, 0.2
        return found

    assert fairness(served("quiet", 10, 10) + served("noisy", 100, 50)) == pytest.approx(1.0)
    unfair = fairness(served("quiet", 10, 1) + served("noisy", 100, 59))
    assert unfair is not None
    assert unfair < 0.7


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_its_rows_as_json(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    plot = tmp_path / "quality.svg"
    given = ["--quick", "--seconds", "2", "--servers", "2", "--policy", "random", "--policy", "ours"]
    quality.main([*given, "--plot", str(plot)])
    *table, last = capsys.readouterr().out.splitlines()
    rows = json.loads(last)["rows"]
    assert [(one["load"], one["policy"]) for one in rows] == [
        (0.8, "random"),
        (0.8, "ours"),
        (1.4, "random"),
        (1.4, "ours"),
    ]
    assert all(0.0 <= one["goodput"] <= 1.0 and one["offered"] for one in rows)
    assert len(table) == 3 + len(rows)
    assert ET.fromstring(plot.read_text()).tag.endswith("svg")


def test_the_picture_has_two_panels_for_each_workload_and_a_line_for_each_policy() -> None:
    rows = [
        {"workload": workload, "load": load, "policy": policy, "ttft_p90_ms": 100.0 * load, "goodput": 0.5}
        for workload in ("a", "b")
        for load in (0.5, 1.0)
        for policy in ("ours", "<other>")
    ]
    assert draw(rows).count("<polyline") == 2 * 2 * 2


def test_shared_prefixes_are_skewed() -> None:
    prompts = [one.prompt[:100] for one in shared(Text(1), 100.0, 1.0, 60.0)]
    counts = sorted((prompts.count(prompt) for prompt in set(prompts)), reverse=True)
    assert len(counts) > 80
    assert counts[0] > 10 * counts[50]
