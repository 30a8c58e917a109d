"""How near two endpoints are: host, rack, zone, region. Prefill near decode: the KV cache travels between them.

Source: llm-d `topology-affinity-filter` and `topology-affinity-scorer`. Host and zone are those of the pod's node; rack and
region are labels of the pod, under the names that nodes have them by. Without a peer nobody is near, and everybody passes.
"""

from collections.abc import Mapping

from picker.scorers import View
from xds_server.model.graph import Endpoint

LEVELS = ("host", "rack", "zone", "region")  # the nearest first
SCORES: Mapping[str, float] = {"host": 1.0, "rack": 0.2, "zone": 0.05, "region": 0.02}
_LABELS = {"host": "kubernetes.io/hostname", "rack": "topology.kubernetes.io/rack",
           "zone": "topology.kubernetes.io/zone", "region": "topology.kubernetes.io/region"}  # fmt: skip


def place(endpoint: Endpoint) -> tuple[str, ...]:
    """One name for each level, "" where it is not known."""
    labels = dict(endpoint.labels)
    own = {"host": endpoint.node, "zone": endpoint.zone}
    return tuple(own.get(level, "") or labels.get(_LABELS[level], "") for level in LEVELS)


def nearest(one: Endpoint, two: Endpoint) -> str:
    """The nearest level that both share; "" for none."""
    pairs = zip(LEVELS, place(one), place(two), strict=True)
    return next((level for level, first, second in pairs if first and first == second), "")


def affinity_scorer(view: View) -> list[float]:
    peer = view.peer
    if peer is None:
        return [0.0] * len(view.names)
    return [SCORES.get(nearest(peer, endpoint), 0.0) for endpoint in view.endpoints]


class AffinityFilter:
    """Keeps those that are at least as near as `level`; where none is, everybody."""

    def __init__(self, level: str) -> None:
        self._near = frozenset(LEVELS[: LEVELS.index(level) + 1])

    def __call__(self, view: View) -> list[int]:
        everybody, peer = list(range(len(view.names))), view.peer
        if peer is None:
            return everybody
        return [i for i in everybody if nearest(peer, view.endpoints[i]) in self._near] or everybody
