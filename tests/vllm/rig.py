"""A gateway before the servers of this folder, and how to get past its choice."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from tests.e2e.manifests import GATEWAY, documents, pool, route, rule, service, to_pool, to_service
from tests.e2e.world import World, world
from tests.vllm.server import BASE, Server

POOL = f"default/{BASE}"


def before(
    servers: Sequence[Server], folder: Path, more: str = "", **settings: Any
) -> AbstractAsyncContextManager[World]:
    """Penstock with these servers as one pool, and with a host of its own for each, to compare with who does not choose.

    `more` is one more annotation of the pool.
    """
    each = [(host(number), f"server-{number}", one.address) for number, one in enumerate(servers)]
    text = documents(
        GATEWAY,
        pool(BASE, [one.address for one in servers], more=more),
        route("pool", rule("/v1", to_pool(BASE))),
        *(service(name, address) for _, name, address in each),
        *(route(name, rule("/v1", to_service(name)), hostname=named) for named, name, _ in each),
    )
    return world(folder, {"all.yaml": text}, **settings)


def host(number: int) -> str:
    """Requests for it go to this server, whatever the picker thinks."""
    return f"server-{number}.test"
