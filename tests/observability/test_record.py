"""Facts to series: the balance, the definitions, the bounds."""

from dataclasses import replace
from typing import get_args

from hypothesis import given, strategies as st

from observability import catalogue as c
from observability.fleet import short_type
from observability.hub import Hub
from observability.record import Recorder, load_samples, model_samples
from observability.registry import Distribution, Exemplar, Registry
from picker.facts import Decision, Outcome, Reason, Refused
from picker.load import Load
from picker.served import Served
from picker.trace import Trace
from xds_server.facts import Acked, Connected, Disconnected, Nacked, Node, Pushed
from xds_server.model.graph import Backend, Endpoint, Objective, Pool
from xds_server.model.objects import InferenceModelRewrite, Meta, ObjectRef, RewriteRule

DECISION = Decision(
    *("r1", 100.0, "ns/p", "llama", "llama-v2", "chat", 1, "tenant", True, ("10.0.0.1:8000", "10.0.0.2:8000")),
    *(2, 100, 40, 500, 0.0003),
)
OUTCOME = Outcome(
    *("r1", 100.0, "ns/p", "llama", "llama-v2", "chat", 1, "tenant", True, 200, "", "10.0.0.1:8000"),
    duration=2.1,
    ttft=0.1,
    input_tokens=100,
    cached_tokens=32,
    output_tokens=101,
    predicted_cached_tokens=40,
    request_bytes=500,
    response_bytes=4000,
)
REASONS = get_args(Reason)
OUTCOMES = st.builds(
    replace,
    st.just(OUTCOME),
    id=st.uuids().map(str),
    pool=st.sampled_from(["", "ns/p", "ns/q"]),
    model=st.text(max_size=3),
    target_model=st.text(max_size=3),
    priority=st.integers(-2, 2),
    streaming=st.booleans(),
    status=st.sampled_from([0, 200, 404, 429, 503, 7777]),
    reason=st.sampled_from(REASONS),
    duration=st.none() | st.floats(0, 100),
    ttft=st.none() | st.floats(0, 100),
    output_tokens=st.none() | st.integers(0, 10),
    cached_tokens=st.none() | st.integers(0, 100),
    predicted_cached_tokens=st.none() | st.integers(0, 100),
)


def total(registry: Registry, metric: c.Metric, **labels: str) -> float:
    """The sum of the metric over all series that have these labels; of a histogram, how many it observed."""
    found = 0.0
    for reading in registry.snapshot():
        for point in reading.points if reading.metric is metric else ():
            if labels.items() <= dict(zip(metric.label_names, point.labels, strict=True)).items():
                found += sum(point.value.counts) if isinstance(point.value, Distribution) else point.value
    return found


def observed_sum(registry: Registry, metric: c.Metric) -> float:
    (found,) = (
        point.value.sum
        for reading in registry.snapshot()
        for point in reading.points
        if reading.metric is metric and isinstance(point.value, Distribution) and sum(point.value.counts)
    )
    return found


def recorded(*facts: object, **options: object) -> Registry:
    registry, hub = Registry(), Hub()
    Recorder(registry, **options).listen(hub)
    for fact in facts:
        hub.tell(fact)
    return registry


@given(st.lists(OUTCOMES, max_size=30), st.data())
def test_requests_total_is_the_number_of_outcomes(outcomes: list[Outcome], data: st.DataObject) -> None:
    picked = data.draw(st.sets(st.sampled_from(outcomes))) if outcomes else set()
    fields = ("id", "pool", "model", "target_model", "priority", "streaming")
    decisions = [replace(DECISION, **{name: getattr(outcome, name) for name in fields}) for outcome in picked]
    registry = recorded(*decisions, *outcomes, cap=2)
    assert total(registry, c.REQUESTS_TOTAL) == len(outcomes)
    assert total(registry, c.REQUEST_ERRORS_TOTAL) == sum(bool(outcome.reason) for outcome in outcomes)
    assert total(registry, c.REQUEST_DURATION_SECONDS) == sum(outcome.duration is not None for outcome in outcomes)
    assert total(registry, c.TOKENS_TOTAL, type="output") == sum(outcome.output_tokens or 0 for outcome in outcomes)
    assert total(registry, c.REQUESTS_INFLIGHT) == 0
    assert total(registry, c.PICKS_TOTAL) == len(decisions)


