"""PromQL against the catalogue: what exists is let through, what could find nothing is named."""

import pytest

from observability.catalogue import METRICS, series_names
from observability.queries import check, check_series, series

GOOD = [
    "sum(rate(penstock_requests_total[5m]))",
    'sum by (pool) (rate(penstock_requests_total{pool=~"$pool",job="penstock"}[$__rate_interval]))',
    'sum by (pool) (rate(penstock_requests_total{${cluster},${namespace},pool="a{b"}[${__interval}]))',
    "histogram_quantile(0.9, sum by (le, pool) (rate(penstock_request_duration_seconds_bucket[5m])))",
    'penstock_request_duration_seconds_bucket{le="2.0"}',
    "(sum(rate(penstock_request_errors_total[5m])) or vector(0)) / sum(rate(penstock_requests_total[5m]))",
    "penstock_pool_saturation * on(pool) group_left(endpoint) penstock_endpoint_queue_depth or on() vector(0)",
    "sum by (cluster, pool) (penstock_pool_saturation) > 1 unless sum by (cluster, pool) (penstock_pool_queue_depth)",
    'label_replace(penstock_pool_saturation, "name", "$1", "pool", "(.*)") + ignoring(name) penstock_pool_saturation',
    'penstock_request_errors_total{class=~"server|shed"}',
    "topk(5, sum by (model_name) (penstock_requests_inflight))",
    "max_over_time((max(penstock_pool_saturation))[1h:5m])",
    'up{job="penstock"} == 0',
    '{__name__="penstock_pool_saturation"}',
    "sum(rate(penstock_tokens_total[5m])) * ($cached_price - $input_price) / 1e6",
]
BAD = {
    "penstock_unheard_of_total": "not in the catalogue",
    '{pool="a"}': "without a name",
    'penstock_requests_total{code="200"}': "no label code",
    'penstock_request_errors_total{class="ours"}': "never 'ours'",
    'penstock_request_errors_total{class=~"server|ours"}': "never 'ours'",
    'penstock_request_duration_seconds_bucket{le="2"}': "never '2'",
    "sum by (endpoint) (penstock_requests_total)": "label endpoint",
    "penstock_request_duration_seconds": "not in the catalogue",
    "sum by (le) (penstock_requests_total)": "label le",
    "rate(penstock_pool_saturation[5m])": "is for counters",
    "deriv(penstock_requests_total[5m])": "is for gauges",
    "histogram_quantile(0.9, rate(penstock_request_duration_seconds_bucket[5m]))": "sum by (le, ...)",
    "histogram_quantile(0.9, sum by (pool) (rate(penstock_request_duration_seconds_bucket[5m])))": "sum by (le, ...)",
    "sum by (pool) (rate(penstock_requests_total[5m])) / sum(rate(penstock_requests_total[5m]))": "finds no pairs",
    "penstock_pool_saturation / on(model_name) penstock_pool_queue_depth": "no label of both sides",
    "sum(penstock_pool_saturation": "unclosed",
    "penstock_pool_saturation{pool=}": "invalid promql query",
    "sum(penstock_pool_saturation) * $inputprice": "unexpected character",
}


@pytest.mark.parametrize("query", GOOD)
def test_a_query_that_can_find_something_is_good(query: str) -> None:
    assert check(query) == []


@pytest.mark.parametrize("query", BAD)
def test_a_query_that_finds_nothing_is_told_why(query: str) -> None:
    assert any(BAD[query] in problem for problem in check(query)), check(query)


def test_every_declared_series_may_be_asked_for() -> None:
    for metric in METRICS.values():
        for name in series_names(metric):
            matchers = ",".join(f'{label}!~"x.*"' for label in metric.label_names)
            assert check(f"{name}{{{matchers}}}") == []
            assert check_series(name, metric.label_names) == []


def test_recorded_series_are_known_with_their_labels() -> None:
    recorded = {"penstock:errors:rate5m": ["pool"]}
    assert check("sum by (pool) (penstock:errors:rate5m)", recorded) == []
    assert check("sum by (model_name) (penstock:errors:rate5m)", recorded)
    assert check("penstock:errors:rate5m")


def test_the_series_of_a_query() -> None:
    query = "(a / on(pool) max(rate(b_total[5m]))) or sum(max_over_time(c[1h:1m])) + -d"
    assert series(query) == {"a", "b_total", "c", "d"}


@pytest.mark.parametrize("separator", "|/")
def test_names_of_autoscaling_manifests(separator: str) -> None:
    def name(metric: str, kind: str) -> str:
        return separator.join(("prometheus.googleapis.com", metric, kind))

    assert check_series(name("penstock_pool_saturation", "gauge"), ["pool", "cluster"]) == []
    assert check_series(name("penstock_time_to_first_token_seconds", "histogram"), ["streaming"]) == []
    assert check_series(name("penstock_pool_saturation", "counter")) == [
        "penstock_pool_saturation is a gauge, not a counter"
    ]
    assert check_series(name("penstock_pool_full", "gauge")) == ["penstock_pool_full is not in the catalogue"]
    assert check_series("penstock_pool_saturation", ["name"]) == ["penstock_pool_saturation has no label name"]
