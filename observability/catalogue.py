"""Every metric of Penstock, once: name, kind, unit, labels, buckets, meaning. Dashboards, docs and exporters read it here.

Names follow the Prometheus naming rules (base units as suffix, `_total` for counters). Definitions of the latencies are
those of the Kubernetes project inference-perf, so that benchmarks and dashboards speak of one thing. Written out for
readers in docs/metrics.md by `python -m observability.document`.
"""

from types import MappingProxyType

from observability.metric import OTHER, Kind, Label, Metric, series_names

__all__ = ["METRICS", "OTHER", "PREFIX", "Kind", "Label", "Metric", "series_names"]

PREFIX = "penstock_"

# Buckets hold every objective that we suggest (TTFT 2 s, TPOT 0.1 s, schedule 10 ms) as a bound: a good/total ratio is exact.
E2E_BUCKETS = (
    *(0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0),
    *(120.0, 240.0, 480.0, 900.0, 1800.0, 3600.0),
)
TTFT_BUCKETS = (
    *(0.005, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 20.0),
    *(30.0, 60.0, 120.0),
)
TPOT_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0),
)
SHORT_BUCKETS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0)
SIZE_BUCKETS = tuple(float(4**power) for power in range(4, 14))  # 256 B ... 64 MiB
TOKEN_BUCKETS = (0.0, *(float(2**power) for power in range(21)))  # 0, 1 ... 1 048 576
WAIT_BUCKETS = (1e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0, 3600.0)
RATIO_BUCKETS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)

POOL = Label("pool", "InferencePool as `namespace/name`; empty where the request reached none")
MODEL = Label("model_name", "the model that the client asked for", capped=True)
TARGET = Label("target_model_name", "the model that the server was asked for, after rewrite or split", capped=True)
PRIORITY = Label("priority", "of the InferenceObjective; 0 without one")
BASE = (POOL, MODEL, TARGET, PRIORITY)
ENDPOINT = Label("endpoint", "model server as `ip:port`; a data-parallel rank behind it as `ip:port@rank`", capped=True)
OUTCOME = Label("outcome", "did it end well", ("ok", "error"))
WAITED_FOR = Label("outcome", "what the wait ended with", ("dispatched", "refused"))
STREAMING = Label("streaming", "did the client ask for a stream", ("true", "false"))
CLASS = Label("class", "whose error: availability counts `server` only", ("client", "server", "shed", "cancelled"))
REASON = Label(
    "reason",
    "why, one name per cause",
    (
        *("bad_request", "body_too_large", "model_not_found", "no_route", "no_endpoints", "shed_priority"),
        *("queue_full", "queue_ttl", "slo_unreachable", "shutting_down"),
        *("picker_unavailable", "upstream_connect", "upstream_reset", "upstream_timeout", "upstream_4xx"),
        *("upstream_5xx", "stream_aborted", "client_cancelled", "lost"),
    ),
)
CODE = Label("code", "HTTP status that the client saw; 0 where it saw none")
STAGE = Label(
    "stage",
    "`receive`: the request comes in; `queue`: it waits in the gateway; `schedule`: it is picked for; `gateway`: Envoy, the way to "
    "the picker, tries that failed; `upstream`: to the server's first body byte; `stream`: to the last byte",
    ("receive", "queue", "schedule", "gateway", "upstream", "stream"),
)
TOKEN_TYPE = Label("type", "`cached_input` is a part of `input`", ("input", "cached_input", "output"))
ABORTED_BY = Label("by", "who ended the stream early", ("client", "upstream"))
STATE = Label("state", "of the endpoint", ("ready", "stale", "draining"))
CAUSE = Label(
    "cause",
    "what fills the pool, each over its own set point",
    ("queue", "gateway_queue", "kv_cache", "inflight", "utilization"),
)
LORA_STATE = Label("state", "of the adapter in the server", ("active", "waiting"))
CLIENT_STATE = Label(
    "state",
    "of the Envoy: has all, is being told, refuses something, does not answer",
    ("synced", "pending", "rejecting", "degraded"),
)
OPERATION = Label("operation", "with the Kubernetes API", ("watch", "status", "provision", "lease"))
LEASE = Label("lease", "of the leader, as `namespace/name`")
CAPPED = Label("label", "whose cap is reached", ("model_name", "target_model_name", "endpoint"))
DIRECTION = Label("direction", "`over`: predicted at least what was cached", ("over", "under"))
XDS_TYPES = ("cds", "eds", "lds", "rds", "sds", "other")
TYPE_URL = Label("type_url", "xDS resource type, short", XDS_TYPES)
XDS_TYPE = Label("type", "xDS resource type, short", XDS_TYPES)
KIND = Label("kind", "Kubernetes kind of the object")
VERSION = Label("version", "of Penstock")
API = Label("api", "by which an autoscaler asks", ("external_metrics", "keda"))
SERVED = Label("result", "`unknown`: the figures were stale, so it got an error", ("ok", "unknown", "refused"))