def test_a_good_stream_is_measured_in_every_way() -> None:
    registry = recorded(DECISION, OUTCOME)
    base = {"pool": "ns/p", "model_name": "llama", "target_model_name": "llama-v2", "priority": "1"}
    assert total(registry, c.REQUESTS_TOTAL, **base) == 1
    assert total(registry, c.TIME_TO_FIRST_TOKEN_SECONDS, **base, streaming="true") == 1
    assert observed_sum(registry, c.TIME_PER_OUTPUT_TOKEN_SECONDS) == (2.1 - 0.1) / 100
    assert observed_sum(registry, c.PREFIX_MATCH_RATIO) == 0.4
    assert [total(registry, c.TOKENS_TOTAL, type=kind) for kind in c.TOKEN_TYPE.values] == [100, 32, 101]
    assert total(registry, c.PREFIX_PREDICTION_ERROR_TOKENS, direction="over") == 1
    assert observed_sum(registry, c.PREFIX_PREDICTION_ERROR_TOKENS) == 8
    assert total(registry, c.PICKS_TOTAL, endpoint="10.0.0.1:8000") == 1
    assert total(registry, c.SCHEDULE_DURATION_SECONDS, pool="ns/p") == 1
    assert observed_sum(registry, c.REQUEST_SIZE_BYTES) == 500
    assert observed_sum(registry, c.RESPONSE_SIZE_BYTES) == 4000


def test_names_beyond_the_cap_are_counted() -> None:
    outcomes = [replace(OUTCOME, id=str(n), model=f"m{n}") for n in range(5)]
    registry = recorded(*outcomes, cap=2)
    assert total(registry, c.LABEL_OVERFLOW_TOTAL, label="model_name") == 3
    assert total(registry, c.LABEL_OVERFLOW_TOTAL, label="endpoint") == 0


def test_adapters_and_what_fills_the_pool_are_gauges_of_it() -> None:
    loads = {
        "a:1": Load(loras=frozenset({"x", "y"}), loras_waiting=frozenset({"z"}), max_loras=4, inflight_tokens=70),
        "b:1": Load(resting=10.0),
    }
    samples = list(load_samples("ns/p", loads, 1.0, stale_after=5.0, causes={"queue": 0.5}))
    found = {(sample.metric.name, *sample.labels.values()): sample.value for sample in samples}
    assert found["penstock_endpoint_lora_adapters", "ns/p", "a:1", "active"] == 2
    assert found["penstock_endpoint_lora_adapters", "ns/p", "a:1", "waiting"] == 1
    assert found["penstock_endpoint_lora_slots", "ns/p", "a:1"] == 4
    assert ("penstock_endpoint_lora_slots", "ns/p", "b:1") not in found
    assert found["penstock_endpoint_inflight_tokens", "ns/p", "a:1"] == 70
    assert [found["penstock_endpoint_resting", "ns/p", key] for key in loads] == [0, 1]
    assert found["penstock_pool_saturation_cause", "ns/p", "queue"] == 0.5


def test_models_are_counted_where_the_server_says_them() -> None:
    served = Served()
    served.update(["a:1", "b:1"])
    served.listed("a:1", frozenset({"base", "sql"}), 0.0, 30.0)
    found = [(each.metric, dict(each.labels), each.value) for each in model_samples("ns/p", ("a:1", "b:1"), served)]
    assert found == [(c.ENDPOINT_MODELS, {"pool": "ns/p", "endpoint": "a:1"}, 2)]


def test_a_request_is_in_flight_from_its_decision_to_its_outcome() -> None:
    registry = Registry()
    recorder = Recorder(registry)
    recorder.decision(DECISION)
    assert total(registry, c.REQUESTS_INFLIGHT, model_name="llama") == 1
    recorder.outcome(OUTCOME)
    recorder.outcome(replace(OUTCOME, id="never decided"))
    assert total(registry, c.REQUESTS_INFLIGHT) == 0


def test_without_streaming_there_is_no_time_per_output_token() -> None:
    registry = recorded(replace(OUTCOME, streaming=False, ttft=2.1))
    assert total(registry, c.TIME_PER_OUTPUT_TOKEN_SECONDS) == 0
    assert total(registry, c.TIME_TO_FIRST_TOKEN_SECONDS, streaming="false") == 1


def test_one_output_token_has_no_time_between_tokens() -> None:
    assert total(recorded(replace(OUTCOME, output_tokens=1)), c.TIME_PER_OUTPUT_TOKEN_SECONDS) == 0


def test_missing_usage_is_counted_for_models_only() -> None:
    silent = replace(OUTCOME, output_tokens=None)
    registry = recorded(silent, replace(silent, model="", target_model=""), replace(silent, reason="upstream_5xx"))
    assert total(registry, c.MISSING_USAGE_TOTAL) == 1


def test_every_reason_has_a_class_and_its_own_series() -> None:
    registry = recorded(*(replace(OUTCOME, reason=reason, status=500) for reason in REASONS if reason))
    for reason in REASONS[1:]:
        assert total(registry, c.REQUEST_ERRORS_TOTAL, reason=reason, code="500") == 1
    assert total(registry, c.REQUEST_ERRORS_TOTAL, **{"class": "shed"}) == 4
    assert total(registry, c.REQUEST_ERRORS_TOTAL, **{"class": "cancelled"}) == 1
    assert set(REASONS) - {""} == set(c.REASON.values)


