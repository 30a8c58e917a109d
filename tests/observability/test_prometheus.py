"""The exposition, parsed back by the parsers of prometheus_client."""

import pytest
from hypothesis import given, strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from observability import catalogue as c
from observability.exporters.prometheus import OPENMETRICS, TEXT, negotiate, openmetrics, render, text
from observability.registry import Registry

# "\r" and other line ends within a label are legal, but the text parser of prometheus_client splits there.
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from('\\"\n,{}='), max_size=20)


def filled(pool: str = "ns/p") -> Registry:
    registry = Registry()
    base = {"pool": pool, "model_name": "m", "target_model_name": "m-1", "priority": "-1"}
    registry.counter(c.REQUESTS_TOTAL).bind(**base).inc(3)
    for seconds in (0.05, 0.051, 7200.0):
        registry.histogram(c.REQUEST_DURATION_SECONDS).bind(**base, outcome="ok").observe(seconds)
    registry.gauge(c.POOL_SATURATION).bind(pool=pool).set(1.25)
    registry.histogram(c.LOOP_LAG_SECONDS).bind().observe(0.003)
    registry.gauge(c.BUILD_INFO).bind(version="0.1").set(1)
    return registry


def samples(families: object) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@given(VALUES)
def test_both_formats_parse_to_the_same_samples(pool: str) -> None:
    snapshot = filled(pool).snapshot()
    plain = samples(parse_text(text(snapshot).decode()))
    assert plain == samples(parse_openmetrics(openmetrics(snapshot).decode()))
    assert plain["penstock_pool_saturation", frozenset({("pool", pool)})] == 1.25


def test_buckets_are_cumulative_and_end_in_inf() -> None:
    base = {"pool": "ns/p", "model_name": "m", "target_model_name": "m-1", "priority": "-1", "outcome": "ok"}
    found = samples(parse_text(text(filled().snapshot()).decode()))
    name = c.REQUEST_DURATION_SECONDS.name

    def bucket(le: str) -> float:
        return found[name + "_bucket", frozenset({*base.items(), ("le", le)})]

    assert [bucket("0.05"), bucket("0.1"), bucket("3600.0"), bucket("+Inf")] == [1, 2, 2, 3]
    assert found[name + "_count", frozenset(base.items())] == 3


def test_equal_states_give_equal_bytes() -> None:
    assert text(filled().snapshot()) == text(filled().snapshot())
    assert openmetrics(filled().snapshot()) == openmetrics(filled().snapshot())


def test_types_and_units_are_said() -> None:
    families = {family.name: family for family in parse_openmetrics(openmetrics(filled().snapshot()).decode())}
    assert families["penstock_requests"].type == "counter"
    assert families["penstock_requests"].unit == "requests"
    assert families["penstock_request_duration_seconds"].unit == "seconds"


def test_nothing_recorded_is_a_valid_page() -> None:
    assert text(()) == b""
    assert openmetrics(()) == b"# EOF\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=x", TEXT),
    ],
)
def test_the_format_is_the_one_that_the_scraper_prefers(accept: str, expected: str) -> None:
    assert negotiate(accept) == expected
    assert render((), expected) == (b"# EOF\n" if expected == OPENMETRICS else b"")


def test_openmetrics_has_the_trace_of_the_last_request_of_a_bucket_and_text_has_none() -> None:
    registry = filled()
    base = {"pool": "ns/p", "model_name": "m", "target_model_name": "m-1", "priority": "-1"}
    histogram = registry.histogram(c.REQUEST_DURATION_SECONDS).bind(**base, outcome="ok")
    histogram.exemplify(0.07, "e" * 32, "f" * 16, 1_700_000_000.0)
    histogram.exemplify(0.051, "a" * 32, "b" * 16, 1_700_000_000.25)
    histogram.exemplify(7200.0, "c" * 32, "d" * 16, 1_700_000_001.5)
    snapshot = registry.snapshot()
    found = {
        sample.labels["le"]: sample.exemplar
        for family in parse_openmetrics(openmetrics(snapshot).decode())
        for sample in family.samples
        if sample.exemplar
    }
    assert set(found) == {"0.1", "+Inf"}
    assert found["0.1"].labels == {"trace_id": "a" * 32, "span_id": "b" * 16}
    assert (found["0.1"].value, float(found["0.1"].timestamp)) == (0.051, 1_700_000_000.25)
    assert found["+Inf"].value == 7200.0
    assert b"trace_id" not in text(snapshot)
    assert samples(parse_text(text(snapshot).decode())) == samples(parse_openmetrics(openmetrics(snapshot).decode()))