_declared: list[Metric] = []


def _metric(kind: Kind, name: str, unit: str, meaning: str, *labels: Label, **more: object) -> Metric:
    metric = Metric(PREFIX + name, kind, unit, meaning, labels, **more)  # type: ignore[arg-type]
    _declared.append(metric)
    return metric


def _counter(name: str, unit: str, meaning: str, *labels: Label) -> Metric:
    return _metric("counter", name, unit, meaning, *labels)


def _gauge(name: str, unit: str, meaning: str, *labels: Label) -> Metric:
    return _metric("gauge", name, unit, meaning, *labels)


def _histogram(name: str, unit: str, meaning: str, buckets: tuple[float, ...], *labels: Label) -> Metric:
    return _metric("histogram", name, unit, meaning, *labels, buckets=buckets)


REQUESTS_TOTAL = _counter("requests_total", "requests", "Requests that ended, however they ended.", *BASE)
REQUEST_ERRORS_TOTAL = _counter(
    "request_errors_total",
    "requests",
    "Requests that did not end well. Absent until the first error: query with `or vector(0)`.",
    *(*BASE, CLASS, REASON, CODE),
)
REQUEST_DURATION_SECONDS = _histogram(
    *("request_duration_seconds", "seconds", "Request received to last byte to the client.", E2E_BUCKETS),
    *(*BASE, OUTCOME),
)
TIME_TO_FIRST_TOKEN_SECONDS = _histogram(
    "time_to_first_token_seconds",
    "seconds",
    "Request received to first body byte of the server (streaming: the first event). Only responses of a model.",
    *(TTFT_BUCKETS, *BASE, STREAMING),
)
TIME_PER_OUTPUT_TOKEN_SECONDS = _histogram(
    "time_per_output_token_seconds",
    "seconds",
    "(duration - time to first token) / (output tokens - 1), for streams that ended well with usage.",
    *(TPOT_BUCKETS, *BASE),
)
UPSTREAM_TIME_TO_FIRST_TOKEN_SECONDS = _histogram(
    *(
        "upstream_time_to_first_token_seconds",
        "seconds",
        "First byte to the server to its first body byte, of streams.",
    ),
    TTFT_BUCKETS,
    *BASE,
)
STAGE_SECONDS_TOTAL = _counter(
    "stage_seconds_total",
    "seconds",
    "Where the time of the requests that ended well went: over all stages it is that of `request_duration_seconds`.",
    *(*BASE, STAGE),
)
TOKENS_TOTAL = _counter("tokens_total", "tokens", "Tokens as the servers reported them in `usage`.", *BASE, TOKEN_TYPE)
REQUEST_INPUT_TOKENS = _histogram(
    *("request_input_tokens", "tokens", "Tokens of a prompt, as the server reported them.", TOKEN_BUCKETS, *BASE)
)
REQUEST_OUTPUT_TOKENS = _histogram(
    *("request_output_tokens", "tokens", "Tokens of an answer, as the server reported them.", TOKEN_BUCKETS, *BASE)
)
REQUESTS_INFLIGHT = _gauge("requests_inflight", "requests", "Requests picked whose outcome is not known yet.", *BASE)
REQUEST_SIZE_BYTES = _histogram("request_size_bytes", "bytes", "Request bodies.", SIZE_BUCKETS, *BASE)
RESPONSE_SIZE_BYTES = _histogram("response_size_bytes", "bytes", "Response bodies.", SIZE_BUCKETS, *BASE)
STREAM_ABORTS_TOTAL = _counter(
    *("stream_aborts_total", "requests", "Streams that ended early, after the first byte: never retried."),
    *(*BASE, ABORTED_BY),
)
MISSING_USAGE_TOTAL = _counter(
    *("missing_usage_total", "requests", "Requests that ended well without `usage`: their tokens are not counted."),
    *BASE,
)

