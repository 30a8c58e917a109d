"""Boards of what is served: overview, model and pool, endpoints, flow control."""

from dataclasses import replace

from observability import catalogue as c
from observability.dashboards.model import Board, Panel, Query, Row, Threshold, Unit
from observability.dashboards.objectives import AVAILABILITY, TPOT, TTFT
from observability.dashboards.promql import (
    mean,
    most,
    names,
    quantile,
    quantiles,
    rate,
    rate_or_0,
    rates,
    selected,
    share,
    total,
)

STREAMS, GOOD = 'streaming="true"', 'outcome="ok"'
SLO_TTFT, SLO_TPOT = Threshold(TTFT.below, "objective 2 s"), Threshold(TPOT.below, "objective 100 ms")
FULL = Threshold(1.0, "set point")
WAITED = "until a request has had to wait"
STREAMED = "until a stream has ended with usage"
CACHED = "until a server has told its cached tokens"
_NO_EVENTS, _BELIEVED = "where no server sends KV events", Threshold(0.5, "approximate below", below=True)
_UNKNOWN = "while the figures of the pool are not known"
ADAPTERS = "where no server has LoRA adapters"
SERVER_ERRORS = share(rate_or_0(c.REQUEST_ERRORS_TOTAL, where='class="server"'), rate(c.REQUESTS_TOTAL))
CACHED_SHARE = share(rate(c.TOKENS_TOTAL, where='type="cached_input"'), rate(c.TOKENS_TOTAL, where='type="input"'))
_TTFT, _TPOT, _DURATION = c.TIME_TO_FIRST_TOKEN_SECONDS, c.TIME_PER_OUTPUT_TOKEN_SECONDS, c.REQUEST_DURATION_SECONDS


def card(title: str, query: Query, unit: Unit, *thresholds: Threshold, empty: str = "") -> Panel:
    return Panel(title, (query,), unit, thresholds, kind="card", empty=empty, width=8, height=8)


def overview() -> Board:
    """One screen for whoever is on call: rate, errors, latency, saturation, then the causes."""
    return Board(
        *("overview", "Penstock overview"),
        rows=(_now(), _traffic(), _latency(), _errors(), _saturation(), _tokens(), _fleet()),
        logs=True,
    )


def _now() -> Row:
    goal = Threshold(AVAILABILITY.goal, "objective", below=True)
    panels = (
        card("Availability", Query(f"1 - {SERVER_ERRORS}", "availability"), "10^2.%", goal),
        card("TTFT p95 (streams)", quantile(0.95, _TTFT, where=STREAMS), "s", SLO_TTFT, empty=STREAMED),
        card("TPOT p95", quantile(0.95, _TPOT), "s", SLO_TPOT, empty=STREAMED),
        card("Saturation of the fullest pool", Query(f"max({selected(c.POOL_SATURATION)})"), "1", FULL),
        card("Requests per second", Query(rate(c.REQUESTS_TOTAL)), "1/s"),
        card("Requests in flight", total(c.REQUESTS_INFLIGHT), "1"),
    )
    return Row("Now", "Is it well?", panels)


def _traffic() -> Row:
    panels = (
        Panel("Requests by model", rates(c.REQUESTS_TOTAL, "model_name"), "1/s", kind="stacked"),
        Panel("Requests by pool", rates(c.REQUESTS_TOTAL, "pool"), "1/s", kind="stacked"),
        Panel("Requests by priority", rates(c.REQUESTS_TOTAL, "priority"), "1/s", kind="stacked"),
    )
    return Row("Traffic", "How much, for whom?", panels)


def _latency() -> Row:
    by_model, by_priority = (quantile(0.95, _TTFT, label, STREAMS) for label in ("model_name", "priority"))
    panels = (
        *_times(),
        Panel("TTFT p95 by model", (by_model,), "s", (SLO_TTFT,), empty=STREAMED),
        Panel("TTFT p95 by priority", (by_priority,), "s", (SLO_TTFT,), empty=STREAMED),
        Panel("Picking an endpoint", quantiles(c.SCHEDULE_DURATION_SECONDS), "s", log_scale=True),
    )
    return Row("Latency", "Requests that ended well; objectives as lines", panels)


def _times() -> tuple[Panel, ...]:
    ttft, tpot = quantiles(_TTFT, STREAMS), quantiles(_TPOT)
    return (
        Panel("Time to first token, streams", ttft, "s", (SLO_TTFT,), log_scale=True, empty=STREAMED),
        Panel("Time per output token", tpot, "s", (SLO_TPOT,), log_scale=True, empty=STREAMED),
        Panel("Request duration", quantiles(_DURATION, GOOD), "s", log_scale=True),
    )