def test_error_latency_is_apart_and_an_error_page_is_no_first_token() -> None:
    registry = recorded(replace(OUTCOME, reason="upstream_5xx", status=500, output_tokens=None))
    assert total(registry, c.REQUEST_DURATION_SECONDS, outcome="error") == 1
    assert total(registry, c.REQUEST_DURATION_SECONDS, outcome="ok") == 0
    assert total(registry, c.TIME_TO_FIRST_TOKEN_SECONDS) == 0


def test_streams_are_aborted_by_the_server_or_by_the_client() -> None:
    registry = recorded(
        replace(OUTCOME, reason="stream_aborted"),
        replace(OUTCOME, reason="client_cancelled"),
        replace(OUTCOME, reason="client_cancelled", ttft=None),  # before the first byte: a cancel, not an abort
        replace(OUTCOME, reason="client_cancelled", streaming=False),
    )
    assert [total(registry, c.STREAM_ABORTS_TOTAL, by=by) for by in ("upstream", "client")] == [1, 1]


def test_clients_cannot_make_series_without_end() -> None:
    many = [replace(OUTCOME, id=str(n), model=f"m{n}", target_model=f"m{n}") for n in range(50)]
    registry = Registry()
    recorder = Recorder(registry, models=["m49"], cap=5)
    for outcome in many:
        recorder.outcome(outcome)
    assert total(registry, c.REQUESTS_TOTAL) == 50
    assert total(registry, c.REQUESTS_TOTAL, model_name="other", target_model_name="other") == 44
    assert total(registry, c.REQUESTS_TOTAL, model_name="m49") == 1
    assert len(recorder._requests) == 7


def test_a_model_that_was_not_found_is_other() -> None:
    registry = recorded(replace(OUTCOME, reason="model_not_found", status=404), models=["known"])
    assert total(registry, c.REQUESTS_TOTAL, model_name="other") == 1


def test_an_endpoint_that_is_gone_leaves_no_series() -> None:
    registry = Registry()
    recorder = Recorder(registry)
    recorder.decision(DECISION)
    recorder.forget("10.0.0.1:8000")
    assert total(registry, c.PICKS_TOTAL) == 0
    recorder.decision(DECISION)
    assert total(registry, c.PICKS_TOTAL, endpoint="10.0.0.1:8000") == 1


def test_endpoints_are_capped_too() -> None:
    facts = [replace(DECISION, id=str(n), endpoints=(f"10.0.0.{n}:80",)) for n in range(4)]
    assert total(recorded(*facts, endpoints=1), c.PICKS_TOTAL, endpoint="other") == 3


def test_facts_of_the_fleet_are_counted_by_type() -> None:
    node = Node(id="envoy-1")
    cluster = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    listener = "type.googleapis.com/envoy.config.listener.v3.Listener"
    pushed = Pushed(node, cluster, "v1", {"a": "1"}, ())
    acked = Acked(node, cluster, "v1", {"a": "1"}, 0.1)
    registry = recorded(pushed, pushed, acked, Nacked(node, listener, "v1", {}, "no", (), 0.1))
    assert total(registry, c.XDS_PUSHES_TOTAL, type_url="cds") == 2
    assert total(registry, c.XDS_ACKS_TOTAL, type_url="cds") == 1
    assert total(registry, c.XDS_NACKS_TOTAL, type_url="lds") == 1
    assert short_type("unheard.of") == "other"


def test_open_streams_are_counted() -> None:
    node = Node(id="envoy-1")
    registry = recorded(Connected(node, True), Connected(node, False), Disconnected(node, True))
    assert total(registry, c.XDS_CONNECTED_CLIENTS) == 1


def test_other_facts_are_ignored() -> None:
    assert total(recorded(Refused(429, "shed_priority", "full"), object()), c.REQUESTS_TOTAL) == 0


def test_loads_become_gauges_of_the_pool_and_its_endpoints() -> None:
    loads = {"a:1": Load(waiting=2, running=5, kv_usage=0.5, scraped=99.0), "b:1": Load(waiting=4, kv_usage=1.0)}
    registry = Registry()
    registry.collect(lambda: load_samples("ns/p", loads, 100.0, stale_after=5.0, saturation=1.5))
    assert total(registry, c.POOL_QUEUE_DEPTH) == 6
    assert total(registry, c.POOL_RUNNING_REQUESTS) == 5
    assert total(registry, c.POOL_KV_CACHE_UTILIZATION) == 0.75
    assert total(registry, c.POOL_ENDPOINTS, state="ready") == 1
    assert total(registry, c.POOL_ENDPOINTS, state="stale") == 1
    assert total(registry, c.POOL_SATURATION) == 1.5
    assert total(registry, c.ENDPOINT_SCRAPE_AGE_SECONDS) == 1.0
    assert total(registry, c.ENDPOINT_QUEUE_DEPTH, endpoint="b:1") == 4


