"""Alerts: who is woken, for what. Burn rates of the objectives first, then causes; each has a runbook in docs/runbooks/."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from observability import catalogue as c
from observability.catalogue import Metric
from observability.dashboards.model import filled
from observability.dashboards.objectives import FLOOR, OBJECTIVES, Burn, Objective, recorded

Severity = Literal["page", "ticket"]
_RECORDED = recorded()


@dataclass(frozen=True, slots=True)
class Alert:
    """`promql` where recording rules are evaluated, `plain` (if it differs) where there are none."""

    name: str
    summary: str
    promql: str
    wait: str  # so long it must hold, e.g. "5m"
    severity: Severity = "ticket"
    shared: str = ""  # the runbook, if it is not of this alert alone
    plain: str = ""

    @property
    def runbook(self) -> str:
        """The file in docs/runbooks/."""
        return (self.shared or re.sub(r"(?<=[a-z])(?=[A-Z])", "-", self.name.removeprefix("Penstock")).lower()) + ".md"

    def query(self, *, recorded: bool = True) -> str:
        """Held against the catalogue; `recorded`: where recording rules are evaluated."""
        return filled(self.promql if recorded or not self.plain else self.plain, "5m", recorded=_RECORDED)


def alerts() -> tuple[Alert, ...]:
    return (*_burning(), *_serving(), *_waiting(), *_fleet(), *_ours())


def _burning() -> Iterator[Alert]:
    for objective in OBJECTIVES:
        for burn in objective.burns:
            title = f"{burn.name} burn: {objective.title.lower()} ({objective.goal * 100:g} %) is not met"
            yield Alert(
                f"Penstock{_capital(objective.name)}{burn.name}Burn",
                title,
                _burn(objective, burn, objective.record),
                wait="2m" if burn.page else "15m",
                severity="page" if burn.page else "ticket",
                shared=f"{objective.name}-burn",
                plain=_burn(objective, burn, lambda window, each=objective: f"({each.ratio(window)})"),  # type: ignore[misc]
            )


def _capital(name: str) -> str:
    return name.upper() if name == "ttft" else name.capitalize()


def _burn(objective: Objective, burn: Burn, ratio: Callable[[str], str]) -> str:
    limit = f"{burn.factor * objective.budget:.6g}"
    enough = f"{objective.requests(burn.long)} > {FLOOR:g}"
    return f"({ratio(burn.long)} > {limit} and {ratio(burn.short)} > {limit}) and {enough}"


def _rate(metric: Metric, where: str = "", by: str = "pool", window: str = "5m", suffix: str = "") -> str:
    return f"sum by ({by}) (rate({metric.name}{suffix}{{{where}}}[{window}]))" if by else _all(metric, where, window)


def _all(metric: Metric, where: str, window: str) -> str:
    return f"sum(rate({metric.name}{{{where}}}[{window}]))"


def _p(q: float, metric: Metric, by: str = "", where: str = "", window: str = "10m") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, {_rate(metric, where, grouped, window, '_bucket')})"


def _endpoints(state: str) -> str:
    """Of the replica that sees most: each of them tells of the same endpoints."""
    return f'max by (pool) ({c.POOL_ENDPOINTS.name}{{state="{state}"}})'


def _grew(metric: Metric, by: str = "", window: str = "10m") -> str:
    return f"sum{f' by ({by}) ' if by else ''}(increase({metric.name}[{window}])) > 0"


def _serving() -> Iterator[Alert]:
    resting = f"avg by (pool, endpoint) (avg_over_time({c.ENDPOINT_RESTING.name}[10m]))"
    uneven = f"stddev by (pool) (max by (pool, endpoint) ({c.ENDPOINT_KV_CACHE_UTILIZATION.name}))"
    aborted = _rate(c.STREAM_ABORTS_TOTAL, 'by="upstream"', window="10m")
    gone = f"group by (pool) ({c.POOL_ENDPOINTS.name} offset 15m) unless group by (pool) ({c.POOL_ENDPOINTS.name})"
    unavailable = _rate(c.REQUEST_ERRORS_TOTAL, 'reason="picker_unavailable"')
    yield Alert(
        "PenstockNoReadyEndpoints", "a pool has no endpoint that is ready", f"{_endpoints('ready')} == 0", "2m", "page"
    )
    yield Alert("PenstockPoolGone", "a pool that was served 15 minutes ago is no longer told of", gone, "5m")
    yield Alert("PenstockEndpointsStale", "the figures of some endpoints are old", f"{_endpoints('stale')} > 0", "5m")
    yield Alert("PenstockEndpointFails", "an endpoint is kept out of use after failures", f"{resting} > 0.3", "5m")
    yield Alert(
        "PenstockPickerUnavailable", "requests fail since no picker answers", f"{unavailable} > 0", "2m", "page"
    )
    yield Alert(
        "PenstockStreamsAborted",
        "model servers end more than 1 % of the requests in mid-stream",
        f"{aborted} / {_rate(c.REQUESTS_TOTAL, window='10m')} > 0.01",
        "5m",
    )
    believed = f"max by (pool, endpoint) ({c.PREFIX_TRUST_RATIO.name})"
    yield Alert("PenstockEventsDisbelieved", "KV events of a server are not believed", f"{believed} < 0.5", "15m")
    yield Alert("PenstockCachesUneven", "the KV caches of a pool fill unevenly", f"{uneven} > 0.25", "15m")


def _waiting() -> Iterator[Alert]:
    waits = _p(0.95, c.GATEWAY_QUEUE_DURATION_SECONDS, "pool", 'outcome="dispatched"')
    shed = _rate(c.REQUEST_ERRORS_TOTAL, 'class="shed",priority!~"-.*"', window="10m")
    missing = _rate(c.MISSING_USAGE_TOTAL, window="30m")
    distance = _rate(c.PREFIX_PREDICTION_ERROR_TOKENS, window="30m", suffix="_sum")
    prompts = _rate(c.TOKENS_TOTAL, 'type="input"', window="30m")
    requests = _rate(c.REQUESTS_TOTAL, window="10m")
    yield Alert(
        "PenstockPoolSaturated",
        "a pool has been over its set point for 10 minutes",
        f"max by (pool) ({c.POOL_SATURATION.name}) > 1",
        "10m",
    )
    yield Alert(
        "PenstockQueueSlow", "5 % of the requests that wait in the gateway wait longer than 10 s", f"{waits} > 10", "5m"
    )
    yield Alert(
        "PenstockRequestsShed",
        "more than 1 % of a pool's requests of priority 0 and above are turned away",
        f"{shed} / {requests} > 0.01",
        "5m",
    )
    yield Alert(
        "PenstockUsageMissing",
        "more than 1 % of a pool's requests end without usage: tokens are not counted",
        f"{missing} / {_rate(c.REQUESTS_TOTAL, window='30m')} > 0.01",
        "30m",
    )
    yield Alert(
        "PenstockPrefixMispredicted",
        "more than a fifth of the prompt tokens are predicted wrongly to be cached, or not",
        f"{distance} / {prompts} > 0.2",
        "30m",
    )


def _fleet() -> Iterator[Alert]:
    clients = f"sum({c.XDS_CONNECTED_CLIENTS.name})"
    failures = _rate(c.KUBERNETES_FAILURES_TOTAL, by="operation", window="10m")
    leaders = f"sum by (lease) ({c.LEADER.name})"
    yield Alert(
        "PenstockEnvoyRejects", "an Envoy rejects a part of its configuration", _clients("rejecting"), "2m", "page"
    )
    yield Alert("PenstockEnvoySilent", "an Envoy does not answer what it is sent", _clients("degraded"), "5m")
    yield Alert("PenstockNoEnvoy", "no Envoy is connected", f"{clients} == 0", "5m", "page")
    yield Alert(
        "PenstockConfigSlow",
        "1 % of the changes take an Envoy longer than 5 s",
        f"{_p(0.99, c.XDS_ACK_DURATION_SECONDS)} > 5",
        "10m",
    )
    yield Alert(
        "PenstockObjectsInvalid", "objects carry a mistake", f"max by (kind) ({c.OBJECTS_INVALID.name}) > 0", "15m"
    )
    yield Alert(
        "PenstockReconcileFails",
        "a mistake of ours: changes are not served",
        _grew(c.RECONCILE_FAILURES_TOTAL),
        "0m",
        "page",
    )
    yield Alert("PenstockKubernetesFails", "calls of the Kubernetes API fail", f"{failures} > 0.1", "10m")
    yield Alert("PenstockNoLeader", "no replica writes statuses", f"{leaders} == 0", "5m")


def _clients(state: str) -> str:
    return f'sum({c.XDS_CLIENTS.name}{{state="{state}"}}) > 0'


def _ours() -> Iterator[Alert]:
    lag = _p(0.99, c.LOOP_LAG_SECONDS)
    decide = _p(0.99, c.SCHEDULE_DURATION_SECONDS, "pool")
    lost = _rate(c.REQUEST_ERRORS_TOTAL, 'reason="lost"', window="10m")
    unwritten = _rate(c.EXPORT_ERRORS_TOTAL, by="door, signal, reason", window="10m")
    unknown = _rate(c.AUTOSCALE_SERVED_TOTAL, 'result="unknown"', by="api", window="10m")
    yield Alert("PenstockExportFails", "a part of the telemetry is not written", f"{unwritten} > 0", "15m")
    yield Alert("PenstockAutoscalerBlind", "autoscalers get errors: the figures are old", f"{unknown} > 0", "10m")
    yield Alert("PenstockDown", "nobody tells of a running gateway", f"absent({c.BUILD_INFO.name})", "5m", "page")
    yield Alert("PenstockLoopLag", "the event loop wakes late: decisions wait", f"{lag} > 0.1", "5m")
    yield Alert("PenstockDecisionsSlow", "1 % of the decisions take longer than 10 ms", f"{decide} > 0.01", "10m")
    yield Alert("PenstockLogDrops", "records of the request log are dropped", _grew(c.LOG_RECORDS_DROPPED_TOTAL), "0m")
    yield Alert("PenstockOutcomesLost", "the ends of requests are not reported by Envoy", f"{lost} > 0", "10m")
    yield Alert(
        "PenstockNamesOverflow",
        "clients have used up the names of a label",
        _grew(c.LABEL_OVERFLOW_TOTAL, "label"),
        "0m",
    )
