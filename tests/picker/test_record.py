"""What is recorded, and what never is."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from picker.load import Load
from picker.picker import Picker
from picker.record import Config, Noted, config_of
from picker.record_json import record_line
from tests.picker._recorded import ASKS, CANARY, ENDPOINTS, OWN, POOLS, Kept, Known, asked, configs, plugin, traffic
from tests.picker.test_picker import pool
from xds_server.model.graph import Objective

IDLE = tuple(Load(scraped=100.0) for _ in ENDPOINTS)
ASK: dict[str, Any] = {"model": "m", "prompt": 300, "headers": {}, "image": True, "subset": None}


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), POOLS, st.lists(ASKS, min_size=1, max_size=4))
def test_no_prompt_and_no_credential_is_in_any_record(config: Any, loads: Any, steps: list[Any]) -> None:
    """The canary is in the prompt, its image, the query, cookies, keys, authorization, user agent and session tokens."""
    records, _ = traffic(config, loads, steps)
    assert records
    assert not [line for line in map(record_line, records) if CANARY.encode() in line]


@pytest.mark.parametrize("header", ["authorization", "cookie", "x-api-key"])
def test_a_credential_is_withheld_though_a_scorer_reads_it(header: str) -> None:
    scorer = plugin("header-label-affinity-scorer", headerName=header, labelKey="tier")
    (record,), _ = traffic({"plugins": [scorer]}, IDLE, [ASK])
    assert (record.request.headers, record.request.withheld) == ({}, (header,))
    assert CANARY.encode() not in record_line(record)


def test_only_headers_that_were_read_are_recorded() -> None:
    scorer = plugin("header-label-affinity-scorer", headerName="x-tier", labelKey="tier")
    ask = {**ASK, "headers": {"x-tier": "gold", "epp-profile": "decode"}}
    (record,), _ = traffic({"plugins": [scorer]}, IDLE, [ask])
    assert record.request.headers == {"x-tier": "gold"}


def test_names_of_clients_are_bounded() -> None:
    ask = {**ASK, "model": "m" * 2000, "headers": {"x-gateway-inference-fairness-id": "f" * 10**6}}
    (record,), _ = traffic(None, IDLE, [ask])
    assert len(record_line(record)) < 20_000


def test_what_nobody_wants_is_not_recorded_and_decided_alike() -> None:
    kept, none = Kept(), Kept(None)
    answers = []
    for records in (kept, none, None):
        picker = Picker(Known(dict(zip(map(str, ENDPOINTS), IDLE, strict=True))), records=records)
        found = pool(*ENDPOINTS)
        picker.update({found.name: found})
        answers.append([picker.decide(asked(ASK, number, 100.0)).endpoints for number in range(5)])
    assert answers[0] == answers[1] == answers[2]
    assert (len(kept.records), none.records) == (5, [])


def test_why_it_waited_and_for_how_long() -> None:
    busy = tuple(Load(scraped=100.0, inflight=1, running=1, speed=_slots(1.0)) for _ in ENDPOINTS)
    change = [(2, Load(scraped=100.0, speed=_slots(1.0)))]
    short = {**ASK, "headers": {"x-llm-d-inference-ttl": "100ms"}}
    records, _ = traffic(None, busy, [ASK, short, change])
    found = {record.id: record for record in records}
    one, other = found["id-0"], found["id-1"]
    assert (one.held, one.waited, one.picked.endpoints[0]) == ("full", 0.5, str(ENDPOINTS[2]))
    assert (other.held, other.refused.reason, other.turn, len(other.candidates)) == ("behind", "queue_ttl", None, 7)


def _slots(count: float) -> Any:
    from picker.latency import Speed  # noqa: PLC0415

    return Speed(slots=count)


def test_a_refusal_says_what_was_predicted_and_who_waited() -> None:
    busy = tuple(Load(scraped=100.0, waiting=9, inflight=1, running=1, speed=_slots(1.0)) for _ in ENDPOINTS)
    bulk = {**ASK, "headers": {"x-gateway-inference-objective": "bulk"}}
    (record,), _ = traffic(None, busy, [bulk])
    assert (record.refused.status, record.refused.reason, record.request.priority) == (429, "shed_priority", -1)
    assert len(record.candidates) == len(ENDPOINTS)


def test_whoever_asked_is_told() -> None:
    for why, told in (("asked", True), ("sampled", False)):
        picker = Picker(Known({}), own=OWN, records=Kept(why))
        found = pool(ENDPOINTS[0], objectives=(Objective("bulk", -1),))
        picker.update({found.name: found})
        denied = picker.decide(asked({**ASK, "subset": ()}, 0, 1.0))
        assert (denied.explained, denied.refused.status) == (told, 503)


def test_the_configuration_in_force_is_recorded_not_the_one_that_is_refused() -> None:
    kept, good = Kept(), {"plugins": [{"type": "queue-scorer"}]}
    picker = Picker(Known(dict(zip(map(str, ENDPOINTS), IDLE, strict=True))), records=kept)
    for config in (good, {"plugins": [{"type": "magic"}]}):
        found = pool(*ENDPOINTS, config=config)
        picker.update({found.name: found})
        picker.decide(asked(ASK, len(kept.records), 100.0))
    assert [one.config for one in kept.records] == [config_of(good)] * 2


def test_a_configuration_that_json_cannot_say() -> None:
    loop: dict[str, Any] = {}
    loop["metadata"] = loop
    assert config_of(loop) == Config("unreadable")
    assert config_of(None) == Config()
    assert config_of({"b": 1, "a": 2}) == config_of({"a": 2, "b": 1}) != config_of({"a": 2})


def test_headers_that_were_read_are_noted() -> None:
    noted = Noted({"a": "1", "b": "2"})
    assert (noted.get("a"), noted.get("c", ""), len(noted), list(noted), noted.read) == ("1", "", 2, ["a", "b"], {"a"})
