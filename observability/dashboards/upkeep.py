"""Boards of what keeps it going: control plane, cost and tokens, safety, objectives."""

from dataclasses import replace

from observability import catalogue as c
from observability.dashboards.model import Board, Panel, Query, Row, Threshold, Unit
from observability.dashboards.objectives import AVAILABILITY, OBJECTIVES, Objective
from observability.dashboards.promql import (
    cost,
    mean,
    most,
    names,
    quantiles,
    rate,
    rate_or_0,
    rates,
    saved,
    selected,
    share,
    total,
)
from observability.dashboards.traffic import CACHED, CACHED_SHARE, STREAMED, card

_CLUSTER = "outside a cluster"
_NO_DOOR = "where no door is open"
_UNCHANGED = "while nothing changes"


def control_plane() -> Board:
    """From an object that changes to an Envoy that has it; and the gateway's own process."""
    lag, slow = Threshold(0.1, "late"), Threshold(5.0, "slow")
    fleet = Row(
        *("Fleet", "Does every Envoy have what was configured?"),
        (
            Panel("Envoys by state", (total(c.XDS_CLIENTS, "state"),), "1", kind="stacked"),
            Panel("Pushes", rates(c.XDS_PUSHES_TOTAL, "type_url"), "1/s", kind="stacked"),
            Panel(
                "A push to its ACK",
                quantiles(c.XDS_ACK_DURATION_SECONDS),
                "s",
                (slow,),
                log_scale=True,
                empty=_UNCHANGED,
            ),
            Panel("Accepted", rates(c.XDS_ACKS_TOTAL, "type_url"), "1/s", kind="stacked"),
            Panel("Rejected", rates(c.XDS_NACKS_TOTAL, "type_url"), "1/s", kind="stacked"),
            Panel("Not answered in time", rates(c.XDS_OVERDUE_TOTAL, "type_url"), "1/s", kind="stacked"),
        ),
    )
    config = Row(
        *("Configuration", "What there is, and what is wrong with it"),
        (
            Panel("Resources", (most(c.XDS_RESOURCES, "type"),), "1"),
            Panel("Objects with a mistake", (most(c.OBJECTS_INVALID, "kind"),), "1", empty="while no object has one"),
            Panel(
                "Objects to configuration",
                quantiles(c.TRANSLATE_DURATION_SECONDS),
                "s",
                log_scale=True,
                empty=_UNCHANGED,
            ),
            Panel("Mistakes of ours", rates(c.RECONCILE_FAILURES_TOTAL, ""), "1/s"),
            Panel("Kubernetes API calls that failed", rates(c.KUBERNETES_FAILURES_TOTAL, "operation"), "1/s"),
            Panel("Replicas that lead", (total(c.LEADER, "lease"),), "1", empty=_CLUSTER),
        ),
    )
    process = Row(
        *("Process", "One event loop serves all decisions"),
        (
            Panel("Event loop lag", quantiles(c.LOOP_LAG_SECONDS), "s", (lag,), log_scale=True),
            Panel("CPU, of one core", (Query(rate(c.PROCESS_CPU_SECONDS_TOTAL), "cores"),), "1"),
            Panel("Memory", (Query(f"max({selected(c.PROCESS_RESIDENT_MEMORY_BYTES)})", "largest replica"),), "By"),
            Panel("Open files and sockets", (Query(f"max({selected(c.PROCESS_OPEN_FDS)})", "largest replica"),), "1"),
            Panel("Log records dropped", _dropped(), "1/s"),
            Panel("Versions that run", (total(c.BUILD_INFO, "version"),), "1"),
        ),
    )
    doors = Row(
        *("Telemetry that leaves", "By the doors that write by themselves"),
        (
            Panel("Written", rates(c.EXPORTED_TOTAL, "door,signal"), "1/s", kind="stacked"),
            Panel("Not written", rates(c.EXPORT_ERRORS_TOTAL, "door,signal,reason"), "1/s", kind="stacked"),
            Panel("Time to write", quantiles(c.EXPORT_DURATION_SECONDS), "s", log_scale=True, empty=_NO_DOOR),
        ),
    )
    return Board("control-plane", "Penstock control plane", (fleet, config, process, doors))