def _errors() -> Row:
    panels = (
        Panel("Errors by reason", rates(c.REQUEST_ERRORS_TOTAL, "class,reason"), "1/s", kind="stacked"),
        Panel("Server errors of all requests", (Query(SERVER_ERRORS, "ratio"),), "10^2.%"),
        Panel("Streams ended early", rates(c.STREAM_ABORTS_TOTAL, "by"), "1/s", kind="stacked"),
    )
    return Row("Errors", "Whose, and why?", panels)


def _saturation() -> Row:
    panels = (
        Panel("Pool saturation", (most(c.POOL_SATURATION, "pool"),), "1", (FULL,), width=12),
        Panel("What fills the pools", (most(c.POOL_SATURATION_CAUSE, "pool,cause"),), "1", (FULL,), width=12),
        Panel("Waiting in servers", (most(c.POOL_QUEUE_DEPTH, "pool"),), "1", width=12),
        Panel("Endpoints", (most(c.POOL_ENDPOINTS, "pool,state"),), "1", width=12),
    )
    return Row("Saturation", "What fills up?", panels)


def _tokens() -> Row:
    error = quantile(0.95, c.PREFIX_PREDICTION_ERROR_TOKENS, "direction")
    panels = (
        Panel("Tokens", rates(c.TOKENS_TOTAL, "type"), "{token}/s", width=12),
        Panel("Input tokens from the cache", (Query(CACHED_SHARE, "share"),), "10^2.%", width=12),
        Panel("Prefix match, predicted", quantiles(c.PREFIX_MATCH_RATIO), "10^2.%", width=12),
        Panel("Error of the prediction, p95", (error,), "{token}", empty=CACHED, width=12),
    )
    return Row("Tokens and prefix cache", "What is computed, and what is not computed again?", panels)


def _fleet() -> Row:
    panels = (
        Panel("Envoys connected", (Query(f"sum({selected(c.XDS_CONNECTED_CLIENTS)})", "Envoys"),), "1", width=12),
        Panel("Pushes", rates(c.XDS_PUSHES_TOTAL, "type_url"), "1/s", width=12),
        Panel("Rejected by Envoy", rates(c.XDS_NACKS_TOTAL, "type_url"), "1/s", width=12),
        Panel("Event loop lag", quantiles(c.LOOP_LAG_SECONDS), "s", log_scale=True, width=12),
    )
    return Row("Envoy fleet", "Does every Envoy have what was configured?", panels)


def model_and_pool() -> Board:
    """Where the time of one model's requests goes, and how versions of it compare."""
    requests = rate(_DURATION, where=GOOD, suffix="_count")
    stages = Query(f"{rate(c.STAGE_SECONDS_TOTAL, 'stage')} / on() group_left() {requests}", "{{stage}}")
    whole = replace(mean(_DURATION, where=GOOD), over=True)
    upstream = quantiles(c.UPSTREAM_TIME_TO_FIRST_TOKEN_SECONDS)
    target, model = "target_model_name", "model_name"
    errors = share(
        f"({rate(c.REQUEST_ERRORS_TOTAL, target)} or 0 * {rate(c.REQUESTS_TOTAL, target)})",
        rate(c.REQUESTS_TOTAL, target),
    )
    # Normalised time per output token, of all tokens together: the wait counts, too.
    answers = rate(c.TOKENS_TOTAL, model, 'type="output"')
    per_token = Query(f"{rate(_DURATION, model, GOOD, '_sum')} / {answers}", names(model))
    prompts = rate(c.TOKENS_TOTAL, model, 'type="input"')
    cached = rate(c.TOKENS_TOTAL, model, 'type="cached_input"') + " / " + prompts
    time = Row(
        *("Where the time goes", "Seconds of the average request, by stage: they add up to its duration"),
        (
            Panel("Stages of a request", (stages, whole), "s", kind="stacked", width=32),
            Panel("TTFT of the servers alone, streams", upstream, "s", log_scale=True, empty=STREAMED),
            *(replace(panel, width=12) for panel in _times()),
            Panel("Duration per output token, mean", (per_token,), "s", width=12),
        ),
    )
    versions = Row(
        *("Versions", "A canary beside what it replaces: by the model that the server was asked for"),
        (
            Panel("Requests by target model", rates(c.REQUESTS_TOTAL, target), "1/s", kind="stacked"),
            Panel(
                "TTFT p95 by target model", (quantile(0.95, _TTFT, target, STREAMS),), "s", (SLO_TTFT,), empty=STREAMED
            ),
            Panel("TPOT p95 by target model", (quantile(0.95, _TPOT, target),), "s", (SLO_TPOT,), empty=STREAMED),
            Panel("Duration p95 by target model", (quantile(0.95, _DURATION, target, GOOD),), "s"),
            Panel("Errors of all requests", (Query(errors, names(target)),), "10^2.%"),
            Panel("In flight by target model", (total(c.REQUESTS_INFLIGHT, target),), "1", kind="stacked"),
        ),
    )
    content = Row(
        *("Prompts and answers", "What is asked, and how much of it is known already"),
        (
            Panel("Tokens of a prompt", quantiles(c.REQUEST_INPUT_TOKENS), "{token}", log_scale=True),
            Panel("Tokens of an answer", quantiles(c.REQUEST_OUTPUT_TOKENS), "{token}", log_scale=True),
            Panel("Request bodies", quantiles(c.REQUEST_SIZE_BYTES), "By", log_scale=True),
            Panel("Prefix match by model, predicted p50", (quantile(0.5, c.PREFIX_MATCH_RATIO, model),), "10^2.%"),
            Panel("Input tokens from the cache by model", (Query(cached, names(model)),), "10^2.%", empty=CACHED),
            Panel("LoRA adapters that run", (_adapters("active"), _adapters("waiting")), "1", empty=ADAPTERS),
        ),
    )
    return Board("model-and-pool", "Penstock model and pool", (time, versions, content))


