"""The data-parallel ranks of the simulated server, as behind vLLM's internal load balancer: engines that share a port.

Source: vLLM 0.32, `--data-parallel-size`: a header names the rank, one that does not exist is 400, KV events of rank r come from
port + r.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from penstock.sim import api
from penstock.sim.engine import Engine, EngineSettings, Progress
from penstock.sim.kv_events import Publisher

WANTED_HEADER = "x-data-parallel-rank"


class Ranks:
    """Engines, each with a queue and a cache of its own, and who tells of the caches."""

    def __init__(self, size: int, settings: EngineSettings, *, kv_events: bool = False) -> None:
        self.engines = [Engine(replace(settings, seed=settings.seed + rank)) for rank in range(size)]
        told = enumerate(self.engines) if kv_events else ()
        self.publishers = [Publisher(engine.cache, settings.block_tokens, rank) for rank, engine in told]
        self._turns = itertools.cycle(range(size))

    def wanted(self, header: str) -> int:
        """As the header says, else the next one; as vLLM does, what is no number is not looked at. Raises ApiError."""
        try:
            rank = int(header)
        except ValueError:
            return next(self._turns)
        if not 0 <= rank < len(self.engines):
            raise api.no_such_rank(rank, len(self.engines))
        return rank

    def next_time(self) -> float | None:
        """See Engine.next_time."""
        return min((time for engine in self.engines if (time := engine.next_time()) is not None), default=None)

    def advance(self, now: float) -> Iterator[tuple[int, Progress]]:
        """See Engine.advance."""
        for engine in self.engines:
            yield from engine.advance(now).items()

    @property
    def generated(self) -> int:
        """Tokens, since the start."""
        return sum(engine.stats.generation_tokens for engine in self.engines)

    def clear(self) -> bool:
        """Empty the prefix caches; False, and nothing happens, while blocks are in use (as vLLM does)."""
        if any(engine.cache.used for engine in self.engines):
            return False
        for engine in self.engines:
            engine.cache.clear()
        self.flush(cleared=True)
        return True

    # --- KV events ----------------------------------------------------------------------------------------------------

    def publish(self, host: str, port: int) -> None:
        """From `port` + rank; 0: from any free ports. Raises OSError."""
        for rank, publisher in enumerate(self.publishers):
            publisher.start(host, port + rank if port else 0)

    def stop(self) -> None:
        for publisher in self.publishers:
            publisher.stop()

    def know(self, adapter: str, text: bytes, hashes: tuple[int, ...]) -> None:
        """See Publisher.know."""
        for publisher in self.publishers:
            publisher.know(adapter, text, hashes)

    def flush(self, *, cleared: bool = False) -> None:
        """See Publisher.flush."""
        for publisher in self.publishers:
            publisher.flush(cleared=cleared)

    def sources(self) -> dict[str, Any]:
        """What GET /kv_event_sources answers."""
        common = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "", "replay_endpoint": None}
        return {str(rank): {**common, "endpoint": f"tcp://*:{each.port}"} for rank, each in enumerate(self.publishers)}