def _dropped() -> tuple[Query, ...]:
    kinds = ((c.LOG_RECORDS_DROPPED_TOTAL, "requests"), (c.DECISION_RECORDS_DROPPED_TOTAL, "decisions"))
    return tuple(Query(rate_or_0(metric), legend) for metric, legend in kinds)


def cost_and_tokens() -> Board:
    """What was computed, for which model, and what the caches saved; in money by the prices that the reader sets."""
    model, output = "model_name", 'type="output"'
    prompts, cached = 'type="input"', 'type="cached_input"'
    spared = f"{rate(c.TOKENS_TOTAL, model, cached)} / {rate(c.TOKENS_TOTAL, model, prompts)}"
    per_request = f"{rate(c.TOKENS_TOTAL, model)} / {rate(c.REQUESTS_TOTAL, model)}"
    missing = share(rate(c.MISSING_USAGE_TOTAL), rate(c.REQUESTS_TOTAL))
    day = Row(
        *("The last 24 hours", "Tokens as the servers reported them"),
        (
            *(_day(title, f'type="{kind}"') for title, kind in _KINDS),
            card("Input tokens from the cache", Query(CACHED_SHARE, "share"), "10^2.%"),
            card("Requests", Query(f"sum(increase({selected(c.REQUESTS_TOTAL)}[1d]))"), "1"),
            card("Requests without usage", Query(missing, "share"), "10^2.%", Threshold(0.01, "blind")),
        ),
    )
    models = Row(
        *("By model", "What each model costs in tokens"),
        (
            Panel("Input tokens by model", rates(c.TOKENS_TOTAL, model, prompts), "{token}/s", kind="stacked"),
            Panel("Output tokens by model", rates(c.TOKENS_TOTAL, model, output), "{token}/s", kind="stacked"),
            Panel("Saved by the prefix cache", (Query(spared, names(model)),), "10^2.%", empty=CACHED),
            Panel("Tokens per request", (Query(per_request, names(model)),), "{token}"),
            Panel("Prompt, mean", (mean(c.REQUEST_INPUT_TOKENS, model),), "{token}"),
            Panel("Answer, mean", (mean(c.REQUEST_OUTPUT_TOKENS, model),), "{token}"),
        ),
    )
    who = Row(
        *("By pool and priority", "Whose accelerators, for whom"),
        (
            Panel("Output tokens by pool", rates(c.TOKENS_TOTAL, "pool", output), "{token}/s", kind="stacked"),
            Panel("Output tokens by priority", rates(c.TOKENS_TOTAL, "priority", output), "{token}/s", kind="stacked"),
            Panel("Not counted: no usage", rates(c.MISSING_USAGE_TOTAL, model), "1/s", kind="stacked"),
        ),
    )
    return Board("cost-and-tokens", "Penstock cost and tokens", (day, models, who, _money()))


def _money() -> Row:
    answers = rate(c.TOKENS_TOTAL, where='type="output"')
    all_over = Query(f"{cost('')} * 1e6 / {answers}", "cost")
    by_model, by_pool = (Query(f"{cost(by)} * 3600", names(by)) for by in ("model_name", "pool"))
    each = Query(f"{cost('model_name')} * 1000 / {rate(c.REQUESTS_TOTAL, 'model_name')}", names("model_name"))
    panels = (
        replace(card("Cost of 24 hours", Query(cost("", "increase"), "cost"), "{money}"), width=16),
        replace(
            card("Saved by the prefix cache in 24 hours", Query(saved("increase"), "saved"), "{money}", empty=CACHED),
            width=16,
        ),
        replace(card("Cost of a million output tokens, all counted", all_over, "{money}"), width=16),
        Panel("Cost of an hour, by model", (by_model,), "{money}", kind="stacked"),
        Panel("Cost of an hour, by pool", (by_pool,), "{money}", kind="stacked"),
        Panel("Cost of 1000 requests", (each,), "{money}"),
    )
    return Row("In money", "By the prices of a million tokens that are set on the board: 0 until they are", panels)


