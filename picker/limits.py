"""Limits: what may wait in the gateway, and for how long: as configured for a pool, and as one request asks.

Sources: llm-d EndpointPickerConfig `flowControl`; request headers of llm-d router 0.10 (metadata/consts.go).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from picker.queues import SHARE
from xds_server.model.graph import Pool

MAX_TTL = 280.0  # seconds: Envoy ends a stream in which nothing has moved for five minutes
TTL_HEADER = "x-llm-d-inference-ttl"
OBJECTIVE_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")  # the first that is present; the second is the older name

Ordering = Literal["deadline", "fcfs", "edf"]
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,9}(?:\.\d{0,9})?)(ns|us|\u00b5s|ms|s|m|h)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")


@dataclass(frozen=True, slots=True)
class Band:
    """What one priority may hold, and how it is ordered."""

    requests: int = 5000
    size: int = 1_000_000_000  # bytes of bodies
    # deadline: first come, first served, but an objective counts as a deadline. edf: by TTL alone.
    ordering: Ordering = "deadline"
    fair: bool = True  # between tenants; False: one queue for all of them


@dataclass(frozen=True, slots=True)
class Limits:
    """Flow control as configured. The defaults are meant to be left alone. Seconds, requests, bytes."""

    enabled: bool = True
    requests: int = 20_000  # that wait, of one pool
    size: int = 1_000_000_000
    ttl: float = 60.0  # a request may wait
    no_endpoint_ttl: float = 60.0  # the same in a pool without endpoints: scale from zero
    negative_ttl: float = 3.0  # of negative priority: long enough for a burst of the others to pass
    ttft_objective: float | None = None  # of requests that bring none
    band: Band = Band()
    negative_band: Band = Band()
    bands: Mapping[int, Band] = field(default_factory=dict)  # by priority
    weights: Mapping[str, float] = field(default_factory=dict)  # of tenants, above 0; 1 for those not named
    share: float = SHARE  # of the turns, guaranteed to each band

    def of(self, priority: int) -> Band:
        return self.bands.get(priority) or (self.band if priority >= 0 else self.negative_band)


DEFAULT = Limits()


def of_pool(limits: Limits, pool: Pool) -> Limits:
    """What the pool's own annotations say goes before its configuration."""
    if pool.queue_ttl is None and pool.ttft_objective is None:
        return limits
    ttl = limits.ttl if pool.queue_ttl is None else pool.queue_ttl
    return replace(
        limits,
        ttl=min(ttl, MAX_TTL),
        no_endpoint_ttl=limits.no_endpoint_ttl if pool.queue_ttl is None else min(ttl, MAX_TTL),
        ttft_objective=limits.ttft_objective if pool.ttft_objective is None else pool.ttft_objective,
    )


def duration(text: str) -> float | None:
    """Seconds of a Go duration such as "1m30s" or "500ms"; None where it is none."""
    if not _DURATION.fullmatch(text):
        return 0.0 if text == "0" else None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def ttl_of(headers: Mapping[str, str], limit: float) -> float:
    """How long this request may wait: it may ask for less than the pool allows, never for more. What is no duration is none."""
    asked = duration(headers.get(TTL_HEADER, ""))
    return limit if asked is None else min(asked, limit)


def objective_of(headers: Mapping[str, str], default: float | None) -> float | None:
    """Seconds to the first token that the request asks for; `default` where it asks for nothing that can be read."""
    text = next((headers[name] for name in OBJECTIVE_HEADERS if headers.get(name)), "")
    try:
        asked = float(text) / 1000.0
    except ValueError:
        return default
    return asked if 0.0 < asked < float("inf") else default