def _adapters(state: str) -> Query:
    chosen = selected(c.ENDPOINT_LORA_ADAPTERS, f'state="{state}"')
    return Query(f"sum by (pool) (max by (pool, endpoint) ({chosen}))", f"{{{{pool}}}} {state}")


def endpoints() -> Board:
    """Every model server, to see whether one stands out."""
    at = "pool,endpoint"
    picks = rate(c.PICKS_TOTAL, at)
    fair = f"{picks} / on(pool) group_left() {rate(c.PICKS_TOTAL, 'pool')}"
    uneven = Query(f"stddev by (pool) (max by ({at}) ({selected(c.ENDPOINT_KV_CACHE_UTILIZATION)}))", "{{pool}}")
    load = Row(
        *("Load", "As scraped, and as this gateway knows it"),
        (
            Panel("KV cache in use", (most(c.ENDPOINT_KV_CACHE_UTILIZATION, at),), "10^2.%"),
            Panel("Waiting in the server", (most(c.ENDPOINT_QUEUE_DEPTH, at),), "1"),
            Panel("Running in the server", (most(c.ENDPOINT_RUNNING_REQUESTS, at),), "1"),
            Panel("Sent there and not ended", (total(c.ENDPOINT_INFLIGHT_REQUESTS, at),), "1"),
            Panel("Prompt tokens on their way, not cached", (total(c.ENDPOINT_INFLIGHT_TOKENS, at),), "{token}"),
            Panel(
                "LoRA adapters that run", (most(c.ENDPOINT_LORA_ADAPTERS, at, 'state="active"'),), "1", empty=ADAPTERS
            ),
        ),
    )
    busy = most(c.ENDPOINT_ACCELERATOR_UTILIZATION, at)
    choice = Row(
        *("Choice", "Who gets the requests?"),
        (
            Panel("Picks", (Query(picks, names(at)),), "1/s", kind="stacked", width=12),
            Panel("Share of the pool's picks", (Query(fair, names(at)),), "10^2.%", width=12),
            Panel("Unevenness of the KV caches", (uneven,), "10^2.%", width=12),
            Panel("Accelerators in use", (busy,), "10^2.%", empty="where no exporter tells it", width=12),
        ),
    )
    health = Row(
        *("Health", "Can its figures be believed, and does it answer?"),
        (
            Panel("Age of the figures", (most(c.ENDPOINT_SCRAPE_AGE_SECONDS, at),), "s", (Threshold(10.0, "stale"),)),
            Panel("Scrapes that failed", rates(c.ENDPOINT_SCRAPE_ERRORS_TOTAL, at), "1/s"),
            Panel("At rest after failures", (most(c.ENDPOINT_RESTING, at),), "1"),
        ),
    )
    return Board("endpoints", "Penstock endpoints", (load, choice, health, _caches(at)))


