"""Refusals: what proxies refused, in the statuses of the objects that it came from. Graph and proxies in, Graph out; pure.

A configuration that Envoy refuses is our mistake, or a limit of that Envoy; either way its user is told where they look:
`Programmed` of the Gateway turns False, and every route that uses a refused cluster gets the condition PROGRAMMED_ROUTE.
Cases: tests/xds_server/test_refusals.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from xds_server.facts import NodeStatus
from xds_server.model.graph import EVERYTHING, Condition, Fleet, Forward, Graph, ObjectStatus, ParentStatus
from xds_server.model.objects import GATEWAY_GROUP, ObjectRef
from xds_server.resolve.conditions import INVALID, MESSAGE_LIMIT, PROGRAMMED, PROGRAMMED_ROUTE
from xds_server.snapshot import CDS

REJECTED = "Rejected"


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """One resource of one fleet, refused by `count` of its `proxies`."""

    type_url: str
    name: str
    count: int
    proxies: int
    error: str  # of one of them

    def __str__(self) -> str:
        kind = self.type_url.rpartition(".")[2]
        return f"{self.count}/{self.proxies} proxies rejected {kind} {self.name}: {self.error}"


def refusals(proxies: Iterable[NodeStatus], graph: Graph) -> Mapping[str, tuple[Refusal, ...]]:
    """By fleet: what at least one of its proxies refuses now."""
    size: Counter[str] = Counter()
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for proxy in proxies:
        fleet = proxy.fleet if proxy.fleet in graph.fleets else EVERYTHING
        size[fleet] += 1
        for kind in proxy.types:
            for name, error in kind.errors.items():
                found[fleet][kind.type_url, name].append(error)
    return {
        fleet: tuple(
            sorted(Refusal(url, name, len(errors), size[fleet], min(errors)) for (url, name), errors in named.items())
        )
        for fleet, named in found.items()
    }


def with_refusals(graph: Graph, found: Mapping[str, tuple[Refusal, ...]]) -> Graph:
    """The Graph with the refusals in its statuses; the same one where there are none."""
    statuses = dict(graph.statuses)
    for name, fleet in graph.fleets.items():
        told = found.get(name, ())
        if told:
            message = "; ".join(map(str, told))[:MESSAGE_LIMIT]
            for ref in _gateways(fleet, statuses):
                statuses[ref] = _gateway(statuses[ref], message)
            for ref, errors in _routes(fleet, told).items():
                if ref in statuses:
                    statuses[ref] = _route(statuses[ref], "; ".join(errors)[:MESSAGE_LIMIT])
    return graph if statuses == graph.statuses else replace(graph, statuses=statuses)


def _gateways(fleet: Fleet, statuses: Mapping[ObjectRef, ObjectStatus]) -> list[ObjectRef]:
    if fleet.gateway is not None:
        return [ref for ref in (fleet.gateway.meta.ref,) if ref in statuses]
    return [ref for ref in statuses if (ref.group, ref.kind) == (GATEWAY_GROUP, "Gateway")]


def _gateway(status: ObjectStatus, message: str) -> ObjectStatus:
    generation = max((each.generation for each in status.conditions), default=0)
    failed = Condition(PROGRAMMED, "False", INVALID, message, generation)
    return replace(status, conditions=tuple(failed if each.type == PROGRAMMED else each for each in status.conditions))


def _routes(fleet: Fleet, told: Iterable[Refusal]) -> dict[ObjectRef, list[str]]:
    """The routes that send requests to a refused cluster."""
    clusters = {each.name: str(each) for each in told if each.type_url == CDS}
    found: dict[ObjectRef, list[str]] = defaultdict(list)
    if not clusters:
        return found
    routes = (route for port in fleet.ports for chain in port.chains for host in chain.hosts for route in host.routes)
    for route in routes:
        if isinstance(route.action, Forward):
            namespace, name, *_ = route.name.split("/")
            ref = ObjectRef(GATEWAY_GROUP, "GRPCRoute" if route.grpc else "HTTPRoute", namespace, name)
            used = {share.backend.cluster for share in route.action.backends if share.backend}
            found[ref] += [
                clusters[each] for each in sorted(used & clusters.keys()) if clusters[each] not in found[ref]
            ]
    return {ref: errors for ref, errors in found.items() if errors}


def _route(status: ObjectStatus, message: str) -> ObjectStatus:
    def refused(parent: ParentStatus) -> ParentStatus:
        generation = max((each.generation for each in parent.conditions), default=0)
        failed = Condition(PROGRAMMED_ROUTE, "False", REJECTED, message, generation)
        return replace(parent, conditions=(*parent.conditions, failed))

    return replace(status, parents=tuple(map(refused, status.parents)))
