"""A model of Envoy as an xDS client: subscriptions, warming, NACKs, and the invariant that a request would notice.

Clusters warm until their endpoints come and hold the CDS answer back meanwhile; listeners warm until their routes come; routes do
not warm. A refused cluster or listener keeps its version, and the rest of the response counts, removals too, in either variant.
Source: Envoy `xds_protocol.rst`, and what Envoy 1.40 was seen to do. Resources are JSON: {"v", "bad", "refs"}.
"""

import json
from collections import deque
from collections.abc import Iterable
from typing import Any

from xds_server.ads import AdsSession
from xds_server.facts import Node, Request, Response
from xds_server.snapshot import CDS, EDS, LDS, RDS, Resource, Snapshot


def resource(name: str, version: int = 0, *, bad: bool = False, refs: Iterable[str] = ()) -> Resource:
    return Resource.of(name, json.dumps({"n": name, "v": version, "bad": bad, "refs": sorted(refs)}).encode())


def content(found: Resource) -> dict[str, Any]:
    try:
        return json.loads(found.body)
    except ValueError:  # the empty assignment that the session makes itself
        return {"bad": False, "refs": []}


class ModelEnvoy:
    """`outbox` has the requests it wants to send; `deliver` gives it a response."""

    def __init__(self, *, delta: bool) -> None:
        self.delta = delta
        self.outbox: deque[Request] = deque()
        self.clusters: dict[str, str] = {}  # active: name -> version
        self.warming: dict[str, str] = {}
        self.endpoints: dict[str, str] = {}
        self.listeners: dict[str, tuple[str, str]] = {}  # active: name -> (version, route)
        self.warming_listeners: dict[str, tuple[str, str]] = {}
        self.routes: dict[str, tuple[str, frozenset[str]]] = {}
        self.refused_clusters: set[str] = set()  # and the server has no older version that it could send again
        self.ever_refused: set[str] = set()  # the server remembers the version: it sends it no second time
        self.excused: dict[str, frozenset[str]] = {}  # route -> clusters that were refused when it came
        self.taken: set[str] = set()  # listeners whose port another program has
        self.refusals = 0
        self.received = 0
        self.connect()

    def connect(self) -> None:
        """A new stream: everything is asked for again, in Envoy's order; delta says what it has."""
        self.outbox.clear()
        self.withheld: Request | None = None
        self.nonces: dict[str, str] = {}
        # SotW cannot say what it has, so the server cannot protect the routes of before until they are replaced, nor a cluster of
        # before whose new version is refused: every response is the whole state, and it knows no version to put in there.
        self.blind = set() if self.delta else set(self.routes)
        self.foreign = set() if self.delta else {*self.clusters, *self.warming}
        self.asked = {EDS: sorted({*self.clusters, *self.warming}), RDS: sorted(self._wanted_routes())}
        held = {
            CDS: {**self.clusters, **self.warming},
            EDS: {name: version for name, version in self.endpoints.items() if name not in self.warming},
            LDS: {name: version for name, (version, _) in {**self.listeners, **self.warming_listeners}.items()},
            RDS: {name: version for name, (version, _) in self.routes.items()},
        }
        for number, url in enumerate((CDS, EDS, LDS, RDS)):
            names = tuple(self.asked.get(url, ()))
            if url in (EDS, RDS) and not names:
                continue
            node = Node("model", "c") if number == 0 else None
            if self.delta:
                self.outbox.append(Request(url, node=node, subscribe=names, initial=held[url]))
            else:
                self.outbox.append(Request(url, node=node, names=names))

    def deliver(self, response: Response) -> None:
        self.received += len(response.resources)
        self.nonces[response.type_url] = response.nonce
        names = [found.name for found in response.resources]
        assert len(names) == len(set(names)), "a duplicate name is a NACK"
        handle = {CDS: self._cds, EDS: self._eds, LDS: self._lds, RDS: self._rds}[response.type_url]
        handle(response)
        self.check()

    def check(self) -> None:
        """What a request would notice: an active route to a cluster that is not active.

        Nobody can make a cluster before its route if Envoy refuses the only version that the server knows: that alone is excused.
        """
        for route in {route for _, route in self.listeners.values()} - self.blind:
            for cluster in self.routes.get(route, ("", frozenset()))[1]:
                assert cluster in self.clusters or cluster in self.excused[route], f"{route} -> {cluster}: 503"

    def _answer(self, response: Response, error: str | None) -> Request:
        self.refusals += error is not None
        names = () if self.delta else tuple(self.asked.get(response.type_url, ()))
        return Request(response.type_url, nonce=response.nonce, error=error, names=names)

    def _gone(self, response: Response, held: Iterable[str]) -> set[str]:
        if self.delta:
            return set(response.removed)
        return set(held) - {found.name for found in response.resources}

    def _cds(self, response: Response) -> None:
        for name in self._gone(response, {**self.clusters, **self.warming}):
            for kept in (self.clusters, self.warming, self.endpoints):
                kept.pop(name, None)
            self.refused_clusters |= {name} & self.ever_refused
        errors = []
        for found in response.resources:
            if content(found)["bad"]:
                errors.append(f"{found.name}: is bad")
                self.ever_refused.add(found.name)
                if found.name in self.foreign or found.name not in {**self.clusters, **self.warming}:
                    self.refused_clusters.add(found.name)
                continue
            self.foreign.discard(found.name)
            if self.warming.get(found.name, self.clusters.get(found.name)) != found.version:
                self.warming[found.name] = found.version
        error = f"Error adding/updating cluster(s) {', '.join(errors)}" if errors else None
        self.withheld = self._answer(response, error)
        self._resubscribe(EDS, {*self.clusters, *self.warming})
        self._release()

    def _release(self) -> None:
        if self.withheld is not None and not self.warming:
            self.outbox.append(self.withheld)
            self.withheld = None

    def _eds(self, response: Response) -> None:
        self.outbox.append(self._answer(response, None))
        for found in response.resources:
            if found.name in self.asked[EDS]:
                self.endpoints[found.name] = found.version
            if found.name in self.warming:
                self.clusters[found.name] = self.warming.pop(found.name)
                self.refused_clusters.discard(
                    found.name
                )  # not before: a route of the refused version may still be on its way
        self._release()

    def _lds(self, response: Response) -> None:
        for name in self._gone(response, {**self.listeners, **self.warming_listeners}):
            self.listeners.pop(name, None)
            self.warming_listeners.pop(name, None)
        errors = []
        for found in response.resources:
            taken = found.name in self.taken and found.name not in {**self.listeners, **self.warming_listeners}
            if content(found)["bad"] or taken:
                errors.append(f"{found.name}: {'cannot bind' if taken else 'is bad'}")
                continue
            self.warming_listeners[found.name] = (found.version, content(found)["refs"][0])
        error = "Error adding/updating listener(s) " + "\n".join(errors) if errors else None
        self.outbox.append(self._answer(response, error))
        self._listen()

    def _listen(self) -> None:
        for name, (version, route) in list(self.warming_listeners.items()):
            if route in self.routes:
                self.listeners[name] = (version, route)
                del self.warming_listeners[name]
        wanted = self._wanted_routes()
        self.routes = {name: route for name, route in self.routes.items() if name in wanted}
        self._resubscribe(RDS, wanted)

    def _wanted_routes(self) -> set[str]:
        return {route for _, route in (*self.listeners.values(), *self.warming_listeners.values())}

    def _rds(self, response: Response) -> None:
        error = None
        for found in response.resources:
            if content(found)["bad"]:
                error = "missing ]: ["  # names no route, and what came before it is in use
                break
            if found.name in self.asked[RDS]:
                self.blind.discard(found.name)
                self.routes[found.name] = (found.version, frozenset(content(found)["refs"]))
                self.excused[found.name] = self.routes[found.name][1] & self.refused_clusters
        self.outbox.append(self._answer(response, error))
        self._listen()

    def _resubscribe(self, url: str, names: set[str]) -> None:
        before = set(self.asked[url])
        self.asked[url] = sorted(names)
        if names == before:
            return
        if self.delta:
            added, dropped = tuple(sorted(names - before)), tuple(sorted(before - names))
            self.outbox.append(Request(url, subscribe=added, unsubscribe=dropped))
        else:
            self.outbox.append(Request(url, nonce=self.nonces.get(url, ""), names=tuple(sorted(names))))

    def differences(self, snapshot: Snapshot) -> list[str]:
        """Where it does not hold exactly the snapshot, apart from what it refused."""
        held = {
            CDS: self.clusters,
            LDS: {name: version for name, (version, _) in self.listeners.items()},
            RDS: {name: version for name, (version, _) in self.routes.items()},
        }
        found = [f"warming: {self.warming} {self.warming_listeners}"] if self.warming or self.withheld else []
        for url, versions in held.items():
            wanted = snapshot.of_type(url)
            for name, version in versions.items():
                if name not in wanted and not self._keeps(snapshot):
                    found.append(f"stale {url} {name} {version}")
            for name, one in wanted.items():
                if url == RDS and name not in self.routes:
                    continue
                if content(one)["bad"] or (url == LDS and name in self.taken and name not in versions):
                    if versions.get(name) == one.version:
                        found.append(f"bad {url} {name}")
                elif versions.get(name) != one.version and not self._waits(snapshot, url, one):
                    found.append(f"missing {url} {name}")
        for name, one in snapshot.of_type(EDS).items():
            if name in self.clusters and self.endpoints.get(name) != one.version:
                found.append(f"missing endpoints {name}")
        return found

    def _keeps(self, snapshot: Snapshot) -> bool:
        """While it refuses routes or listeners, what they may still use is not taken away."""
        return bool(self.taken & snapshot.of_type(LDS).keys()) or any(
            content(one)["bad"] for url in (LDS, RDS) for one in snapshot.of_type(url).values()
        )

    @staticmethod
    def _waits(snapshot: Snapshot, url: str, one: Resource) -> bool:
        """A listener whose routes are refused."""
        return url == LDS and content(snapshot.of_type(RDS)[content(one)["refs"][0]])["bad"]