POOL_SATURATION = _gauge("pool_saturation", "ratio", "Load over the set point; 1.0 is full, not clamped.", POOL)
POOL_SATURATION_CAUSE = _gauge(
    *(
        "pool_saturation_cause",
        "ratio",
        "Mean over the servers of one load over its set point; the largest is the cause.",
    ),
    *(POOL, CAUSE),
)
POOL_ENDPOINTS = _gauge("pool_endpoints", "", "Endpoints of the pool by state.", POOL, STATE)
POOL_QUEUE_DEPTH = _gauge("pool_queue_depth", "requests", "Requests waiting in the pool's servers, sum.", POOL)
GATEWAY_QUEUE_REQUESTS = _gauge(
    *("gateway_queue_requests", "requests", "Requests that wait in the gateway until a server has room."),
    *(POOL, PRIORITY),
)
GATEWAY_QUEUE_BYTES = _gauge("gateway_queue_bytes", "bytes", "Bodies of the requests that wait.", POOL, PRIORITY)
GATEWAY_QUEUE_DURATION_SECONDS = _histogram(
    *("gateway_queue_duration_seconds", "seconds", "Time in the gateway's queue, of the requests that had to wait."),
    WAIT_BUCKETS,
    *(POOL, PRIORITY, WAITED_FOR),
)
POOL_RUNNING_REQUESTS = _gauge("pool_running_requests", "requests", "Requests running in the servers, sum.", POOL)
POOL_KV_CACHE_UTILIZATION = _gauge("pool_kv_cache_utilization", "ratio", "KV cache in use, mean of the servers.", POOL)
ENDPOINT_QUEUE_DEPTH = _gauge("endpoint_queue_depth", "requests", "Requests waiting in the server.", POOL, ENDPOINT)
ENDPOINT_RUNNING_REQUESTS = _gauge(
    "endpoint_running_requests", "requests", "Requests running in the server.", POOL, ENDPOINT
)
ENDPOINT_KV_CACHE_UTILIZATION = _gauge(
    "endpoint_kv_cache_utilization", "ratio", "KV cache in use, of 1.", POOL, ENDPOINT
)
ENDPOINT_INFLIGHT_REQUESTS = _gauge(
    "endpoint_inflight_requests",
    "requests",
    "Requests that this gateway has sent there and that have not ended.",
    POOL,
    ENDPOINT,
)
ENDPOINT_INFLIGHT_TOKENS = _gauge(
    "endpoint_inflight_tokens",
    "tokens",
    "Prompt tokens of those requests, less the predicted cached ones.",
    POOL,
    ENDPOINT,
)
ENDPOINT_RESTING = _gauge(
    "endpoint_resting", "", "1 while the server gets nothing since requests failed there.", POOL, ENDPOINT
)
ENDPOINT_LORA_ADAPTERS = _gauge(
    *("endpoint_lora_adapters", "", "LoRA adapters that the server runs, or that wait there; absent without adapters."),
    *(POOL, ENDPOINT, LORA_STATE),
)
ENDPOINT_LORA_SLOTS = _gauge(
    "endpoint_lora_slots", "", "LoRA adapters that the server can run at once.", POOL, ENDPOINT
)
ENDPOINT_MODELS = _gauge(
    "endpoint_models", "", "Models that the server lists, adapters too; absent while it does not say.", POOL, ENDPOINT
)
ENDPOINT_SCRAPE_AGE_SECONDS = _gauge(
    "endpoint_scrape_age_seconds",
    "seconds",
    "Age of the server's last good scrape; absent before the first.",
    POOL,
    ENDPOINT,
)
ENDPOINT_SCRAPE_ERRORS_TOTAL = _counter("endpoint_scrape_errors_total", "", "Scrapes that failed.", POOL, ENDPOINT)

