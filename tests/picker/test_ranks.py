"""Ranks behind one port: what leaves, what is learned of which rank, and what Envoy tries next."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from picker.facts import Decision
from picker.health import healthy
from picker.inflight import LogEntry
from picker.latency import Speed
from picker.load import Load, UnknownPage, parse_ranks
from picker.picker import Ask, Picker
from picker.prefix import BLOCK_TOKENS, TOKEN_BYTES
from picker.profile import DEFAULT
from picker.ranks import ABSENT, HEADER, answered, attempts, count, headers, host_port, note
from picker.request import InferenceRequest
from picker.schedule import pick
from picker.signals import Signals
from picker.stage import Pick
from picker.turn import Turn, choose
from tests.picker._views import candidates, fresh, plugin, profile, view
from tests.picker.test_inflight import decision
from tests.picker.test_picker import pool
from xds_server.model.graph import Endpoint


def ranks(number: int, count: int = 2, **more: Any) -> list[Endpoint]:
    """Of the pod 10.0.0.NUMBER."""
    return [Endpoint(f"10.0.0.{number}", 8000, rank=rank, by_header=True, **more) for rank in range(count)]


A0, A1 = ranks(1)
B0, B1 = ranks(2)
A, B = A0.host_port, B0.host_port
ALL = (A0, A1, B0, B1)
SIX = Endpoint("fd00::1", 8000, rank=3, by_header=True)


def test_names() -> None:
    assert (str(A1), host_port(str(A1)), headers(str(A1))) == ("10.0.0.1:8000@1", A, ((HEADER, "1"),))
    assert (str(SIX), host_port(str(SIX))) == ("[fd00::1]:8000@3", "[fd00::1]:8000")
    assert (host_port(A), headers(A)) == (A, ())


def test_a_retry_takes_the_rank_along_so_it_is_the_same_elsewhere() -> None:
    assert attempts([str(A1), str(A0), str(B0), str(B1)]) == (str(A1), str(B1))
    assert attempts([A, B, A]) == (A, B)
    assert answered([str(A1), str(B1)], B) == str(B1)
    assert answered([A, B], B) == B
    assert answered([str(A1)], "10.0.0.9:8000") == "10.0.0.9:8000"


PICKERS = [
    plugin(kind, maxNumOfEndpoints=3) for kind in ("max-score-picker", "random-picker", "weighted-random-picker")
]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, unique=True),
    st.lists(st.integers(0, 9), min_size=16, max_size=16),
    st.sampled_from(PICKERS),
    st.text(max_size=3),
)
def test_fallbacks_are_other_addresses_at_the_rank_of_the_best(
    places: Any, busy: list[int], how: Any, id_: str
) -> None:
    endpoints = [Endpoint(f"10.0.0.{pod}", 8000, rank=rank, by_header=True) for pod, rank in places]
    seen = view(*endpoints, loads=tuple(fresh(inflight=busy[i]) for i in range(len(endpoints))))
    found = pick(seen, profile("active-request-scorer", how), id_).endpoints
    assert attempts(found) == found and set(found) <= set(seen.names)
    rank = found[0].partition("@")[2]
    assert len(found) == min(3, sum(name.endswith(f"@{rank}") for name in seen.names))


def test_the_best_rank_of_all_is_chosen_and_then_the_best_pod_at_that_rank() -> None:
    loads = tuple(fresh(inflight=n) for n in (5, 1, 2, 3, 9, 0))
    seen = view(*ALL, *ranks(3), loads=loads)
    assert pick(seen, profile("active-request-scorer"), "id").endpoints == ("10.0.0.3:8000@1", str(A1), str(B1))


def test_a_subset_names_addresses_and_means_all_ranks() -> None:
    assert candidates(ALL, (A,)) == candidates(ALL, ("10.0.0.1",)) == [A0, A1]
    assert candidates(ALL, (str(B1),)) == [B1]


# --- a picker ---------------------------------------------------------------------------------------------------------


class World:
    """A picker that decides, and is told how requests end."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.signals = Signals()
        self.picker = Picker(self.signals)
        found = pool(*endpoints)
        self.name = found.name
        self.picker.update({found.name: found})
        self.signals.update({found.name: endpoints})
        for one in endpoints:
            self.signals.scraped(str(one), Load(scraped=0.0, blocks=4096, block_tokens=16), 0.0)

    def send(self, id_: str, prompt: bytes = b"") -> Decision:
        request = InferenceRequest("/v1/completions", model="m", prompt=prompt, headers={HEADER: "7"})
        found = self.picker.decide(Ask(request, self.name, None, id_, 0.0, 0.0))
        assert isinstance(found, Decision)
        return found


