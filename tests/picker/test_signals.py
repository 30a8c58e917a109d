"""What Signals learns from the ends of requests: of speed, of caches, of health. Scrapes and counts: test_scrape.py."""

from dataclasses import replace

import pytest

from picker.inflight import LogEntry
from picker.load import Load
from picker.signals import Signals
from tests.picker.test_inflight import decision
from xds_server.model.graph import Endpoint

A, B = Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)
POOL = "ns/p"


def signals() -> Signals:
    found = Signals()
    found.update({POOL: [A, B]})
    return found


def entry(id_: str, **fields: object) -> LogEntry:
    known = {"status": 200, "details": "via_upstream", "endpoint": str(A), "duration": 1.0, "ttft": 0.1, "attempts": 1}
    return LogEntry(**{"id": id_, **known, **fields})  # type: ignore[arg-type]


def serve(
    found: Signals, now: float, streaming: bool = True, matched: int = 0, model: str = "m-1", **fields: object
) -> None:
    """One request of 1000 tokens to A that found nobody there."""
    sent = replace(
        decision("x", str(A), str(B)),
        pool=POOL,
        target_model=model,
        prompt_tokens=1000,
        matched_tokens=matched,
        seconds=0.0,
        streaming=streaming,
    )
    found.started(sent, now)
    assert found.finished(entry("x", **fields)) is not None


def speed(found: Signals, endpoint: Endpoint = A):
    return found.loads(POOL)[str(endpoint)].speed


def test_the_ttft_of_every_request_is_learned_without_what_it_waited_in_the_gateway() -> None:
    found = signals()
    for i in range(60):
        found.started(replace(decision(str(i), str(A)), prompt_tokens=1000, matched_tokens=0, seconds=5.0), float(i))
        found.finished(entry(str(i), ttft=5.4, duration=6.0))
    assert speed(found).prefill(1000, 0, 60.0) == pytest.approx(0.4, rel=0.1)
    assert speed(found).seconds == pytest.approx(1.0, rel=0.1)
    assert speed(found, B).weights == speed(found).weights or speed(found, B).prefill(1000, 0, 60.0) < 0.6


@pytest.mark.parametrize(
    "fields",
    [
        {"status": 500, "ttft": 50.0},
        {"status": 400, "ttft": 50.0},
        {"attempts": 2, "ttft": 50.0},
        {"endpoint": str(B), "ttft": 50.0},
        {"flags": frozenset({"DC"}), "ttft": 50.0},
        {"ttft": None, "duration": None},
    ],
)
def test_what_says_nothing_of_the_speed_is_not_learned(fields: dict[str, object]) -> None:
    found = signals()
    serve(found, 0.0, **fields)
    assert speed(found).seen == 0


def test_the_first_byte_of_an_answer_that_is_not_streamed_is_its_last() -> None:
    found = signals()
    serve(found, 0.0, streaming=False, ttft=50.0, duration=50.0)
    assert speed(found).seen == 0
    assert speed(found).seconds > 2.0


def test_cached_tokens_as_the_server_reports_them_are_believed() -> None:
    found = signals()
    for i in range(40):  # 900 of 1000 tokens are predicted to be cached; the server, whose tokens are smaller, has none
        serve(found, float(i), matched=900, input_tokens=1300, cached_tokens=0, ttft=0.5)
    assert speed(found).trust < 0.1
    assert speed(found).prefill(1000, 0, 40.0) == pytest.approx(0.5, rel=0.1)
    for i in range(60):
        serve(found, 40.0 + i, matched=900, input_tokens=1300, cached_tokens=1100, ttft=0.05)
    assert speed(found).trust > 0.9
    serve(found, 200.0, matched=900, ttft=0.05)  # a server that does not say says nothing
    assert speed(found).trust > 0.9


def test_other_requests_on_the_endpoint_are_those_at_the_decision() -> None:
    found = signals()
    for i in range(400):  # half of them find seven others there, and take twice as long
        others = 7 * (i % 2)
        for n in range(others):
            found.started(decision(f"{i}-{n}", str(A)), float(i))
        serve(found, float(i), ttft=0.2 * (1 + i % 2))
        for n in range(others):
            found.finished(entry(f"{i}-{n}", flags=frozenset({"DC"})))
    assert speed(found).prefill(1000, 0, 400.0) == pytest.approx(0.2, rel=0.1)
    assert speed(found).prefill(1000, 7, 400.0) == pytest.approx(0.4, rel=0.1)


