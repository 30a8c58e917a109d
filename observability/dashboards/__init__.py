"""One model of panels, objectives and alerts -> Cloud Monitoring, Grafana, Prometheus. `python -m observability.dashboards` writes
dashboards/ and the heads of docs/runbooks/.

Queries are PromQL everywhere, and each is held against the catalogue when it is rendered: one that names what does not exist is
refused here, not found empty by an operator.
"""