def test_an_empty_pool_has_no_mean() -> None:
    samples = list(load_samples("ns/p", {}, 1.0, stale_after=5.0))
    assert c.POOL_KV_CACHE_UTILIZATION not in [sample.metric for sample in samples]
    assert [sample.value for sample in samples] == [0, 0, 0, 0, 0]


def test_every_pool_pins_its_models_and_endpoints_that_are_gone_leave() -> None:
    def pool(name: str, address: str) -> Pool:
        ref = ObjectRef("", "InferencePool", "ns", name)
        rule = RewriteRule((f"{name}-asked",), ((f"{name}-target", 1),))
        rewrite = InferenceModelRewrite(Meta(ref), ref, (rule,))
        objective = Objective("o", 1, (f"{name}-model",))
        return Pool(ref, Backend(name, ref, pool=True), (Endpoint(address, 80),), (objective,), (rewrite,))

    registry = Registry()
    recorder = Recorder(registry, cap=0)
    recorder.configured([pool("a", "10.0.0.1"), pool("b", "10.0.0.2")])
    for name in ("a", "b"):
        assert recorder.models.admit(f"{name}-model") == f"{name}-model"
        assert recorder.models.admit(f"{name}-asked") == f"{name}-asked"
        assert recorder.targets.admit(f"{name}-target") == f"{name}-target"
    recorder.decision(replace(DECISION, endpoints=("10.0.0.1:80",)))
    recorder.decision(replace(DECISION, id="r2", endpoints=("10.0.0.2:80",)))
    recorder.configured([pool("b", "10.0.0.2")])
    assert recorder.models.admit("a-model") == c.OTHER
    assert total(registry, c.PICKS_TOTAL) == total(registry, c.PICKS_TOTAL, endpoint="10.0.0.2:80") == 1


def test_waits_are_counted_once_and_are_no_part_of_scheduling() -> None:
    waited = replace(DECISION, seconds=2.25, queue=2.0)
    refused = replace(OUTCOME, id="other", reason="queue_ttl", status=429, endpoint="", queue=60.0)
    registry = recorded(waited, replace(OUTCOME, id=waited.id, queue=2.25), refused, replace(DECISION, id="quick"))
    assert total(registry, c.GATEWAY_QUEUE_DURATION_SECONDS) == 2
    assert total(registry, c.GATEWAY_QUEUE_DURATION_SECONDS, outcome="refused") == 1
    assert total(registry, c.SCHEDULE_DURATION_SECONDS) == 2


def test_the_queue_of_each_priority_is_a_gauge() -> None:
    found = list(load_samples("ns/p", {}, 0.0, stale_after=1.0, queued={0: (2, 10), 5: (0, 0)}))
    sizes = {(one.metric.name, one.labels["priority"]): one.value for one in found if "priority" in one.labels}
    assert sizes == {
        ("penstock_gateway_queue_requests", "0"): 2,
        ("penstock_gateway_queue_bytes", "0"): 10,
        ("penstock_gateway_queue_requests", "5"): 0,
        ("penstock_gateway_queue_bytes", "5"): 0,
    }


def test_a_traced_request_is_the_exemplar_of_its_buckets() -> None:
    registry = Registry()
    recorder = Recorder(registry)
    traced = Trace("a" * 32, "b" * 16, sampled=True)
    for outcome in (
        replace(OUTCOME, trace=traced),
        replace(OUTCOME, trace=traced._replace(sampled=False), ttft=0.001),
        replace(OUTCOME, trace=traced._replace(trace_id="c" * 32), reason="upstream_5xx"),
    ):
        recorder.outcome(outcome)
    found = {
        (reading.metric.name, *point.labels[4:]): [each for _, each in point.value.exemplars]
        for reading in registry.snapshot()
        for point in reading.points
        if isinstance(point.value, Distribution) and point.value.exemplars
    }
    assert found == {
        (c.REQUEST_DURATION_SECONDS.name, "ok"): [Exemplar(2.1, "a" * 32, "b" * 16, 102.1)],
        (c.REQUEST_DURATION_SECONDS.name, "error"): [Exemplar(2.1, "c" * 32, "b" * 16, 102.1)],
        (c.TIME_TO_FIRST_TOKEN_SECONDS.name, "true"): [Exemplar(0.1, "a" * 32, "b" * 16, 100.1)],  # of a served request
    }
