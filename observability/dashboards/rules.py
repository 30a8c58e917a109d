"""Recording rules and alerts as Prometheus reads them: groups of rules, as in a rule file, a PrometheusRule or GMP's Rules."""

from typing import Any

from observability.dashboards.alerts import Alert
from observability.dashboards.model import filled
from observability.dashboards.objectives import recording


def groups(alerts: tuple[Alert, ...], runbooks: str) -> dict[str, Any]:
    """`runbooks`: where they are, without a slash at its end."""
    records = [
        {"record": objective.record(window), "expr": filled(objective.ratio(window), window)}
        for objective, window in recording()
    ]
    return {
        "groups": [
            {"name": "penstock-objectives", "interval": "30s", "rules": records},
            {"name": "penstock-alerts", "interval": "30s", "rules": [_rule(each, runbooks) for each in alerts]},
        ]
    }


def _rule(alert: Alert, runbooks: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.query(),
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook_url": f"{runbooks}/{alert.runbook}"},
    }
