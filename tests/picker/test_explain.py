"""The law of records: what was recorded is decided again, bit for bit. And what is said of it."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from picker.explain import Diverged, differences, explanation, outcome, predicted, profile_of, replay, summary
from picker.facts import Decision
from picker.load import Load
from picker.ranks import attempts, headers
from picker.record import Config, DecisionRecord
from picker.record_json import config_line, read, record_line
from picker.served import Served
from tests.picker._recorded import ENDPOINTS, POOLS, RANKS, STEPS, configs, plugin, traffic

IDLE = tuple(Load(scraped=100.0) for _ in ENDPOINTS)
ASK: dict[str, Any] = {"model": "m", "prompt": 300, "headers": {}, "image": False, "subset": None}


def through_json(records: list[DecisionRecord]) -> list[DecisionRecord]:
    """Written and read again."""
    lines = [line for one in records for line in (config_line(one.config), record_line(one))]
    found = list(read(lines))
    assert [one.error for one in found] == [""] * len(records)
    assert [record_line(one.record) for one in found if one.record] == lines[1::2]
    return [one.record for one in found if one.record]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(configs(), POOLS, STEPS, st.sampled_from((ENDPOINTS, RANKS)))
def test_what_was_recorded_is_decided_again_bit_for_bit(
    config: Any, loads: Any, steps: list[Any], endpoints: Any
) -> None:
    records, answers = traffic(config, loads, steps, endpoints)
    assert sorted(one.id for one in records) == sorted(answers)
    for record in through_json(records):
        answer = answers[record.id]
        if isinstance(answer, Decision):
            assert record.turn is not None
            assert record.picked is not None
            assert record.picked.endpoints == answer.endpoints == attempts(answer.endpoints)
            assert (*record.picked.headers, *headers(answer.endpoints[0])) == answer.headers
            assert record.waited == answer.queue
        else:
            assert record.refused == answer.refused
        profile = profile_of(record.config)
        if record.turn is not None:
            assert differences(record, replay(record, profile)) == []
        found = explanation(record, profile)
        assert found["same"] == (record.turn is not None)
        assert len(found["candidates"]) == len(record.candidates)


def one_record(config: Any = None, loads: tuple[Load, ...] = IDLE, **ask: Any) -> DecisionRecord:
    (record,), _ = traffic(config, loads, [{**ASK, **ask}])
    return record


def test_an_explanation_says_who_was_dropped_by_what_and_every_score() -> None:
    config = {"plugins": [plugin("by-label", label="tier", validValues=["gold"]), plugin("queue-scorer")]}
    record = one_record(
        config, tuple(Load(scraped=99.0, waiting=i, resting=200.0 if i == 1 else 0.0) for i in range(7))
    )
    found = explanation(record, profile_of(record.config))
    (stage,) = found["stages"]
    assert stage["profile"] == "default"
    assert stage["dropped"] == [{"filter": "by-label", "endpoints": [str(ENDPOINTS[i]) for i in (0, 2, 4, 6)]}]
    assert stage["scores"] == {str(ENDPOINTS[3]): {"queue-scorer": 1.0, "sum": 1.0},
                               str(ENDPOINTS[5]): {"queue-scorer": 0.0, "sum": 0.0}}  # fmt: skip
    assert stage["picked"] == [str(ENDPOINTS[3]), str(ENDPOINTS[5])]
    assert [one["rests"] for one in found["candidates"]] == [i == 1 for i in range(7)]
    assert {one["load_age_seconds"] for one in found["candidates"]} == {1.25}
    assert found["same"]
    assert summary(record)["predicted_ttft_seconds"] == predicted(record) > 0.0


def test_stages_of_a_disaggregated_pool_have_their_names() -> None:
    plugins = [*map(plugin, ("decode-filter", "prefill-filter", "queue-scorer", "always-disagg-pd-decider")),
               plugin("disagg-profile-handler", deciders={"prefill": "always-disagg-pd-decider"})]  # fmt: skip
    stages = [{"name": role, "plugins": [f"{role}-filter", "queue-scorer"]} for role in ("decode", "prefill")]
    record = one_record({"plugins": plugins, "schedulingProfiles": stages})
    found = explanation(record, profile_of(record.config))
    assert [one["profile"] for one in found["stages"]] == ["decode", "prefill"]
    assert found["stages"][1]["picked"][0] == record.picked.beside[0]


def test_what_differs_is_named() -> None:
    record = one_record()
    assert record.picked is not None
    other = replace(record, picked=replace(record.picked, endpoints=record.picked.endpoints[::-1]))
    (said,) = differences(other, replay(other, profile_of(other.config)))
    assert said.startswith(f"endpoints: {','.join(other.picked.endpoints)} was recorded")
    refused = replace(record, picked=None, refused=None)
    assert differences(refused, replay(refused, profile_of(refused.config))) != []


def test_another_configuration_is_another_pick() -> None:
    loads = tuple(Load(scraped=100.0, waiting=0 if i == 3 else 5) for i in range(7))
    record = one_record({"plugins": [plugin("queue-scorer")]}, loads)
    kinder = profile_of(Config("x", {"plugins": [plugin("kv-cache-utilization-scorer"), plugin("random-picker")]}))
    assert outcome(replay(record, profile_of(record.config)).found).startswith(str(ENDPOINTS[3]))
    assert differences(record, replay(record, kinder, quoted=False)) != []


def test_what_a_user_s_scorer_said_is_quoted_and_nothing_else_can_be() -> None:
    record = one_record({"plugins": [plugin("python-scorer", "own", function="mine:score")]})
    assert [name for name, _ in record.tape] == ["own"]
    assert differences(record, replay(record, profile_of(record.config))) == []
    for tape in ((), (("other", (0.0,) * 7),), (("own", (0.0,)),)):
        with pytest.raises(Diverged):
            replay(replace(record, tape=tape), profile_of(record.config))
    # asked anew without the user's code: the scorer counts as one that fails
    assert replay(record, profile_of(record.config), quoted=False).found.endpoints


def test_what_a_filter_kept_must_be_there() -> None:
    config = {"plugins": [plugin("session-affinity-filter"), plugin("queue-scorer")]}
    record = one_record(config, headers={"x-session-token": "t"})
    assert [name for name, _ in record.tape] == ["session-affinity-filter"]
    for said in ((7,), (-1,), (0.5,)):
        with pytest.raises(Diverged):
            replay(replace(record, tape=(("session-affinity-filter", said),)), profile_of(record.config))


def test_a_session_is_recorded_by_its_hash_and_decides_as_it_did() -> None:
    """Among idle servers a session's own is preferred: without its hash some would go elsewhere."""
    records = [one_record(headers={"x-session-token": f"t{number}"}) for number in range(8)]
    assert not [one for one in records if differences(one, replay(one, profile_of(one.config)))]
    nobody = [replace(one, request=replace(one.request, session="")) for one in records]
    assert [one for one in nobody if differences(one, replay(one, profile_of(one.config)))]


