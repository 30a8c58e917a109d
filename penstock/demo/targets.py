"""What the demo asks for: a model, a host and a path for each route that leads to a pool with simulated servers."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from penstock.sim.cli import settings_of
from xds_server.model.graph import Forward, Graph, Route
from xds_server.model.names import MODEL_HEADER
from xds_server.model.objects import ClusterState, InferencePool

SIMULATE = "penstock.dev/simulate"
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True, slots=True)
class Target:
    """One model as clients see it."""

    model: str
    host: str
    path: str

    @property
    def field(self) -> str:
        """The body's field that has the prompt."""
        return "messages" if self.path.endswith("/chat/completions") else "prompt"

    @property
    def sdk_base(self) -> str | None:
        """What an OpenAI SDK takes as the base URL's path."""
        for end in ("/chat/completions", "/completions"):
            if self.path.endswith(end):
                return self.path.removesuffix(end)
        return None

    def prompt(self, text: str) -> Any:
        return [{"role": "user", "content": text}] if self.field == "messages" else text


def targets(graph: Graph, state: ClusterState) -> list[Target]:
    """In the order of routes, each model once."""
    simulated = {
        f"pool/{pool.meta.namespace}/{pool.meta.ref.name}": _models(pool.meta.annotations[SIMULATE])
        for pool in state.all(InferencePool)
        if SIMULATE in pool.meta.annotations
    }
    found = {
        (model, host): Target(model, host, path)
        for port in graph.ports[:1]
        for chain in port.chains
        for virtual in chain.hosts
        for route in virtual.routes
        for model, path in _of_route(route, simulated)
        for host in ["localhost" if virtual.hostname.startswith("*") else virtual.hostname]
    }
    return list(found.values())


def _of_route(route: Route, simulated: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    if not isinstance(route.action, Forward):
        return
    clusters = [share.backend.cluster for share in route.action.backends if share.backend]
    if not clusters or not all(cluster in simulated for cluster in clusters):
        return
    served = simulated[clusters[0]]
    path = route.match.path.value.rstrip("/")
    if route.action.rewrite is None or route.action.rewrite.path is None:
        path = _CHAT if _CHAT.startswith(path) else _COMPLETIONS
    for header in route.match.headers:
        if header.name == MODEL_HEADER:
            served = (
                tuple(model for model in served if re.fullmatch(header.value, model))
                if header.regex
                else (header.value,)
            )
    for model in served:
        yield model, path


def _models(options: str) -> tuple[str, ...]:
    settings = settings_of(options.split())
    return (*settings.models, *settings.loras)