# What autoscalers are told, also by the external metrics API and to KEDA. Absent while it is not known: never zero for unknown.
POOL_WAITING_REQUESTS = _gauge(
    "pool_waiting_requests", "requests", "Requests that wait for the pool: in this gateway, and in the servers.", POOL
)
POOL_INFLIGHT_REQUESTS = _gauge(
    *("pool_inflight_requests", "requests", "Requests that this gateway holds for the pool: waiting here, or sent."),
    POOL,
)
POOL_TOKEN_BACKLOG_SECONDS = _gauge(
    "pool_token_backlog_seconds",
    "seconds",
    "What waits over the learned speed of the pool: until the first token of a request that comes now, its own prefill apart.",
    POOL,
)
POOL_DESIRED_REPLICAS = _gauge(
    "pool_desired_replicas", "", "Pods that the pool should have: the most that any of its signals asks for.", POOL
)
AUTOSCALE_SERVED_TOTAL = _counter(
    "autoscale_served_total", "", "Times that an autoscaler asked for a figure, and whether it got one.", API, SERVED
)
ENDPOINT_ACCELERATOR_UTILIZATION = _gauge(
    "endpoint_accelerator_utilization",
    "ratio",
    "How busy the endpoint's accelerators are, mean; absent where nothing tells it.",
    *(POOL, ENDPOINT),
)

PICKS_TOTAL = _counter("picks_total", "requests", "Times that the endpoint was the first choice.", POOL, ENDPOINT)
SCHEDULE_DURATION_SECONDS = _histogram(
    *("schedule_duration_seconds", "seconds", "Last request byte to the picker's answer, less the wait for a place."),
    *(SHORT_BUCKETS, POOL),
)
PREFIX_MATCH_RATIO = _histogram(
    *("prefix_match_ratio", "ratio", "Predicted cached tokens of the first choice over prompt tokens."),
    *(RATIO_BUCKETS, POOL, MODEL),
)
PREFIX_PREDICTION_ERROR_TOKENS = _histogram(
    "prefix_prediction_error_tokens",
    "tokens",
    "Distance of the predicted cached tokens from those that the server reported.",
    *(TOKEN_BUCKETS, POOL, DIRECTION),
)
PREFIX_TRUST_RATIO = _gauge(
    "prefix_trust_ratio",
    "ratio",
    "How far the server's KV events are believed: 0.5 and above is precise, below prefixes are approximated.",
    *(POOL, ENDPOINT),
)
KV_EVENTS_TOTAL = _counter("kv_events_total", "", "KV events that came from the server.", POOL, ENDPOINT)
KV_EVENT_GAPS_TOTAL = _counter(
    "kv_event_gaps_total", "", "Times that KV events were missed, or could not be read.", POOL, ENDPOINT
)