ANY = Node("n", "c")


class Peer:
    """A hand-driven client: `ack` and `nack` answer the newest response of a type."""

    def __init__(self, *, delta: bool = True) -> None:
        self.session = AdsSession(delta=delta)
        self.now = 0.0
        self.last: dict[str, Response] = {}
        self.names: dict[str, tuple[str, ...]] = {}

    def took(self, responses: list[Response]) -> list[tuple[str, list[str], list[str]]]:
        self.last.update({response.type_url: response for response in responses})
        return [(r.type_url, [found.name for found in r.resources], list(r.removed)) for r in responses]

    def update(self, snapshot: Snapshot) -> list[tuple[str, list[str], list[str]]]:
        return self.took(self.session.update(snapshot, self.now))

    def ask(self, url: str, *names: str, **more: object) -> list[tuple[str, list[str], list[str]]]:
        self.names[url] = names
        key = "subscribe" if self.session.delta else "names"
        return self.took(self.session.receive(Request(url, node=ANY, **{key: names, **more}), self.now))  # type: ignore[arg-type]

    def ack(self, url: str, error: str | None = None) -> list[tuple[str, list[str], list[str]]]:
        names = () if self.session.delta else self.names.get(url, ())
        return self.took(self.session.receive(Request(url, self.last[url].nonce, error, names=names), self.now))

    def wait(self, seconds: float) -> list[tuple[str, list[str], list[str]]]:
        self.now += seconds
        return self.took(self.session.tick(self.now))


def one(cluster: str, *, endpoints: int = 0) -> Snapshot:
    return Snapshot.of(
        clusters=[resource(cluster)],
        endpoints=[resource(cluster, endpoints)],
        listeners=[resource("l", refs=["r"])],
        routes=[resource("r", refs=[cluster])],
    )
