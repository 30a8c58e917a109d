"""What the gateway says of itself to people: problems as log lines, /status as data."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

from observability import catalogue
from observability.fleet import short_type
from observability.hub import Hub
from observability.registry import Sample
from penstock.topology import topology
from picker import ranks
from picker.picker import Picker
from picker.precise import Feed
from picker.served import Served
from picker.signals import Signals
from xds_server import status
from xds_server.facts import Nacked, NodeStatus, ReconcileFailed
from xds_server.kubernetes.facts import (
    KindsChanged,
    LeadershipChanged,
    LeaseFailed,
    Provisioned,
    ProvisionFailed,
    StatusFailed,
    WatchFailed,
)
from xds_server.latest import Latest
from xds_server.model.graph import Graph
from xds_server.model.objects import Problem
from xds_server.server import Fleets

log = logging.getLogger("penstock")
_NAMED = 20  # models of an endpoint
_LOCATED = (
    50  # problems that get the line of their field: finding it reads the file again, which must not hold the loop
)


class Report:
    """One per gateway; reads what the parts publish, owns nothing but what it has told."""

    def __init__(
        self,
        graphs: Latest[Graph],
        snapshots: Latest[Fleets],
        picker: Picker,
        signals: Signals,
        locate: Callable[[Problem], Problem] = lambda problem: problem,
    ) -> None:
        """`locate` finds the line of a problem's field."""
        self.note: Callable[[str], str] = lambda _: ""  # of a pool: why its KV events cannot be read; "" if they can
        self.proxies: Iterable[NodeStatus] = ()  # the live ones; the ADS server sets its own view
        self._graphs = graphs
        self._snapshots = snapshots
        self._picker = picker
        self._signals = signals
        self._locate = locate
        self._located: dict[Problem, Problem] = {}
        self._told: frozenset[Problem] = frozenset()
        self._drawn: tuple[Graph | None, dict[str, Any]] = None, topology(Graph())
        self._started = time.time()
        self.version = version("penstock")  # reads a file: once

    def changed(self, graph: Graph) -> None:
        """Log each problem once, and once that it is gone."""
        named = (*graph.problems, *self._picker.problems)
        self._located = {problem: self._locate(problem) for problem in named[:_LOCATED]}
        found = frozenset(self.problems(graph))
        for problem in sorted(found - self._told, key=str):
            log.warning("%s", problem)
        for problem in sorted(self._told - found, key=str):
            log.info("no longer: %s", problem)
        self._told = found

    def problems(self, graph: Graph) -> tuple[Problem, ...]:
        return tuple(self._located.get(problem, problem) for problem in (*graph.problems, *self._picker.problems))

    def status(self) -> dict[str, Any]:
        """What /status serves: objects and their conditions, problems, the proxies and what they refused, the pools."""
        graph = self._graphs.value
        return {**self._present(graph), "objects": status.render(graph) if graph else []}

    def view(self) -> dict[str, Any]:
        """What the console shows beside the metrics: `status` without the objects, and who leads where."""
        graph = self._graphs.value
        if graph is not None and graph is not self._drawn[0]:
            self._drawn = graph, topology(graph)
        known = {"version": self.version, "started": self._started, "topology": self._drawn[1]}
        return {**self._present(graph), **known}

    def _present(self, graph: Graph | None) -> dict[str, Any]:
        if graph is None:
            return {"ready": False, "problems": [], "proxies": [], "pools": {}}
        return {
            "ready": True,
            "problems": [str(problem) for problem in self.problems(graph)],
            "proxies": [_proxy(each) for each in self.proxies],
            "pools": {name: self._pool(name) for name in graph.pools},
        }

    def samples(self) -> Iterator[Sample]:
        graph, snapshots = self._graphs.value, self._snapshots.value
        if graph is not None:
            kinds = Counter(problem.ref.kind if problem.ref else "unreadable" for problem in self.problems(graph))
            for kind, count in sorted(kinds.items()):
                yield Sample(catalogue.OBJECTS_INVALID, {"kind": kind}, count)
        yield from self._clients()
        sizes: Counter[str] = Counter()  # of all fleets
        for snapshot in (snapshots or {}).values():
            sizes.update({url: len(found) for url, found in snapshot.resources.items()})
        for url, size in sizes.items():
            yield Sample(catalogue.XDS_RESOURCES, {"type": short_type(url)}, size)

    def _clients(self) -> Iterator[Sample]:
        states = Counter(_state(each) for each in self.proxies)
        for state in catalogue.CLIENT_STATE.values:
            yield Sample(catalogue.XDS_CLIENTS, {"state": state}, states[state])

    def _pool(self, name: str) -> dict[str, Any]:
        now = time.monotonic()
        loads = self._signals.loads(name)
        profile, known = self._picker.profile(name), self._picker.precise(name)
        served = self._signals.served
        feeds = known[1].feeds if known else {}
        return {
            "saturation": self._picker.saturation(name, now),
            "queued": sum(requests for requests, _ in self._picker.queued(name).values()),
            # what of its EndpointPickerConfig is done in another way, and why KV events are of no use
            "notes": [
                *(profile.notes if profile else ()),
                *filter(None, [self.note(name), ranks.note(loads, self._signals.several), served.note(loads)]),
            ],
            "endpoints": {
                endpoint: {
                    "inflight": load.inflight,
                    "waiting": load.waiting,
                    "running": load.running,
                    "kv_usage": load.kv_usage,
                    "loras": sorted(load.loras),
                    **_models(served, endpoint, now),
                    "scrape_age_seconds": now - load.scraped if load.scraped > 0 else None,
                    "scrape_errors": load.errors,
                    **({"prefixes": _feed(feeds.get(endpoint, Feed()))} if known else {}),
                }
                for endpoint, load in sorted(loads.items())
            },
        }


