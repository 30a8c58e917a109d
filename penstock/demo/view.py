"""What the demo shows: a row per model and endpoint, from the same facts that the metrics come from."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from penstock.gateway import Gateway
from picker.facts import Outcome


@dataclass(slots=True)
class Row:
    """One model on one endpoint."""

    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ttft: deque[float] = field(default_factory=lambda: deque(maxlen=200))  # seconds, the latest


class Figures:
    """Counts requests that have `ended`."""

    def __init__(self) -> None:
        self.requests = 0
        self.rows: dict[tuple[str, str, str], Row] = {}  # pool, model, endpoint

    def ended(self, fact: Outcome) -> None:
        if not fact.pool:  # the warm-up reaches no pool
            return
        self.requests += 1
        row = self.rows.setdefault((fact.pool, fact.model, fact.endpoint or "-"), Row())
        row.requests += 1
        row.errors += bool(fact.reason)
        row.input_tokens += fact.input_tokens or 0
        row.cached_tokens += fact.cached_tokens or 0
        row.output_tokens += fact.output_tokens or 0
        if fact.ttft is not None:
            row.ttft.append(fact.ttft)


def rows(figures: Figures) -> list[dict[str, Any]]:
    """For the line of JSON."""
    return [
        {
            "pool": pool,
            "model": model,
            "endpoint": endpoint,
            "requests": row.requests,
            "failed": row.errors,
            "ttft_p50_ms": round(median(row.ttft) * 1000, 1) if row.ttft else None,
            "cache_hit_ratio": round(row.cached_tokens / row.input_tokens, 3) if row.input_tokens else None,
            "output_tokens": row.output_tokens,
        }
        for (pool, model, endpoint), row in sorted(figures.rows.items())
    ]


def table(gateway: Gateway, figures: Figures) -> Table:
    """The figures now."""
    made = Table(
        title=f"{figures.requests} requests",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    made.add_column("model", no_wrap=True)
    made.add_column("endpoint", no_wrap=True)
    for name in ("reqs", "TTFT", "cached", "run", "queue", "open", "err"):  # fits 80 columns
        made.add_column(name, justify="right", no_wrap=True)
    last = ""
    pools = {model: {pool for pool, other, _ in figures.rows if other == model} for _, model, _ in figures.rows}
    for (pool, model, endpoint), row in sorted(figures.rows.items()):
        load = gateway.signals.loads(pool).get(endpoint)
        name = model if len(pools[model]) == 1 else f"{model} ({pool.rpartition('/')[2]})"
        hits = f"{row.cached_tokens / row.input_tokens:.0%}" if row.input_tokens else "-"
        ttft = f"{median(row.ttft) * 1000:.0f} ms" if row.ttft else "-"
        now = [str(load.running), str(load.waiting), str(load.inflight)] if load else ["-"] * 3
        style = "red" if row.errors else ""
        made.add_row(
            name if name != last else "", endpoint, str(row.requests), ttft, hits, *now, str(row.errors), style=style
        )
        last = name
    return made


async def live(gateway: Gateway, figures: Figures, *, once: bool) -> None:
    """Draw until cancelled: in place on a terminal, as a table every few seconds elsewhere, and once at the end of --once."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=120)
    if once or not console.is_terminal:
        try:
            while True:
                await asyncio.sleep(5.0)
                if not once:
                    console.print(table(gateway, figures))
        finally:
            console.print(table(gateway, figures))
    with Live(console=console, refresh_per_second=4, transient=False) as drawn:
        while True:
            drawn.update(table(gateway, figures))
            await asyncio.sleep(0.25)