XDS_CONNECTED_CLIENTS = _gauge("xds_connected_clients", "", "Envoys with an open ADS stream.")
XDS_CLIENTS = _gauge("xds_clients", "", "Envoys by what they have of the present configuration.", CLIENT_STATE)
XDS_ACK_DURATION_SECONDS = _histogram(
    "xds_ack_duration_seconds", "seconds", "A response sent to its ACK.", WAIT_BUCKETS, TYPE_URL
)
XDS_OVERDUE_TOTAL = _counter(
    "xds_overdue_total", "", "Discovery responses that an Envoy did not answer in time.", TYPE_URL
)
XDS_PUSHES_TOTAL = _counter("xds_pushes_total", "", "Discovery responses sent.", TYPE_URL)
XDS_ACKS_TOTAL = _counter("xds_acks_total", "", "Discovery responses that an Envoy accepted.", TYPE_URL)
XDS_NACKS_TOTAL = _counter("xds_nacks_total", "", "Discovery responses that an Envoy rejected.", TYPE_URL)
XDS_RESOURCES = _gauge("xds_resources", "", "Resources in the present snapshot.", XDS_TYPE)
TRANSLATE_DURATION_SECONDS = _histogram(
    "translate_duration_seconds", "seconds", "Cluster state to snapshot.", (*SHORT_BUCKETS[6:], 2.5, 5.0, 10.0)
)
RECONCILE_FAILURES_TOTAL = _counter(
    "reconcile_failures_total", "", "Mistakes of ours: a state could not be translated, the last one stays in effect."
)
KUBERNETES_FAILURES_TOTAL = _counter(
    "kubernetes_failures_total", "", "Calls of the Kubernetes API that failed; each is tried again.", OPERATION
)
LEADER = _gauge(
    "leader", "", "1 in the replica that writes statuses, 0 in the others; absent outside a cluster.", LEASE
)
OBJECTS_INVALID = _gauge("objects_invalid", "", "Objects that carry a user's mistake now.", KIND)
LOG_RECORDS_DROPPED_TOTAL = _counter(
    "log_records_dropped_total", "", "Request log records dropped: the buffer was full."
)
DECISION_RECORDS_DROPPED_TOTAL = _counter(
    "decision_records_dropped_total", "", "Decision records that the log did not take: the buffer was full."
)
BUILD_INFO = _gauge("build_info", "", "Always 1; the label says what runs.", VERSION)
LABEL_OVERFLOW_TOTAL = _counter(
    "label_overflow_total",
    "",
    "Times that a new series was named `other`, since clients had used up the names.",
    CAPPED,
)
PROCESS_CPU_SECONDS_TOTAL = _counter("process_cpu_seconds_total", "seconds", "CPU of the gateway's process.")
PROCESS_RESIDENT_MEMORY_BYTES = _gauge("process_resident_memory_bytes", "bytes", "Memory of the gateway's process.")
PROCESS_OPEN_FDS = _gauge("process_open_fds", "", "Open files and sockets of the gateway's process.")
LOOP_LAG_SECONDS = _histogram("loop_lag_seconds", "seconds", "How late the event loop wakes a sleeper.", SHORT_BUCKETS)

# The doors that write by themselves: observability/exporters.
DOOR = Label("door", "by which telemetry leaves", ("cloud_monitoring", "otlp"))
SIGNAL = Label("signal", "what leaves: series of metrics, or spans of traces", ("metrics", "traces"))
NOT_EXPORTED = Label(
    "reason",
    "`invalid`: the other side took the rest; `limits`, `dropped`: never sent, for its limits or ours",
    ("invalid", "unavailable", "denied", "limits", "dropped", "other"),
)
EXPORTED_TOTAL = _counter("exported_total", "", "Series and spans that a door has written.", DOOR, SIGNAL)
EXPORT_ERRORS_TOTAL = _counter(
    *("export_errors_total", "", "Series and spans that were not written."), *(DOOR, SIGNAL, NOT_EXPORTED)
)
EXPORT_DURATION_SECONDS = _histogram(
    *("export_duration_seconds", "seconds", "Writing once, from the snapshot to the last answer.", WAIT_BUCKETS),
    *(DOOR, SIGNAL),
)

METRICS = MappingProxyType({metric.name: metric for metric in _declared})