def _caches(at: str) -> Row:
    panels = (
        Panel("KV events", rates(c.KV_EVENTS_TOTAL, at), "1/s"),
        Panel("KV events missed", rates(c.KV_EVENT_GAPS_TOTAL, at), "1/s"),
        Panel("Belief in the events", (most(c.PREFIX_TRUST_RATIO, at),), "10^2.%", (_BELIEVED,), empty=_NO_EVENTS),
    )
    return Row("Prefix caches", "What the servers say that they hold", panels)


def flow_control() -> Board:
    """Who waits in the gateway, for how long, and who is refused."""
    waits, by = c.GATEWAY_QUEUE_DURATION_SECONDS, "priority"
    waiting = most(c.POOL_SATURATION_CAUSE, "pool", 'cause="gateway_queue"')
    came = Query(rate(waits, suffix="_count"), "came")
    ends = Query(rate(waits, "outcome", suffix="_count"), "{{outcome}}")
    growth = Query(f"sum by (pool) (deriv({selected(c.GATEWAY_QUEUE_REQUESTS)}[$window]))", "{{pool}}")
    queue = Row(
        *("Queue", "Empty where there is always room"),
        (
            Panel("Waiting by pool", (total(c.GATEWAY_QUEUE_REQUESTS, "pool"),), "1", empty=WAITED),
            Panel("Waiting by priority", (total(c.GATEWAY_QUEUE_REQUESTS, by),), "1", kind="stacked", empty=WAITED),
            Panel("Bodies that wait", (total(c.GATEWAY_QUEUE_BYTES, "pool"),), "By", empty=WAITED),
            Panel("Growth of the queue", (growth,), "1/s", empty=WAITED),
            Panel("Requests that had to wait", (came, ends), "1/s", empty=WAITED),
            Panel("The queue's part of saturation", (waiting,), "1", (FULL,)),
        ),
    )
    times = Row(
        *("Time", "Of the requests that had to wait"),
        (
            Panel("Wait", quantiles(waits, 'outcome="dispatched"'), "s", log_scale=True, empty=WAITED),
            Panel("Wait p95 by priority", (quantile(0.95, waits, by, 'outcome="dispatched"'),), "s", empty=WAITED),
            Panel("Wait p95 of the refused", (quantile(0.95, waits, by, 'outcome="refused"'),), "s", empty=WAITED),
        ),
    )
    refused = rate_or_0(c.REQUEST_ERRORS_TOTAL, where='class="shed"')
    shed = Row(
        *("Refused", "With 429 and Retry-After"),
        (
            Panel("By reason", rates(c.REQUEST_ERRORS_TOTAL, "reason", 'class="shed"'), "1/s", kind="stacked"),
            Panel("By priority", rates(c.REQUEST_ERRORS_TOTAL, by, 'class="shed"'), "1/s", kind="stacked"),
            Panel("Of all requests", (Query(share(refused, rate(c.REQUESTS_TOTAL)), "ratio"),), "10^2.%"),
        ),
    )
    full = Row(
        *("Saturation", "Why there is no room"),
        (
            Panel("Pool saturation", (most(c.POOL_SATURATION, "pool"),), "1", (FULL,)),
            Panel("What fills the pools", (most(c.POOL_SATURATION_CAUSE, "pool,cause"),), "1", (FULL,)),
            Panel("KV cache in use", (most(c.POOL_KV_CACHE_UTILIZATION, "pool"),), "10^2.%"),
            Panel("Running in the servers", (most(c.POOL_RUNNING_REQUESTS, "pool"),), "1"),
            Panel("Waiting in the servers", (most(c.POOL_QUEUE_DEPTH, "pool"),), "1"),
            Panel("Requests in flight", (total(c.REQUESTS_INFLIGHT, by),), "1", kind="stacked"),
        ),
    )
    return Board("flow-control", "Penstock flow control", (queue, times, shed, full, _autoscaling()))


def _autoscaling() -> Row:
    told = rates(c.AUTOSCALE_SERVED_TOTAL, "api,result")
    panels = (
        Panel("Pods that pools should have", (most(c.POOL_DESIRED_REPLICAS, "pool"),), "1", empty=_UNKNOWN),
        Panel("Waiting, here and in the servers", (most(c.POOL_WAITING_REQUESTS, "pool"),), "1", empty=_UNKNOWN),
        Panel("Backlog of tokens", (most(c.POOL_TOKEN_BACKLOG_SECONDS, "pool"),), "s", empty=_UNKNOWN),
        Panel("Held for the pool", (total(c.POOL_INFLIGHT_REQUESTS, "pool"),), "1", empty=_UNKNOWN),
        Panel("Answers to autoscalers", told, "1/s", kind="stacked"),
    )
    return Row("Autoscaling", "What autoscalers are told", panels)