def test_each_rank_has_requests_in_flight_and_prefixes_of_its_own() -> None:
    world = World(*ALL)
    sent = [world.send(str(number), bytes([number]) * (4 * BLOCK_TOKENS * TOKEN_BYTES)) for number in range(4)]
    assert {one.endpoints[0] for one in sent} == set(map(str, ALL))
    assert [load.inflight for load in world.signals.loads(world.name).values()] == [1] * 4
    for one in sent:
        assert len(one.endpoints) == 2 and one.headers[-1] == (HEADER, one.endpoints[0].partition("@")[2])
        outcome = world.signals.finished(LogEntry(id=one.id, status=200, details="via_upstream", endpoint=host_port(one.endpoints[0])))  # fmt: skip
        assert outcome is not None and outcome.endpoint == one.endpoints[0]
    assert [load.inflight for load in world.signals.loads(world.name).values()] == [0] * 4
    again = [world.send(f"again {number}", bytes([number]) * (4 * BLOCK_TOKENS * TOKEN_BYTES)) for number in range(4)]
    assert [one.endpoints[0] for one in again] == [one.endpoints[0] for one in sent]
    assert {one.matched_tokens for one in again} == {256}


def test_a_fallback_that_served_is_the_same_rank_elsewhere() -> None:
    world = World(*ALL)
    sent = world.send("1")
    outcome = world.signals.finished(LogEntry(id="1", status=200, details="via_upstream", attempts=2, endpoint=host_port(sent.endpoints[1])))  # fmt: skip
    assert outcome is not None and outcome.endpoint == sent.endpoints[1]


def test_what_a_rank_learns_is_where_its_siblings_begin() -> None:
    signals = Signals()
    signals.update({"p": ALL})
    for number in range(30):
        signals.started(decision(str(number), str(A0)), float(number))
        signals.finished(LogEntry(id=str(number), status=200, endpoint=A, duration=3.0, ttft=2.25, attempts=1))
    one, sibling = (signals.latency.speed(str(each)).prefill(36, 0, 30.0) for each in (A0, A1))
    assert sibling == pytest.approx(one, rel=0.5) and one > 1.0
    assert signals.latency.speed(str(A0)).seen and not signals.latency.speed(str(A1)).seen


# --- health -----------------------------------------------------------------------------------------------------------


def resting(signals: Signals, now: float = 1.0) -> set[str]:
    return set(signals.health.resting(now))


def failing(reason: dict[str, Any], *, page: bool = True) -> Signals:
    """Two requests to A@0 that ended so."""
    signals = Signals()
    signals.update({"p": ALL})
    if not page:
        for each in (A0, A1):
            signals.failed(str(each))
    for id_ in "12":
        signals.started(decision(id_, str(A0), str(B0)), 1.0)
        signals.finished(LogEntry(**{"id": id_, "endpoint": A, "duration": 0.0, "attempts": 1, **reason}))
    return signals


def test_a_pod_that_refuses_connections_rests_with_all_its_ranks() -> None:
    assert resting(failing({"status": 503, "flags": frozenset({"UF"})})) == {str(A0), str(A1)}
    elsewhere = {"status": 200, "details": "via_upstream", "endpoint": B, "attempts": 2}
    assert resting(failing(elsewhere, page=False)) == {str(A0), str(A1)}


def test_a_rank_that_fails_alone_rests_alone() -> None:
    assert resting(failing({"status": 500, "details": "via_upstream"})) == {str(A0)}
    assert resting(failing({"status": 200, "details": "via_upstream", "endpoint": B, "attempts": 2})) == {str(A0)}


# --- figures ----------------------------------------------------------------------------------------------------------

PAGE = b"""
vllm:num_requests_waiting{engine="0",model_name="m"} 4
vllm:num_requests_waiting{engine="1",model_name="m"} 0
vllm:num_requests_running{engine="0",model_name="m"} 8
vllm:num_requests_running{engine="1",model_name="m"} 1
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.75
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:lora_requests_info{max_lora="2",running_lora_adapters="sql",waiting_lora_adapters=""} 1.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="90"} 1.0
"""


