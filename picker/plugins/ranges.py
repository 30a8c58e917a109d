"""Context lengths that an endpoint is meant for: a pod label such as `0-8192`. Source: llm-d `context-length-aware`."""

import re

from xds_server.model.graph import Endpoint

_RANGE = re.compile(r"\s*(\d{1,12})\s*-\s*(\d{1,12})\s*")
_OUTSIDE = 0.3  # the most that an endpoint out of range can get


def bounds(endpoint: Endpoint, label: str) -> tuple[int, int] | None:
    """The label's range in tokens, both ends included; None without the label. One that cannot be read is empty: (1, 0)."""
    value = dict(endpoint.labels).get(label)
    if value is None:
        return None
    found = _RANGE.fullmatch(value)
    low, high = (int(found[1]), int(found[2])) if found else (1, 0)
    return (low, high) if low <= high else (1, 0)


def in_range(endpoint: Endpoint, label: str, tokens: int) -> bool:
    found = bounds(endpoint, label)
    return found is None or found[0] <= tokens <= found[1]


def score(endpoint: Endpoint, label: str, tokens: int) -> float:
    """In range: the narrower, and the more room is left, the better. Out of range: the nearer the better. No label: 0.5."""
    found = bounds(endpoint, label)
    if found is None:
        return 0.5
    low, high = found
    if low > high:
        return 0.0
    if tokens < low or tokens > high:
        return _OUTSIDE / (1.0 + max(tokens - high, low - tokens) / 1000.0)
    width = high - low
    if not width:
        return 1.0
    inside = 0.7 / (1.0 + width / 10000.0) + 0.3 * (high - tokens) / width
    return _OUTSIDE + inside * (1.0 - _OUTSIDE)
