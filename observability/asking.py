"""Asks a Prometheus, or what speaks its HTTP API, by prometheus-api-client: for values now, or along a span of time.

Not for an event loop: it blocks.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from observability.pictures.data import Series, Span


class QueryError(Exception):
    """The server did not answer, or refused the query."""


class Prometheus:
    """At `url`, e.g. http://prometheus:9090; `timeout` is in seconds, of one query. Every method raises QueryError."""

    def __init__(self, url: str, headers: Mapping[str, str] = MappingProxyType({}), timeout: int = 10) -> None:
        from prometheus_api_client import PrometheusApiClientException, PrometheusConnect  # noqa: PLC0415  slow to import
        from requests import RequestException  # noqa: PLC0415
        from urllib3 import Retry  # noqa: PLC0415

        # A server that is not there shall be told of at once, not tried again.
        self._client = PrometheusConnect(url.rstrip("/"), headers=dict(headers), retry=Retry(total=0), timeout=timeout)
        self._errors = (PrometheusApiClientException, RequestException)

    def values(self, promql: str) -> list[float]:
        """Of all series, now."""
        try:
            found = self._client.custom_query(promql)
        except self._errors as error:
            raise QueryError(str(error)) from error
        return [float(each["value"][1]) for each in found]

    def along(self, promql: str, span: Span) -> list[Series]:
        """Each series with a value for every step; NaN where it has none."""
        begin, end = (datetime.fromtimestamp(at, UTC) for at in (span.start, span.end))
        try:
            found = self._client.custom_query_range(promql, begin, end, f"{span.step}s")
        except self._errors as error:
            raise QueryError(str(error)) from error
        return [_series(each, span) for each in found]


def _series(found: Mapping[str, Any], span: Span) -> Series:
    pairs: Sequence[tuple[float, str]] = found["values"]
    values = [float("nan")] * span.count
    for at, value in pairs:
        place = round((at - span.start) / span.step)
        if 0 <= place < span.count:
            values[place] = float(value)
    return Series(found["metric"], tuple(values))
