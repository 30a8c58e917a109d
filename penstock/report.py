"""What the gateway says of itself to people: problems as log lines, /status as data."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from observability import catalogue
from observability.record import short_type
from observability.registry import Sample
from xds_server import status
from xds_server.facts import Nacked, NodeStatus
from xds_server.model.graph import Graph
from xds_server.model.objects import Problem
from xds_server.snapshot import Snapshot

if TYPE_CHECKING:
    from penstock.run import Gateway

log = logging.getLogger("penstock")
_NOTHING = Snapshot()


class Report:
    """One per gateway."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._told: frozenset[Problem] = frozenset()
        gateway.watch(self._observe)

    def changed(self, graph: Graph) -> None:
        """Log each problem once, and once that it is gone."""
        found = frozenset(self.problems(graph))
        for problem in sorted(found - self._told, key=str):
            log.warning("%s", problem)
        for problem in sorted(self._told - found, key=str):
            log.info("no longer: %s", problem)
        self._told = found

    def problems(self, graph: Graph) -> tuple[Problem, ...]:
        return (*graph.problems, *self._gateway.picker.problems)

    def addresses(self) -> str:
        """Where the gateway, Envoy's admin and the telemetry are."""
        settings, graph = self._gateway.settings, self._gateway.graphs.value
        plane = settings.plane(self._gateway.folder)
        sockets = [plane.socket(port.number) for port in graph.ports] if graph else []
        listeners = ", ".join(f"{host}:{port}" for host, port in sockets) or "no listener yet"
        admin = (
            f", Envoy's admin http://{settings.proxy.admin}" if settings.proxy.start and settings.proxy.admin else ""
        )
        telemetry = f", telemetry http://{settings.telemetry}/metrics and /status" if settings.telemetry else ""
        return f"gateway {listeners}{admin}{telemetry}"

    def status(self) -> dict[str, Any]:
        """What /status serves: objects and their conditions, problems, the proxies and what they refused, the pools."""
        graph = self._gateway.graphs.value
        if graph is None:
            return {"ready": False, "objects": [], "problems": [], "proxies": [], "pools": {}}
        return {
            "ready": True,
            "objects": status.render(graph),
            "problems": [str(problem) for problem in self.problems(graph)],
            "proxies": [_proxy(each) for each in self._proxies()],
            "pools": {name: self._pool(name) for name in graph.pools},
        }

    def samples(self) -> Iterator[Sample]:
        graph, snapshots = self._gateway.graphs.value, self._gateway.snapshots.value
        if graph is not None:
            kinds = Counter(problem.ref.kind if problem.ref else "unreadable" for problem in self.problems(graph))
            for kind, count in sorted(kinds.items()):
                yield Sample(catalogue.OBJECTS_INVALID, {"kind": kind}, count)
        for url, found in (snapshots or {}).get("", _NOTHING).resources.items():
            yield Sample(catalogue.XDS_RESOURCES, {"type": short_type(url)}, len(found))

    def _observe(self, fact: object) -> None:
        if isinstance(fact, Nacked):
            who = ", ".join(fact.blamed) or "a resource"
            log.error("proxy %s refused %s (%s): %s", fact.node.id, who, short_type(fact.type_url), fact.error)

    def _proxies(self) -> list[NodeStatus]:
        server = self._gateway.fleet
        return list(server.fleet) if server is not None else []

    def _pool(self, name: str) -> dict[str, Any]:
        now = time.monotonic()
        loads = self._gateway.signals.loads(name)
        return {
            "saturation": self._gateway.picker.saturation(name, now),
            "endpoints": {
                endpoint: {
                    "inflight": load.inflight,
                    "waiting": load.waiting,
                    "running": load.running,
                    "kv_usage": load.kv_usage,
                    "loras": sorted(load.loras),
                    "scrape_age_seconds": now - load.scraped if load.scraped > 0 else None,
                    "scrape_errors": load.errors,
                }
                for endpoint, load in sorted(loads.items())
            },
        }


def _proxy(found: NodeStatus) -> dict[str, Any]:
    return {
        "node": found.node.id,
        "fleet": found.node.cluster,
        "user_agent": found.node.user_agent,
        "degraded": found.degraded,
        "types": {
            short_type(each.type_url): {
                "state": each.state,
                "version": each.version,
                "resources": each.resources,
                "errors": dict(each.errors),
            }
            for each in found.types
        },
    }