def test_a_configuration_that_is_no_json_cannot_be_read_again() -> None:
    with pytest.raises(LookupError):
        profile_of(Config("unreadable"))


def test_what_has_no_turn_is_not_decided_again() -> None:
    record = replace(one_record(), turn=None)
    with pytest.raises(ValueError, match="without a choice"):
        replay(record, profile_of(record.config))
    assert explanation(record, profile_of(record.config))["stages"] == []


def test_who_lacks_the_model_is_named_and_the_pick_is_made_again() -> None:
    served = Served()
    served.update(map(str, ENDPOINTS))
    for endpoint in ENDPOINTS:
        served.listed(str(endpoint), frozenset({"m"} if endpoint in ENDPOINTS[:2] else {"base"}), 0.0, 1e9)
    records, _ = traffic(None, IDLE, [ASK, {**ASK, "model": "nobody's"}], served=served)
    one, other = through_json(records)
    assert {str(each.endpoint) for each in one.candidates} == {str(each) for each in ENDPOINTS[:2]}
    assert one.lacking == tuple(sorted(map(str, ENDPOINTS[2:])))
    assert one.turn is not None and not one.turn.whole
    found = explanation(one, profile_of(one.config))
    assert found["same"]
    assert found["dropped"] == [{"filter": "served-models", "endpoints": list(one.lacking)}]
    assert (other.lacking, len(other.candidates)) == ((), len(ENDPOINTS))
    assert explanation(other, profile_of(other.config))["dropped"] == []