def log_facts(hub: Hub) -> None:
    """A line for each fact that an operator wants to read."""
    hub.on(Nacked, _refused)
    hub.on(
        ReconcileFailed,
        lambda fact: log.error("our mistake; what was published before stays in effect: %s", fact.traceback),
    )
    hub.on(
        WatchFailed,
        lambda fact: log.warning("%s is not watched, again in %.1f s: %s", fact.resource, fact.delay, fact.message),
    )
    hub.on(
        StatusFailed, lambda fact: log.warning("status of %s, again in %.1f s: %s", fact.ref, fact.delay, fact.message)
    )
    hub.on(
        ProvisionFailed,
        lambda fact: log.error("Envoys of Gateway %s, again in %.1f s: %s", fact.fleet, fact.delay, fact.message),
    )
    hub.on(Provisioned, lambda fact: log.info("Envoys of Gateway %s are as they should be", fact.fleet))
    hub.on(
        LeadershipChanged,
        lambda fact: log.info("%s Lease %s", "we hold" if fact.leading else "we have lost", fact.lease),
    )
    hub.on(LeaseFailed, lambda fact: log.warning("Lease %s: %s", fact.lease, fact.message))
    hub.on(KindsChanged, lambda fact: log.info("watching %s", ", ".join(fact.served)))


def _refused(fact: Nacked) -> None:
    who = ", ".join(fact.blamed) or "a resource"
    log.error("proxy %s refused %s (%s): %s", fact.node.id, who, short_type(fact.type_url), fact.error)


def _state(found: NodeStatus) -> str:
    """The worst that is true of it."""
    states = {each.state for each in found.types}
    if "NACKED" in states:
        return "rejecting"
    return "degraded" if found.degraded else "pending" if "PENDING" in states else "synced"


def _models(served: Served, endpoint: str, now: float) -> dict[str, Any]:
    """How many models it lists, and which where they are few; null where it does not say."""
    found = served.has(endpoint)
    return {
        "models": None if found is None else len(found),
        "model_names": sorted(found) if found and len(found) <= _NAMED else [],
        "models_age_seconds": served.age(endpoint, now),
    }


def _feed(found: Feed) -> dict[str, Any]:
    """What is known of an endpoint's cache, and by what."""
    return {
        "mode": found.mode,
        "trust": found.trust,
        "events": found.events,
        "gaps": found.gaps,
        "malformed": found.malformed,
    }


def _proxy(found: NodeStatus) -> dict[str, Any]:
    return {
        "node": found.node.id,
        "fleet": found.fleet,
        "user_agent": found.node.user_agent,
        "state": _state(found),
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
