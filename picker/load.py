"""Load: what is known of one endpoint at the moment of a decision.

Scraped from the model server's /metrics, and corrected by what the gateway itself has sent there since. Names of the
metrics per engine: `_FAMILIES`. Source: Gateway API Inference Extension proposal 003, vLLM 0.32 /metrics.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """Counts are requests; `kv_usage` is in [0, 1]; `scraped` is a time.monotonic() value, -inf before the first scrape."""

    waiting: int = 0
    running: int = 0
    kv_usage: float = 0.0
    loras: frozenset[str] = frozenset()  # adapters active now
    loras_waiting: frozenset[str] = frozenset()
    max_loras: int = 0  # 0: the server has no adapters
    block_tokens: int = 0  # KV cache block size in tokens; 0: unknown
    blocks: int = 0  # KV cache blocks on the device; 0: unknown
    scraped: float = float("-inf")
    errors: int = 0  # scrapes that failed in a row
    inflight: int = 0  # requests that the gateway has sent there and that have not ended
    inflight_tokens: int = 0  # their uncached prompt tokens
    inflight_at_scrape: int = 0  # `inflight` when the figures above were taken
