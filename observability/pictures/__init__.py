"""Boards as one HTML page: the same panels and queries as in Grafana, drawn without it. Pure functions; `penstock verify --draw`."""
