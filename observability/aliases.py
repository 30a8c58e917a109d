"""Our metrics under the names that dashboards, alerts and autoscalers of others ask for. Made when /metrics is asked for, from the
same snapshot: a request pays nothing for them. `--metric-aliases gke,llm-d,gen-ai`.

Names: `gke`, of the Inference Extension up to 1.5, which Google's dashboards and HPA recipes query; `llm-d`, of llm-d-router;
`gen-ai`, of OpenTelemetry's conventions as its Prometheus exporters write them. Labels that we do not have are left out, and
buckets are ours. What has no alias is not recorded here.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from observability import catalogue as c
from observability.metric import Label, Metric
from observability.registry import Distribution, Point, Reading

Merge = Literal["sum", "mean", "max"]
_Value = float | Distribution


@dataclass(frozen=True, slots=True)
class Alias:
    """`labels`: theirs -> ours, by which points that become alike are merged; `only`: of ours, those with these values;
    `fixed`: labels that always say the same; `values`: ours -> theirs, where they have another word.
    """

    name: str
    source: Metric
    labels: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    merge: Merge = "sum"

    @property
    def metric(self) -> Metric:
        """As if it were declared."""
        labels = tuple(Label(name, "") for name in (*self.labels, *self.fixed))
        told = f"Alias of {self.source.name}. {self.source.help}"
        return Metric(self.name, self.source.kind, self.source.unit, told, labels, self.source.buckets)


_MODELS = {"model_name": "model_name", "target_model_name": "target_model_name"}
_LLM_D = {**_MODELS, "priority": "priority"}
_NAME, _FLOW = {"name": "pool"}, {"priority": "priority", "inference_pool": "pool"}
_OUTCOMES = {"dispatched": "Dispatched", "refused": "RejectedOther"}
_READY, _STALE, _PICKED = {"state": "ready"}, {"state": "stale"}, {"status": "success"}
_GEN_AI = {"gen_ai_request_model": "model_name", "gen_ai_response_model": "target_model_name"}

GKE = (
    Alias("inference_objective_request_total", c.REQUESTS_TOTAL, _MODELS),
    Alias("inference_objective_request_error_total", c.REQUEST_ERRORS_TOTAL, {**_MODELS, "error_code": "code"}),
    Alias("inference_objective_request_duration_seconds", c.REQUEST_DURATION_SECONDS, _MODELS),
    Alias("inference_objective_request_sizes", c.REQUEST_SIZE_BYTES, _MODELS),
    Alias("inference_objective_response_sizes", c.RESPONSE_SIZE_BYTES, _MODELS),
    Alias("inference_objective_input_tokens", c.REQUEST_INPUT_TOKENS, _MODELS),
    Alias("inference_objective_output_tokens", c.REQUEST_OUTPUT_TOKENS, _MODELS),
    Alias("inference_objective_running_requests", c.REQUESTS_INFLIGHT, {"model_name": "model_name"}),
    Alias("inference_pool_average_kv_cache_utilization", c.POOL_KV_CACHE_UTILIZATION, _NAME, merge="mean"),
    Alias("inference_pool_average_queue_size", c.ENDPOINT_QUEUE_DEPTH, _NAME, merge="mean"),
    Alias("inference_pool_ready_pods", c.POOL_ENDPOINTS, _NAME, _READY),
    Alias("inference_pool_per_pod_queue_size", c.ENDPOINT_QUEUE_DEPTH, {**_NAME, "model_server_pod": "endpoint"}),
    Alias("inference_extension_info", c.BUILD_INFO, {"build_ref": "version"}, fixed={"commit": ""}),
    Alias("inference_extension_scheduler_e2e_duration_seconds", c.SCHEDULE_DURATION_SECONDS),
    Alias("inference_extension_scheduler_attempts_total", c.PICKS_TOTAL, {"pod_name": "endpoint"}, fixed=_PICKED),
    Alias("inference_extension_prefix_indexer_hit_ratio", c.PREFIX_MATCH_RATIO),
    Alias("inference_extension_flow_control_queue_size", c.GATEWAY_QUEUE_REQUESTS, _FLOW),
    Alias("inference_extension_flow_control_queue_bytes", c.GATEWAY_QUEUE_BYTES, _FLOW),
    Alias(
        "inference_extension_flow_control_request_queue_duration_seconds",
        c.GATEWAY_QUEUE_DURATION_SECONDS,
        {**_FLOW, "outcome": "outcome"},
        values=_OUTCOMES,
    ),
    Alias(
        "inference_extension_flow_control_pool_saturation", c.POOL_SATURATION, {"inference_pool": "pool"}, merge="max"
    ),
)
LLM_D = (
    Alias("llm_d_epp_request_total", c.REQUESTS_TOTAL, _LLM_D),
    Alias("llm_d_epp_request_error_total", c.REQUEST_ERRORS_TOTAL, {**_LLM_D, "error_code": "code"}),
    Alias("llm_d_epp_request_duration_seconds", c.REQUEST_DURATION_SECONDS, _LLM_D),
    Alias("llm_d_epp_request_ttft_seconds", c.TIME_TO_FIRST_TOKEN_SECONDS, {**_LLM_D, "streaming": "streaming"}),
    Alias("llm_d_epp_request_streaming_tpot_seconds", c.TIME_PER_OUTPUT_TOKEN_SECONDS, _LLM_D),
    Alias("llm_d_epp_request_size_bytes", c.REQUEST_SIZE_BYTES, _LLM_D),
    Alias("llm_d_epp_response_size_bytes", c.RESPONSE_SIZE_BYTES, _LLM_D),
    Alias("llm_d_epp_request_input_tokens", c.REQUEST_INPUT_TOKENS, _LLM_D),
    Alias("llm_d_epp_request_output_tokens", c.REQUEST_OUTPUT_TOKENS, _LLM_D),
    Alias("llm_d_epp_request_running", c.REQUESTS_INFLIGHT, _LLM_D),
    Alias("llm_d_epp_average_kv_cache_utilization", c.POOL_KV_CACHE_UTILIZATION, _NAME, merge="mean"),
    Alias("llm_d_epp_average_queue_size", c.ENDPOINT_QUEUE_DEPTH, _NAME, merge="mean"),
    Alias("llm_d_epp_average_running_requests", c.ENDPOINT_RUNNING_REQUESTS, _NAME, merge="mean"),
    Alias("llm_d_epp_ready_endpoints", c.POOL_ENDPOINTS, _NAME, _READY),
    Alias("llm_d_epp_per_endpoint_queue_size", c.ENDPOINT_QUEUE_DEPTH, {**_NAME, "model_server_endpoint": "endpoint"}),
    Alias("llm_d_epp_scheduler_e2e_duration_seconds", c.SCHEDULE_DURATION_SECONDS),
    Alias("llm_d_epp_scheduler_attempts_total", c.PICKS_TOTAL, {"endpoint_name": "endpoint"}, fixed=_PICKED),
    Alias("llm_d_epp_info", c.BUILD_INFO, {"build_ref": "version"}, fixed={"commit": ""}),
    Alias("llm_d_epp_datalayer_poll_errors_total", c.ENDPOINT_SCRAPE_ERRORS_TOTAL, fixed={"source_type": "metrics"}),
    Alias("llm_d_epp_prefix_indexer_hit_ratio", c.PREFIX_MATCH_RATIO),
    Alias("llm_d_epp_flow_control_queue_size", c.GATEWAY_QUEUE_REQUESTS, _FLOW),
    Alias("llm_d_epp_flow_control_queue_bytes", c.GATEWAY_QUEUE_BYTES, _FLOW),
    Alias(
        "llm_d_epp_flow_control_request_queue_duration_seconds",
        c.GATEWAY_QUEUE_DURATION_SECONDS,
        {**_FLOW, "outcome": "outcome"},
        values=_OUTCOMES,
    ),
    Alias(
        "llm_d_epp_flow_control_pool_saturation",
        c.POOL_SATURATION,
        {"inference_pool": "pool"},
        fixed={"stage": "effective"},
        merge="max",
    ),
    Alias("llm_d_epp_flow_control_stale_endpoints", c.POOL_ENDPOINTS, only=_STALE, fixed={"detector": "utilization"}),
)
GEN_AI = (
    Alias("gen_ai_server_request_duration_seconds", c.REQUEST_DURATION_SECONDS, _GEN_AI),
    Alias("gen_ai_server_time_to_first_token_seconds", c.TIME_TO_FIRST_TOKEN_SECONDS, _GEN_AI),
    Alias("gen_ai_server_time_per_output_token_seconds", c.TIME_PER_OUTPUT_TOKEN_SECONDS, _GEN_AI),
    Alias("gen_ai_client_token_usage", c.REQUEST_INPUT_TOKENS, _GEN_AI, fixed={"gen_ai_token_type": "input"}),
    Alias("gen_ai_client_token_usage", c.REQUEST_OUTPUT_TOKENS, _GEN_AI, fixed={"gen_ai_token_type": "output"}),
)
FAMILIES: Mapping[str, tuple[Alias, ...]] = MappingProxyType({"gke": GKE, "llm-d": LLM_D, "gen-ai": GEN_AI})


class Aliases:
    """The aliases of some families, for one process: `Aliases(["gke"])(registry.snapshot())`."""

    def __init__(self, families: Iterable[str] = ()) -> None:
        """Names of FAMILIES."""
        self._made = [(alias, alias.metric) for family in families for alias in FAMILIES[family]]

    def __call__(self, readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
        """The same readings, and the aliases of those that there are, sorted by name."""
        if not self._made:
            return readings
        by_name = {reading.metric.name: reading for reading in readings}
        found: dict[str, Reading] = {}
        for alias, metric in self._made:
            if (reading := by_name.get(alias.source.name)) and (points := _points(alias, reading)):
                before = found[alias.name].points if alias.name in found else ()
                found[alias.name] = Reading(metric, tuple(sorted((*before, *points), key=lambda point: point.labels)))
        return tuple(sorted((*readings, *found.values()), key=lambda reading: reading.metric.name))


def _points(alias: Alias, reading: Reading) -> list[Point]:
    ours = reading.metric.label_names
    wanted = [(ours.index(name), value) for name, value in alias.only.items()]
    kept = [(ours.index(name), _TOLD.get(theirs, str)) for theirs, name in alias.labels.items()]
    fixed = tuple(alias.fixed.values())
    groups: dict[tuple[str, ...], list[_Value]] = {}
    for point in reading.points:
        if all(point.labels[at] == value for at, value in wanted):
            told = (tell(point.labels[at]) for at, tell in kept)
            groups.setdefault((*(alias.values.get(each, each) for each in told), *fixed), []).append(point.value)
    return [Point(labels, _merged(values, alias.merge)) for labels, values in groups.items()]


# Pools have a namespace in our labels and none in theirs.
_TOLD: Mapping[str, Callable[[str], str]] = MappingProxyType(
    dict.fromkeys(("name", "inference_pool"), lambda pool: pool.rpartition("/")[2])
)


def _merged(values: list[_Value], merge: Merge) -> _Value:
    if isinstance(values[0], Distribution):
        every = [value for value in values if isinstance(value, Distribution)]
        counts = tuple(map(sum, zip(*(value.counts for value in every), strict=True)))
        return Distribution(counts, math.fsum(value.sum for value in every))
    numbers = [value for value in values if not isinstance(value, Distribution)]
    if merge == "max":
        return max(numbers)
    return sum(numbers) / (len(numbers) if merge == "mean" else 1)


def markdown() -> str:
    """The last section of docs/metrics.md."""
    lines = [
        "",
        "## Aliases",
        "",
        "`--metric-aliases NAMES` adds them to `/metrics`; buckets and meaning are those of the source.",
    ]
    for family, every in FAMILIES.items():
        lines += ["", f"### {family}", "", "| alias | source | labels |", "|---|---|---|"]
        for alias in every:
            labels = [f"`{theirs}`" for theirs in alias.labels] + [
                f'`{name}="{value}"`' for name, value in alias.fixed.items()
            ]
            source = ",".join(f'{name}="{value}"' for name, value in alias.only.items())
            merged = "" if alias.merge == "sum" else f", {alias.merge}"
            lines.append(
                f"| `{alias.name}` | `{alias.source.name}{f'{{{source}}}' if source else ''}`{merged} | {', '.join(labels)} |"
            )
    return "\n".join(lines) + "\n"