def test_a_long_prompt_is_ahead_of_those_that_come_after_it_until_it_is_read() -> None:
    found = signals()
    long = replace(decision("long", str(A)), prompt_tokens=100_000, matched_tokens=0)
    found.started(long, 0.0)
    ahead = [found.loads(POOL)[str(A)].ahead(now) for now in (0.0, 1.0, 3600.0)]
    assert ahead[0] == 100 > ahead[1] > ahead[2] == 0
    assert found.loads(POOL)[str(B)].ahead(0.0) == 0
    found.started(replace(long, id="next", prompt_tokens=1000), 0.0)
    assert found.loads(POOL)[str(A)].ahead(0.0) == 101
    found.finished(entry("long"))
    found.finished(entry("next"))
    assert found.loads(POOL)[str(A)].ahead(0.0) == 0  # nothing of ours is there


def test_loading_an_adapter_is_no_slowness() -> None:
    found = signals()
    found.scraped(str(B), Load(max_loras=2, loras=frozenset({"m-1"})), 0.0)
    for i in range(40):
        for other in "no":
            found.scraped(str(A), Load(max_loras=2, loras=frozenset({other})), float(i))
        serve(found, float(i), ttft=2.1)
    assert speed(found).seen == 0
    assert speed(found).cold == pytest.approx(2.0, rel=0.1)
    assert speed(found, B).cold == speed(found).cold or speed(found, B).seen == 0


def test_an_adapter_is_loaded_once_and_stays_where_it_was_used_though_no_page_names_it() -> None:
    found = signals()
    found.scraped(str(B), Load(max_loras=1, loras=frozenset({"m-1"})), 0.0)
    for i in range(40):
        found.scraped(str(A), Load(max_loras=1), float(i))
        serve(found, float(i), ttft=0.1)
    assert found.loads(POOL)[str(A)].adapters == {"m-1"}
    assert speed(found).seen > 20  # all but the first tell of its speed
    found.scraped(str(A), Load(max_loras=1, loras=frozenset({"n"})), 41.0)
    assert found.loads(POOL)[str(A)].adapters == {"n"}


def test_a_page_that_is_late_does_not_bring_an_adapter_back() -> None:
    found = signals()
    found.scraped(str(B), Load(max_loras=1, loras=frozenset({"m-1"})), 0.0)
    found.scraped(str(A), Load(max_loras=1, loras=frozenset({"n"})), 0.0)
    serve(found, 0.1)  # n gave its slot away, and no page says so yet
    assert (found.loads(POOL)[str(A)].adapters, found.loads(POOL)[str(A)].adapters_busy) == ({"m-1"}, 0)


def test_what_waits_until_another_adapter_is_out_of_use_tells_of_no_speed() -> None:
    found = signals()
    found.scraped(str(B), Load(max_loras=1, loras=frozenset({"m-1"})), 0.0)
    found.scraped(str(A), Load(max_loras=1, loras=frozenset({"n"})), 0.0)
    assert (found.loads(POOL)[str(A)].adapters, found.loads(POOL)[str(A)].adapters_busy) == ({"n"}, 1)
    before = speed(found)
    serve(found, 0.0, ttft=9.0)
    assert speed(found).cold == before.cold and speed(found).weights == before.weights


def test_requests_in_flight_keep_their_adapters_slots() -> None:
    found = signals()
    found.scraped(str(A), Load(max_loras=2, loras=frozenset({"m-1"})), 0.0)
    found.scraped(str(A), Load(max_loras=2), 1.0)
    assert found.loads(POOL)[str(A)].adapters_busy == 0
    found.started(decision("1", str(A)), 2.0)
    found.started(decision("2", str(A)), 2.0)
    assert found.loads(POOL)[str(A)].adapters_busy == 1
    found.finished(entry("1"))
    found.finished(entry("2"))
    assert found.loads(POOL)[str(A)].adapters_busy == 0


def test_an_endpoint_that_fails_loses_its_traffic_at_once() -> None:
    found = signals()
    for i in range(2):
        serve(found, i / 10, status=503, flags=frozenset({"UF"}), details="upstream_reset", duration=0.001)
    assert found.loads(POOL)[str(A)].resting > 0.2
    assert found.loads(POOL)[str(B)].resting < 0
    assert set(found.health.resting(0.2)) == {str(A)}