def test_the_figures_of_each_rank_are_its_own() -> None:
    found = parse_ranks(PAGE, "", 5.0)
    both: dict[str, Any] = {"loras": frozenset({"sql"}), "max_loras": 2, "block_tokens": 16, "scraped": 5.0}
    assert found == {
        0: Load(waiting=4, running=8, kv_usage=0.75, blocks=100, **both),
        1: Load(waiting=0, running=1, kv_usage=0.25, blocks=90, **both),
    }


@pytest.mark.parametrize("page", [b"", b"vllm:num_requests_running 1\n", b'vllm:num_requests_running{engine="x"} 1\n'])
def test_a_page_without_ranks_says_nothing_of_any(page: bytes) -> None:
    with pytest.raises(UnknownPage):
        parse_ranks(page)


def test_a_rank_that_does_not_exist_is_noted_and_rests_until_it_is_there() -> None:
    signals = Signals()
    signals.update({"p": ALL})
    assert note(signals.loads("p"), {}) == ""
    signals.scraped(str(A1), ABSENT, 0.0)
    assert note(signals.loads("p"), {}).startswith(f"1 of 4 data-parallel ranks do not exist, such as {A1}, and get no")
    assert healthy(list(signals.loads("p").values()), 1e9) == [0, 2, 3]
    signals.scraped(str(A1), Load(scraped=1.0), 1.0)
    assert note(signals.loads("p"), {}) == "" and healthy(list(signals.loads("p").values()), 1.0) == [0, 1, 2, 3]


def test_a_server_with_ranks_of_which_the_pool_does_not_speak_is_noted() -> None:
    assert [count(page) for page in (b"", PAGE.replace(b'engine="1"', b'engine="3"'), PAGE)] == [0, 1, 2]
    signals, alone = Signals(), Endpoint("10.0.0.1", 8000)
    signals.update({"p": [alone]})
    signals.noticed(A, 2)
    assert 'penstock.dev/data-parallel-ranks: "2"' in note(signals.loads("p"), signals.several)
    signals.noticed(A, 1)
    assert note(signals.loads("p"), signals.several) == ""
    signals.noticed(A, 2)
    signals.update({"p": []})
    assert not signals.several


def test_a_fallback_is_a_candidate_also_where_only_some_have_room() -> None:
    slow = Speed((0.0, 100.0, 0.0, 0.0), slots=4.0, seconds=1.0)  # the cache of the full one would be worth waiting for
    full, free = fresh(inflight=4, running=4, speed=slow), fresh(speed=slow)
    loads, matched, prompt = (full, free, full, full), (640, 0, 0, 0), bytes(10 * BLOCK_TOKENS * TOKEN_BYTES)
    seen = view(A0, B1, *ranks(3), loads=loads, matched=matched, cacheable=640, prompt=prompt)  # A@1 is no candidate
    found = choose(seen, DEFAULT, Turn("id", priority=-1))
    assert isinstance(found, Pick)
    assert found.endpoints == (str(B1), "10.0.0.3:8000@1")


SGLANG = b"""
sglang:num_queue_reqs{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 4.0
sglang:num_queue_reqs{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 0.0
sglang:num_running_reqs{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 8.0
sglang:num_running_reqs{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 1.0
sglang:token_usage{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 0.75
sglang:token_usage{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 0.25
sglang:page_size{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 16.0
sglang:page_size{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 16.0
sglang:num_pages{dp_rank="0",engine_type="unified",model_name="m",tp_rank="0"} 100.0
sglang:num_pages{dp_rank="1",engine_type="unified",model_name="m",tp_rank="1"} 90.0
"""


def test_sglang_tells_its_ranks_by_another_label() -> None:
    found = parse_ranks(SGLANG, now=5.0)
    assert found == {
        0: Load(waiting=4, running=8, kv_usage=0.75, block_tokens=16, blocks=100, scraped=5.0),
        1: Load(waiting=0, running=1, kv_usage=0.25, block_tokens=16, blocks=90, scraped=5.0),
    }
    assert [count(SGLANG), count(SGLANG.replace(b'dp_rank="1"', b'dp_rank="3"'))] == [2, 1]
    with pytest.raises(UnknownPage, match="dp_rank"):
        parse_ranks(SGLANG.replace(b"dp_rank", b"engine"))
