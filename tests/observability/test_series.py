"""What is kept until there are many: every snapshot has all of it, whenever it was folded; stages add up to durations."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings, strategies as st

from observability import catalogue as c, record
from observability.hub import Hub
from observability.registry import Distribution, Reading, Registry
from observability.series import SERVED
from picker.facts import Decision, Outcome
from tests.observability.test_record import DECISION, OUTCOME, REASONS, observed_sum, recorded, total

SECONDS, SIZES = st.floats(0, 100), st.integers(0, 9000)
OUTCOMES = st.builds(
    replace,
    st.just(OUTCOME),
    model=st.sampled_from(["", "llama"]),
    priority=st.integers(0, 1),
    streaming=st.booleans(),
    reason=st.just("") | st.sampled_from(REASONS),
    duration=st.none() | SECONDS,
    ttft=st.none() | SECONDS,
    queue=st.none() | SECONDS,
    schedule=SECONDS,
    received=st.none() | SECONDS,
    sent=st.none() | SECONDS,
    input_tokens=st.none() | SIZES,
    cached_tokens=st.none() | SIZES,
    output_tokens=st.none() | SIZES,
    predicted_cached_tokens=st.none() | SIZES,
    request_bytes=SIZES,
    response_bytes=SIZES,
)


def asked(outcome: Outcome, *, matched: int) -> Decision:
    fields = ("id", "model", "priority", "streaming")
    return replace(DECISION, matched_tokens=matched, **{name: getattr(outcome, name) for name in fields})


@st.composite
def facts(draw: st.DrawFn) -> list[Decision | Outcome]:
    """Of requests that overlap: some have no decision, some have not ended."""
    found: list[tuple[float, Decision | Outcome]] = []
    for number, outcome in enumerate(draw(st.lists(OUTCOMES, max_size=12))):
        named = replace(outcome, id=str(number))
        came, ended = sorted((draw(SECONDS), draw(SECONDS)))
        which = draw(st.sampled_from(["both", "both", "decision", "outcome"]))
        if which != "outcome":
            found.append((came, asked(named, matched=draw(st.integers(0, 100)))))
        if which != "decision":
            found.append((ended, named))
    return [fact for _, fact in sorted(found, key=lambda each: each[0])]


def known(*values: float | None) -> list[float]:
    return [value for value in values if value is not None]


def first(fact: Outcome) -> list[float]:
    return known(fact.ttft) if not fact.reason or fact.reason in SERVED else []


def upstream(fact: Outcome) -> list[float]:
    told = fact.sent is not None and fact.ttft is not None and fact.duration is not None and fact.sent < fact.ttft
    return [fact.ttft - fact.sent] if told and fact.streaming and not fact.reason else []  # type: ignore[operator]


def between(fact: Outcome) -> list[float]:
    if fact.reason or not fact.streaming or (fact.output_tokens or 0) < 2 or None in (fact.duration, fact.ttft):
        return []
    seconds = (fact.duration - fact.ttft) / (fact.output_tokens - 1)  # type: ignore[operator]
    return [seconds] if seconds >= 0.0 else []


def wrong(fact: Outcome) -> list[float]:
    told = None not in (fact.output_tokens, fact.cached_tokens, fact.predicted_cached_tokens)
    return [abs(fact.predicted_cached_tokens - fact.cached_tokens)] if told else []  # type: ignore[operator]


# What a request adds to, by definition: histograms observe these values, counters grow by their sum.
ENDED: dict[c.Metric, Callable[[Outcome], list[float]]] = {
    c.REQUESTS_TOTAL: lambda _: [1],
    c.REQUEST_ERRORS_TOTAL: lambda fact: [bool(fact.reason)],
    c.MISSING_USAGE_TOTAL: lambda fact: [not fact.reason and fact.output_tokens is None and fact.model != ""],
    c.REQUEST_DURATION_SECONDS: lambda fact: known(fact.duration),
    c.TIME_TO_FIRST_TOKEN_SECONDS: first,
    c.UPSTREAM_TIME_TO_FIRST_TOKEN_SECONDS: upstream,
    c.TIME_PER_OUTPUT_TOKEN_SECONDS: between,
    c.REQUEST_SIZE_BYTES: lambda fact: [fact.request_bytes] if fact.request_bytes else [],
    c.RESPONSE_SIZE_BYTES: lambda fact: [fact.response_bytes] if fact.response_bytes else [],
    c.REQUEST_OUTPUT_TOKENS: lambda fact: known(fact.output_tokens),
    c.REQUEST_INPUT_TOKENS: lambda fact: [fact.input_tokens] if fact.input_tokens and known(fact.output_tokens) else [],
    c.PREFIX_PREDICTION_ERROR_TOKENS: wrong,
}
ASKED: dict[c.Metric, Callable[[Decision], list[float]]] = {
    c.PICKS_TOTAL: lambda _: [1],
    c.SCHEDULE_DURATION_SECONDS: lambda fact: [fact.seconds],
    c.PREFIX_MATCH_RATIO: lambda fact: [fact.matched_tokens / fact.prompt_tokens],
}


def told(readings: Iterable[Reading], metric: c.Metric, **labels: str) -> tuple[float, float]:
    """(how many observations, their sum) of a metric, over all series that have these labels."""
    count, found = 0, 0.0
    for point in next((each.points for each in readings if each.metric is metric), ()):
        if labels.items() <= dict(zip(metric.label_names, point.labels, strict=True)).items():
            whole = isinstance(point.value, Distribution)
            count += sum(point.value.counts) if whole else 0
            found += point.value.sum if whole else point.value
    return count, found


def check(readings: tuple[Reading, ...], before: list[Decision | Outcome]) -> None:
    """All that these facts tell is in the snapshot."""
    decisions = [fact for fact in before if isinstance(fact, Decision)]
    outcomes = [fact for fact in before if isinstance(fact, Outcome)]
    for table, listed in ((ENDED, outcomes), (ASKED, decisions)):
        for metric, values_of in table.items():
            values = [value for fact in listed for value in values_of(fact)]  # type: ignore[operator]
            count = len(values) if metric.kind == "histogram" else 0
            assert told(readings, metric) == (count, pytest.approx(sum(values))), metric.name
    used = [fact for fact in outcomes if fact.output_tokens is not None]
    tokens = {
        "input": sum(fact.input_tokens or 0 for fact in used),
        "cached_input": sum(fact.cached_tokens or 0 for fact in used),
        "output": sum(fact.output_tokens or 0 for fact in used),
    }
    assert {kind: told(readings, c.TOKENS_TOTAL, type=kind)[1] for kind in tokens} == tokens
    timed = [fact for fact in outcomes if not fact.reason and None not in (fact.sent, fact.ttft, fact.duration)]
    stages = told(readings, c.STAGE_SECONDS_TOTAL)[1]
    assert stages == pytest.approx(sum(known(*(fact.duration for fact in timed))))
    ended = {fact.id for fact in outcomes}
    opened = Counter((fact.model, fact.priority) for fact in decisions if fact.id not in ended)
    assert told(readings, c.REQUESTS_INFLIGHT)[1] == sum(opened.values())
    for (model, priority), count in opened.items():
        assert told(readings, c.REQUESTS_INFLIGHT, model_name=model, priority=str(priority))[1] == count


@settings(deadline=None)  # a busy machine
@given(facts(), st.sets(st.integers(0, 24)), st.integers(1, 4))
def test_every_snapshot_has_all_that_was_told(happened: list[Decision | Outcome], read: set[int], fold: int) -> None:
    registry, hub = Registry(), Hub()
    record.Recorder(registry).listen(hub)
    with patch.object(record, "FOLD", fold):
        for at, fact in enumerate(happened):
            if at in read:
                check(registry.snapshot(), happened[:at])
            hub.tell(fact)
    check(registry.snapshot(), happened)


def test_what_waits_is_bounded() -> None:
    recorder = record.Recorder(Registry())
    for number in range(3 * record.FOLD):
        recorder.decision(replace(DECISION, id=str(number)))
        recorder.outcome(replace(OUTCOME, id=str(number), queue=0.0, received=0.0, sent=0.05))
    (series,) = recorder._requests.values()
    waiting = [len(getattr(series, name)) for name in series.__slots__ if isinstance(getattr(series, name), list)]
    assert 0 < max(waiting) <= record.FOLD


STAGES = ("receive", "queue", "schedule", "gateway", "upstream", "stream")


def test_the_stages_of_a_request() -> None:
    times = {"queue": 0.03, "schedule": 0.01, "received": 0.005, "sent": 0.04}
    registry = recorded(replace(OUTCOME, **times))
    stages = [total(registry, c.STAGE_SECONDS_TOTAL, stage=stage) for stage in STAGES]
    assert stages == pytest.approx([0.005, 0.02, 0.01, 0.005, 0.06, 2.0])
    assert observed_sum(registry, c.UPSTREAM_TIME_TO_FIRST_TOKEN_SECONDS) == pytest.approx(0.06)


SECONDS = st.floats(0, 100)


@settings(deadline=None)  # a busy machine
@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS, SECONDS, SECONDS), max_size=5))
def test_stages_are_positive_and_add_up_to_the_durations(requests: list[tuple[float, ...]]) -> None:
    outcomes = [
        replace(OUTCOME, queue=queue, schedule=schedule, received=received, sent=sent, ttft=ttft, duration=ttft + more)
        for queue, schedule, received, sent, ttft, more in requests
    ]
    registry = recorded(*outcomes)
    stages = [total(registry, c.STAGE_SECONDS_TOTAL, stage=stage) for stage in STAGES]
    assert min(stages) >= -1e-9
    assert sum(stages) == pytest.approx(sum(outcome.duration or 0.0 for outcome in outcomes))