def test_a_retry_that_ends_well_tells_of_the_one_that_failed() -> None:
    found = signals()
    for i in range(2):
        serve(found, i / 10, endpoint=str(B), attempts=2, duration=0.01)
    assert found.loads(POOL)[str(A)].resting > 0.1
    assert found.loads(POOL)[str(B)].resting < 0


def test_clients_that_leave_and_bad_requests_never_count() -> None:
    found = signals()
    for i in range(50):
        serve(found, i / 10, status=400)
        serve(found, i / 10, status=0, flags=frozenset({"DC"}), duration=0.01)
    assert found.loads(POOL)[str(A)].resting < 0


def test_an_endpoint_that_hangs_loses_its_traffic() -> None:
    found = signals()
    for i in range(30):
        serve(found, i / 10, duration=0.05)
    for n in range(6):
        found.started(decision(f"hangs {n}", str(A)), 4.0 + n / 10)
    for i in range(60):
        now = 5.0 + i / 10
        found.started(decision(f"b {i}", str(B)), now)
        found.finished(entry(f"b {i}", endpoint=str(B), duration=0.05))
        found.asked(str(A))
        found.scraped(str(A), Load(running=6), now)
        if found.loads(POOL)[str(A)].resting > now:
            break
    assert now < 9.0
    assert set(found.health.resting(now)) == {str(A)}


def test_what_is_remembered_of_requests_goes_with_them() -> None:
    found = Signals(timeout=10.0)
    found.update({POOL: [A]})
    for i in range(30):
        found.started(decision(str(i), str(A)), 0.0)
    found.finished(entry("0"))
    found.finished(entry("1", details="penstock:shed_priority"))
    assert len(found._begun) == 28
    found.expired(11.0)
    assert not found._begun


# --- models of servers ------------------------------------------------------------------------------------------------


def listing(**lists: frozenset[str]) -> tuple[Signals, list[list[str]]]:
    """Signals whose servers list these, and the endpoints that are to be asked again, each time."""
    found, told = signals(), list[list[str]]()
    found.on_other_models = lambda names: told.append(list(names))
    for letter, names in lists.items():
        found.served.listed(str({"a": A, "b": B}[letter]), names, 0.0, 1e9)
    return found, told


HAS, LACKS = frozenset({"base", "m-1"}), frozenset({"base"})  # m-1 is what `serve` asks for


def test_an_endpoint_that_does_not_have_what_it_listed_is_asked_again() -> None:
    found, told = listing(a=HAS, b=LACKS)
    serve(found, 1.0)
    assert told == []
    serve(found, 2.0, status=404)
    assert told == [[str(A)]]


@pytest.mark.parametrize("status", [404, 400])  # vLLM, SGLang
def test_a_model_that_nobody_lists_may_be_somewhere_by_now(status: int) -> None:
    found, told = listing(a=LACKS, b=LACKS)
    serve(found, 1.0, status=status)
    assert told == [[str(A), str(B)]]


def test_bad_requests_tell_nothing_of_models() -> None:
    found, told = listing(a=HAS)
    serve(found, 1.0, status=400)
    serve(found, 2.0, status=503)
    serve(found, 3.0, status=404, model="")  # it names none
    assert told == []


def test_an_endpoint_that_serves_what_it_does_not_list_is_asked_again_and_then_may_have_anything() -> None:
    found, told = listing(a=LACKS, b=HAS)
    serve(found, 1.0)
    assert told == [[str(A)]]
    assert found.served.lacks(str(A), "m-1")
    found.served.listed(str(A), LACKS, 3.0, 1e9)
    assert not found.served.lacks(str(A), "m-1")


def test_what_another_endpoint_answered_tells_nothing_of_the_first() -> None:
    found, told = listing(a=LACKS, b=HAS)
    serve(found, 1.0, endpoint=str(B), attempts=2)
    assert told == []


def test_that_an_endpoint_comes_back_is_told() -> None:
    found, told = signals(), list[str]()
    found.on_return = told.append
    found.scraped(str(A), Load(), 1.0)
    found.failed(str(A))
    assert told == []
    found.scraped(str(A), Load(), 2.0)
    assert told == [str(A)]