_KINDS = (("Input tokens", "input"), ("Cached input tokens", "cached_input"), ("Output tokens", "output"))


def _day(title: str, where: str) -> Panel:
    return card(title, Query(f"sum(increase({selected(c.TOKENS_TOTAL, where)}[1d]))"), "{token}")


def safety() -> Board:
    """What is refused, and what guards the gateway itself. There are no guardrails yet that look into prompts."""
    client = 'class="client"'
    errors = share(rate_or_0(c.REQUEST_ERRORS_TOTAL, where=client), rate(c.REQUESTS_TOTAL))
    refused = Row(
        *("Refused", "Requests that reach no model, for a reason of their own"),
        (
            Panel("By reason", rates(c.REQUEST_ERRORS_TOTAL, "reason", client), "1/s", kind="stacked"),
            Panel("By status", rates(c.REQUEST_ERRORS_TOTAL, "code", client), "1/s", kind="stacked"),
            Panel("Of all requests", (Query(errors, "ratio"),), "10^2.%"),
        ),
    )
    overload = Row(
        *("Overload", "Requests that are turned away for the sake of others"),
        (
            Panel(
                "Turned away by reason", rates(c.REQUEST_ERRORS_TOTAL, "reason", 'class="shed"'), "1/s", kind="stacked"
            ),
            Panel(
                "Clients that left", rates(c.REQUEST_ERRORS_TOTAL, "pool", 'class="cancelled"'), "1/s", kind="stacked"
            ),
            Panel("Streams ended early", rates(c.STREAM_ABORTS_TOTAL, "by"), "1/s", kind="stacked"),
        ),
    )
    bounds = Row(
        *("Bounds", "What clients choose is bounded: names, sizes, log lines"),
        (
            Panel("Names beyond the cap", rates(c.LABEL_OVERFLOW_TOTAL, "label"), "1/s"),
            Panel("Request bodies", quantiles(c.REQUEST_SIZE_BYTES), "By", log_scale=True),
            Panel("Log records dropped", rates(c.LOG_RECORDS_DROPPED_TOTAL, ""), "1/s"),
        ),
    )
    return Board("safety", "Penstock safety", (refused, overload, bounds))


def slo() -> Board:
    """Each objective: how much of its budget is left, and how fast it goes."""
    rows = tuple(_objective(each) for each in OBJECTIVES)
    return Board("slo", "Penstock objectives", rows)


def _objective(objective: Objective) -> Row:
    empty = "" if objective is AVAILABILITY else STREAMED
    goal = Threshold(objective.goal, f"objective {objective.goal * 100:g} %", below=True)
    good = Query(f"1 - ({objective.ratio('$window', '$selector', by='')})", "good")
    left = Query(f"1 - ({objective.ratio('28d', '$selector', by='')}) / {objective.budget:g}", "left")
    burn = tuple(
        Query(f"({objective.ratio(window, '$selector')}) / {objective.budget:g}", f"{{{{pool}}}} {window}")
        for window in ("5m", "1h", "6h")
    )
    pools = Query(f"1 - ({objective.ratio('1h', '$selector')})", "{{pool}}")
    share_unit: Unit = "10^2.%"
    lines = tuple(Threshold(each.factor, f"{each.name.lower()} burn") for each in objective.burns[:2])
    panels = (
        Panel("Good now", (good,), share_unit, (goal,), kind="card", empty=empty, width=8, height=12),
        Panel(
            "Budget left of 28 days",
            (left,),
            share_unit,
            (Threshold(0.0, "spent", below=True),),
            kind="card",
            empty=empty,
            width=8,
            height=12,
        ),
        Panel("Good by pool, 1 h", (pools,), share_unit, (goal,), empty=empty),
        Panel("Burn rate", burn, "1", lines or (Threshold(1.0, "sustainable"),), empty=empty),
    )
    named = tuple(replace(panel, title=f"{panel.title}: {objective.name}") for panel in panels)
    return Row(objective.title, f"At least {objective.goal * 100:g} % over 28 days", named)
