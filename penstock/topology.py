"""Who leads where, for the console: every route of every Gateway, and the backends that it gives requests to. A pure function."""

from collections import defaultdict
from typing import Any

from xds_server.model.graph import Forward, Graph, Route, VirtualHost

MOST = 500  # routes: a page that draws more can be read by nobody


def topology(graph: Graph) -> dict[str, Any]:
    """`routes`: {gateway, route, hostnames, backends: [{name, pool, weight}]}, sorted, at most MOST; `more`: how many are left out.

    A route object is one row for each Gateway (`gateway` is "" where one fleet serves them all); its rules are added up, and
    `weight` is the mean share of the rules, in [0, 1].
    """
    found: dict[tuple[str, str], list[tuple[str, Route]]] = defaultdict(list)
    for fleet, hosts in _hosts(graph):
        for host in hosts:
            for route in host.routes:
                found[fleet, _object(route)].append((host.hostname, route))
    keys = sorted(found)
    return {"routes": [_row(*key, found[key]) for key in keys[:MOST]], "more": max(len(keys) - MOST, 0)}


def _hosts(graph: Graph) -> list[tuple[str, tuple[VirtualHost, ...]]]:
    return [
        (name, chain.hosts) for name, fleet in graph.fleets.items() for port in fleet.ports for chain in port.chains
    ]


def _object(route: Route) -> str:
    """The HTTPRoute, as "ns/name"; the name of a Route goes on with the rule and the match."""
    return "/".join(route.name.split("/")[:2])


def _row(gateway: str, name: str, found: list[tuple[str, Route]]) -> dict[str, Any]:
    shares: dict[str, float] = defaultdict(float)
    pools: set[str] = set()
    for _, route in found:
        if not isinstance(route.action, Forward):
            continue
        total = sum(each.weight for each in route.action.backends) or 1
        for each in route.action.backends:
            if each.backend is None or not each.weight:
                continue
            backend = each.backend
            label = f"{backend.ref.namespace}/{backend.ref.name}"
            shares[label] += each.weight / total / len(found)
            if backend.pool:
                pools.add(label)
    return {
        "gateway": gateway,
        "route": name,
        "hostnames": sorted({hostname for hostname, _ in found}),
        "backends": [
            {"name": label, "pool": label in pools, "weight": share} for label, share in sorted(shares.items())
        ],
    }
