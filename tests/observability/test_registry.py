"""The registry: what may be bound, and what a snapshot says."""

from collections import Counter as Multiset

import pytest
from hypothesis import given, settings, strategies as st

from observability import catalogue as c
from observability.registry import Capped, Distribution, Histogram, Registry, Sample, UndeclaredError


def reading(registry: Registry, metric: c.Metric) -> dict[tuple[str, ...], float | Distribution]:
    found = [item for item in registry.snapshot() if item.metric is metric]
    return {point.labels: point.value for item in found for point in item.points}


def test_a_counter_counts_per_label_set() -> None:
    registry = Registry()
    registry.counter(c.XDS_PUSHES_TOTAL).bind(type_url="cds").inc()
    registry.counter(c.XDS_PUSHES_TOTAL).bind(type_url="cds").inc(2)
    registry.counter(c.XDS_PUSHES_TOTAL).bind(type_url="eds").inc()
    assert reading(registry, c.XDS_PUSHES_TOTAL) == {("cds",): 3, ("eds",): 1}


def test_a_gauge_is_set_and_moved() -> None:
    registry = Registry()
    gauge = registry.gauge(c.XDS_CONNECTED_CLIENTS).bind()
    gauge.set(4)
    gauge.inc(-1)
    assert reading(registry, c.XDS_CONNECTED_CLIENTS) == {(): 3}


def test_a_metric_without_labels_is_there_from_the_start() -> None:
    registry = Registry()
    registry.gauge(c.XDS_CONNECTED_CLIENTS)
    assert reading(registry, c.XDS_CONNECTED_CLIENTS) == {(): 0}


@pytest.mark.parametrize("labels", [{}, {"type": "cds"}, {"type_url": "cds", "pool": "p"}, {"type_url": "Cluster"}])
def test_undeclared_labels_and_values_are_errors(labels: dict[str, str]) -> None:
    with pytest.raises(UndeclaredError):
        Registry().counter(c.XDS_PUSHES_TOTAL).bind(**labels)


def test_undeclared_metrics_and_wrong_kinds_are_errors() -> None:
    with pytest.raises(UndeclaredError):
        Registry().counter(c.Metric("penstock_unheard_of_total", "counter", "", ""))
    with pytest.raises(UndeclaredError):
        Registry().gauge(c.XDS_PUSHES_TOTAL)


@given(st.lists(st.one_of(st.sampled_from(c.TTFT_BUCKETS), st.floats(0, 500)), max_size=50))
def test_every_observation_is_in_the_bucket_whose_bound_it_does_not_pass(values: list[float]) -> None:
    registry = Registry()
    labels = {"pool": "p", "model_name": "m", "target_model_name": "m", "priority": "0", "streaming": "true"}
    series = registry.histogram(c.TIME_TO_FIRST_TOKEN_SECONDS).bind(**labels)
    for value in values:
        series.observe(value)
    (found,) = reading(registry, c.TIME_TO_FIRST_TOKEN_SECONDS).values()
    assert isinstance(found, Distribution)
    assert sum(found.counts) == len(values)
    for at, bound in enumerate(c.TTFT_BUCKETS):
        assert sum(found.counts[: at + 1]) == sum(value <= bound for value in values)


def test_collected_samples_leave_when_the_collector_stops() -> None:
    registry = Registry()
    depths = {"10.0.0.1:8000": 3.0}
    registry.collect(
        lambda: [Sample(c.ENDPOINT_QUEUE_DEPTH, {"pool": "p", "endpoint": e}, depth) for e, depth in depths.items()]
    )
    assert reading(registry, c.ENDPOINT_QUEUE_DEPTH) == {("p", "10.0.0.1:8000"): 3.0}
    depths.clear()
    assert reading(registry, c.ENDPOINT_QUEUE_DEPTH) == {}


def test_collected_samples_are_checked_too() -> None:
    registry = Registry()
    registry.collect(lambda: [Sample(c.POOL_SATURATION, {}, 1.0)])
    with pytest.raises(UndeclaredError):
        registry.snapshot()


def test_drop_forgets_the_series_of_one_value() -> None:
    registry = Registry()
    picks = registry.counter(c.PICKS_TOTAL)
    picks.bind(pool="p", endpoint="a").inc()
    picks.bind(pool="p", endpoint="b").inc()
    registry.drop("endpoint", "a")
    assert reading(registry, c.PICKS_TOTAL) == {("p", "b"): 1}


@given(st.permutations(["cds", "eds", "lds", "rds", "sds"]))
def test_equal_states_give_equal_snapshots(order: list[str]) -> None:
    first, second = Registry(), Registry()
    for registry, names in ((first, order), (second, sorted(order))):
        for name in names:
            registry.counter(c.XDS_PUSHES_TOTAL).bind(type_url=name).inc()
        registry.counter(c.PICKS_TOTAL).bind(pool="p", endpoint="e").inc()
    assert first.snapshot() == second.snapshot()


@given(st.lists(st.text(max_size=140)), st.sets(st.text(max_size=5), max_size=5), st.integers(0, 5))
def test_a_capped_label_has_at_most_pinned_plus_cap_values(names: list[str], pinned: set[str], cap: int) -> None:
    capped = Capped(pinned, cap)
    admitted = Multiset(capped.admit(name) for name in names)
    assert len(admitted) <= len(pinned) + cap + 2  # and "" and "other"
    assert all(capped.admit(name) == name for name in pinned)


def test_a_failed_request_teaches_no_name() -> None:
    capped = Capped(["llama"])
    assert capped.admit("guess", new=False) == "other"
    assert capped.admit("llama", new=False) == "llama"
    assert capped.admit("guess") == "guess"
    assert capped.admit("guess", new=False) == "guess"


def test_names_are_pinned_and_forgotten() -> None:
    capped = Capped(cap=1)
    assert [capped.admit("a"), capped.admit("b")] == ["a", "other"]
    capped.pin(["b"])
    assert capped.admit("b") == "b"
    capped.forget("a")
    assert capped.admit("c") == "c"
    assert capped.admit("line\nbreak") == "other"


@settings(deadline=None)  # a busy machine
@given(st.lists(st.floats(-10, 10)), st.lists(st.floats(-10, 10)))
def test_taking_many_is_observing_each(taken: list[float], others: list[float]) -> None:
    metric = c.Metric("penstock_x", "histogram", "", "X.", buckets=(-1.0, 0.0, 2.5, 7.0))
    one, many = Histogram(metric), Histogram(metric)
    for value in (*taken, *others):
        one.observe(value)
    kept = list(taken)
    many.take(kept)
    for value in others:
        many.observe(value)
    assert many.read().counts == one.read().counts
    assert many.read().sum == pytest.approx(one.read().sum)
    assert not kept


def test_what_is_kept_back_is_in_every_snapshot() -> None:
    registry = Registry()
    counter, kept = registry.counter(c.LABEL_OVERFLOW_TOTAL).bind(label="endpoint"), [1, 2]

    def fold() -> None:
        counter.inc(sum(kept))
        kept.clear()

    registry.settle(fold)
    for total in (3, 3):
        assert reading(registry, c.LABEL_OVERFLOW_TOTAL) == {("endpoint",): total}
