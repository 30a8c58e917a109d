"""KvSource: where the servers of a pool publish their KV events, as its annotation or its configuration says."""

from dataclasses import dataclass, replace

from xds_server.model.graph import Pool


@dataclass(frozen=True, slots=True)
class KvSource:
    """The publisher of data-parallel rank r is on `port` + r of its pod; port 0: the server is asked, GET /kv_event_sources."""

    port: int = 0
    topic: str = ""  # what a topic begins with, to be listened to
    replay: int = 0  # port where what was missed may be asked for, + r; 0: nowhere, or as the server says that is asked


def of_pool(configured: KvSource | None, pool: Pool) -> KvSource | None:
    """The pool's own annotation goes before its configuration."""
    if pool.kv_events is None:
        return configured
    return replace(configured or KvSource(), port=pool.kv_events)
