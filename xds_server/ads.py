"""AdsSession: the ADS stream of one Envoy, state of the world or delta, without a network, a clock or a log.

Make before break: a snapshot flows through CDS, LDS and RDS; each stage sends the newest snapshot that the stage before it has
had acknowledged, and what no stage needs any more is removed last. Envoy withholds the CDS ACK while a cluster warms, and does
not warm routes, so order alone is not enough (measured: 290 failed requests where the ACK gate has none). Endpoints and secrets
wait for nothing. Source: Envoy `docs/root/api-docs/xds_protocol.rst`, "Eventual consistency considerations" and "ACK and NACK
semantics". Cases: tests/xds_server/test_ads.py, and test_ads_machine.py against model_envoy.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xds_server.blame import blame
from xds_server.facts import (
    Acked,
    Fact,
    Nacked,
    Node,
    NodeStatus,
    Overdue,
    Pushed,
    Request,
    Response,
    State,
    TypeStatus,
)
from xds_server.snapshot import CDS, EDS, LDS, RDS, SDS, Resource, Snapshot, empty_assignment
from xds_server.subscription import Flight, TypeState

GATED = (CDS, LDS, RDS)  # each waits for the ACK of the one before
FULL_STATE = (CDS, LDS)  # in SotW a resource that is absent from these is deleted
LATE = 16  # responses that nobody waits for any more, and whose refusal is still heard
REMOVALS = (LDS, RDS, CDS, EDS, SDS)  # a resource goes after whatever may refer to it


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds."""

    ack: float = 15.0  # a gate waits this long; one stuck cluster would otherwise hold every later change for ever
    grace: float = 1.0  # between the ACK of the last user and the removal: requests that wait in a filter, or retry
    retry: float = 30.0  # after this a refused listener is sent once more: another program may have given back its port


class AdsSession:
    """Feed it requests, snapshots and time; each returns the responses to send. Facts and status are read off it.

    `now` is any monotonic number of seconds. At most one response of a type is unanswered; a newer snapshot replaces what has
    not been sent. A version that Envoy refused is not sent again on this stream, but
    - when the refusal may have been about another resource of the response (RDS errors name none), each is tried once more alone;
    - a listener is tried again after `Timing.retry`, and when another is gone: its port may be free now.
    """

    def __init__(self, *, delta: bool, timing: Timing = Timing()) -> None:
        self.delta = delta
        self.timing = timing
        self.node = Node()
        self._named = False
        self._target: Snapshot | None = None
        self._types = {url: TypeState(url) for url in (CDS, EDS, SDS, LDS, RDS)}
        self._facts: list[Fact] = []

    def receive(self, request: Request, now: float) -> list[Response]:
        """One request. The node of the first is the node of the stream; later ones are ignored."""
        if not self._named:
            self.node, self._named = request.node or self.node, True
        kind = self._types.setdefault(request.type_url, TypeState(request.type_url))
        late = kind.late.pop(request.nonce, None)
        if late is not None and request.error is not None:
            self._nacked(kind, late, request.error, now)
        if kind.flight is not None and request.nonce == kind.flight.nonce:
            kind.late.clear()  # answers come in the order of the responses
            if request.error is None:
                self._acked(kind, kind.flight, now)
            else:
                self._nacked(kind, kind.flight, request.error, now)
        self._subscribe(kind, request)
        if not self.delta and request.nonce and request.nonce != str(kind.serial):
            return []  # what it asks for is answered once the newest response is
        return self._advance(now)

    def update(self, snapshot: Snapshot, now: float) -> list[Response]:
        """A newer snapshot."""
        self._target = snapshot
        return self._advance(now)

    def tick(self, now: float) -> list[Response]:
        """Time has passed; due at `deadline`."""
        for kind in self._types.values():
            flight = kind.flight
            if flight is not None and not flight.overdue and now >= flight.since + self.timing.ack:
                flight.overdue = True
                kind.checked = ()
                self._facts.append(Overdue(self.node, kind.url, now - flight.since))
        if (retry := self._retry()) is not None and now >= retry:
            self._types[LDS].refused.forget(now, self.timing.retry)
            self._types[LDS].checked = ()
        return self._advance(now)

    def deadline(self) -> float | None:
        """When `tick` has something to do; None for never."""
        due = [kind.flight.since + self.timing.ack for kind in self._types.values() if kind.flight and kind.waiting]
        idle = (kind.retired.values() for kind in self._types.values() if kind.retired and not kind.waiting)
        due += [min(since) + self.timing.grace for since in idle]
        due += [retry for retry in (self._retry(),) if retry is not None]
        return min(due, default=None)

    def _retry(self) -> float | None:
        """When a refusal of a listener ends: not before it can be sent again, since until then Envoy has what it had."""
        since = None if self._types[LDS].waiting else self._types[LDS].refused.oldest()
        return None if since is None else since + self.timing.retry

    def facts(self) -> list[Fact]:
        """What happened since the last call."""
        found, self._facts = self._facts, []
        return found

    @property
    def degraded(self) -> bool:
        return any(kind.flight is not None and kind.flight.overdue for kind in self._types.values())

    def status(self) -> NodeStatus:
        target = self._target or Snapshot()
        types = []
        for kind in self._types.values():
            if not kind.seen:
                continue
            errors = kind.refused.errors(target.of_type(kind.url))
            behind = kind.flight is not None or (kind.url in GATED and kind.done is not self._target)
            state: State = "PENDING" if behind else "NACKED" if errors else "ACKED"
            types.append(TypeStatus(kind.url, state, kind.acked, len(kind.sent), errors))
        return NodeStatus(self.node, self.delta, self.degraded, tuple(types))

    # What the client says.

    def _subscribe(self, kind: TypeState, request: Request) -> None:
        change = kind.sub.delta(request.subscribe, request.unsubscribe) if self.delta else kind.sub.sotw(request.names)
        if not kind.seen:
            kind.seen = True
            # What the client held before this stream, without the bytes. A cluster that is being changed needs its endpoints anew.
            clusters = self._types[CDS].flight if kind.url == EDS else None
            again = clusters.added if clusters else {}
            kind.sent = {n: Resource.unknown(n, version) for n, version in request.initial.items() if n not in again}
            kind.asked = set(change.asked) - set(kind.sent)
            kind.opened = change.opened and not request.initial
            kind.done = None
            for other in self._types.values():
                other.retired.clear()  # nobody knew what this type may still refer to
        else:
            for name in change.forgotten:
                kind.sent.pop(name, None)
            kind.asked |= change.asked
            kind.opened |= change.opened
        if change.narrowed:
            kind.sent = {name: resource for name, resource in kind.sent.items() if kind.sub.covers(name)}
        kind.asked = {name for name in kind.asked if kind.sub.covers(name) or name in change.asked}
        if change != type(change)() or request.initial:
            kind.checked = ()

    def _acked(self, kind: TypeState, flight: Flight, now: float) -> None:
        kind.flight, kind.acked = None, flight.version
        kind.suspects.difference_update(flight.added)
        self._completed(kind, flight)
        self._retire(now)  # under a stream of snapshots there may be no other moment with nothing in flight
        if kind.url == LDS and flight.removed:
            kind.refused.forget(now)  # the refusal may have been about a port that is free now
            kind.checked = ()
        self._facts.append(Acked(self.node, kind.url, flight.version, flight.versions, now - flight.since))

    def _nacked(self, kind: TypeState, flight: Flight, error: str, now: float) -> None:
        """A refused name keeps the version it had.

        An error that names resources (CDS, LDS) is about these alone: the others are in use, what was removed is gone. One that
        names none may have come before, after or in the middle of the response: what Envoy holds of it is unknown.
        """
        late = flight is not kind.flight
        if not late:
            kind.flight = None
        kind.checked = ()
        whole = not self.delta and kind.url in FULL_STATE  # every response says all: `sent` has what can be sent again
        # A response that says all may be refused for what one before it added, and is not answered yet.
        known = sorted({*flight.added, *kind.sent, *kind.doubtful}) if whole else tuple(flight.added)
        named = blame(kind.url, error, known)
        certain = bool(named) or len(flight.added) == 1
        blamed = tuple(name for name in named or flight.added if name in flight.added)
        for name in blamed:
            resource, prior = flight.added[name], flight.prior[name]
            if kind.sent.get(name) is resource:
                if not certain and not whole:
                    kind.sent[name] = Resource.unknown(name)
                elif prior is not None:
                    kind.sent[name] = prior
                else:
                    del kind.sent[name]
                    kind.doubtful.add(name)
            if certain:
                kind.refused.add(resource, error, now)
                kind.asked.discard(name)
        if not named and whole:
            kind.doubtful.update(flight.removed)
        elif not named:
            kind.sent.update(
                (name, Resource.unknown(name)) for name in flight.removed if flight.prior[name] is not None
            )
        if certain:
            kind.suspects -= flight.added.keys()
            if not late:
                self._completed(kind, flight)
        else:
            kind.suspects |= set(blamed)
        seconds = now - flight.since
        self._facts.append(Nacked(self.node, kind.url, flight.version, flight.versions, error, blamed, seconds))

    @staticmethod
    def _completed(kind: TypeState, flight: Flight) -> None:
        """Open the gate for this snapshot, though a newer one may follow at once: busy clusters must not starve routes."""
        if flight.completes is not None and flight.completes is kind.view:
            kind.done = flight.completes

    # What to send.

    def _advance(self, now: float) -> list[Response]:
        if self._target is None:
            return []
        for kind in self._types.values():
            if kind.retired:  # the time of one may have come, and only now it is heard that it is wanted again
                self._spare(kind, self._needed())
        out = list(self._stages(self._target, now))
        while self._retire(now) and (more := list(self._stages(self._target, now))):
            out += more
        return out

    def _stages(self, target: Snapshot, now: float) -> Iterator[Response]:
        admitted: Snapshot | None = target
        for url, kind in self._types.items():
            if url in GATED:
                yield from self._stage(kind, admitted, now)
                admitted = kind.done
            else:
                yield from self._stage(kind, target, now)

    def _stage(self, kind: TypeState, view: Snapshot | None, now: float) -> Iterator[Response]:
        if view is None or kind.waiting:
            return
        if not kind.seen:
            kind.view = kind.done = view
            return
        added, absent = self._missing(kind, view)
        removed = [n for n, since in kind.retired.items() if now >= since + self.timing.grace]
        if not self.delta and kind.url not in FULL_STATE:  # SotW has no words for "gone" here
            for name in removed:
                del kind.retired[name], kind.sent[name]
            kind.asked.difference_update(absent)
            removed, absent = [], []
        kind.view = view
        if not self.delta and kind.url in FULL_STATE and not kind.doubtful <= view.of_type(kind.url).keys():
            kind.doubtful &= view.of_type(kind.url).keys()
            kind.opened = True  # only a whole state without the name removes it
        if added or removed or absent or kind.opened:
            yield self._send(kind, view, added, [*removed, *absent], now)
        else:
            kind.done = view

    def _missing(self, kind: TypeState, view: Snapshot) -> tuple[list[Resource], list[str]]:
        """What the client lacks, and the names it asked for that do not exist."""
        target = self._target or view
        wanted = view.of_type(kind.url)
        looked = (wanted, target.of_type(kind.url), target.of_type(CDS))
        if not kind.asked and len(kind.checked) == 3 and all(a is b for a, b in zip(looked, kind.checked, strict=True)):
            return [], []
        added: list[Resource] = []
        sent, asked = kind.sent, set(kind.asked)
        for name in wanted if kind.sub.wildcard else kind.sub.names:  # the only loop over everything: once a snapshot
            resource, held = wanted.get(name) or self._without_endpoints(kind, name), sent.get(name)
            if resource is None:
                continue
            differs = held is not resource and (held is None or held.version != resource.version)
            if differs and resource not in kind.refused:
                added.append(resource)
            if asked:
                kind.asked.discard(name)
        added.sort(key=lambda resource: resource.name)  # names are a set: equal sessions shall send equal bytes
        absent: list[str] = []
        for name in sorted(kind.asked):
            older = [s.of_type(kind.url)[name] for s in self._needed() if name in s.of_type(kind.url)]
            if kind.url in GATED and name in target.of_type(kind.url):
                continue  # it comes when its stage does
            good = [resource for resource in older if resource not in kind.refused]
            if good:
                added.append(good[0])
            elif not older:
                absent.append(name)
        kind.suspects &= {resource.name for resource in added}  # the others are no longer wanted
        innocent = [resource for resource in added if resource.name not in kind.suspects]
        added = innocent or added[:1]
        kind.checked = () if kind.suspects else looked  # what is found here is sent at once
        return added, absent

    def _without_endpoints(self, kind: TypeState, name: str) -> Resource | None:
        """A known cluster gets an empty answer rather than none, or it would warm for ever."""
        if kind.url != EDS:
            return None
        if self._target is not None and name in self._target.of_type(CDS):
            return empty_assignment(name)
        return empty_assignment(name) if name in self._types[CDS].sent and name not in kind.sent else None

    def _send(self, kind: TypeState, view: Snapshot, added: list[Resource], removed: list[str], now: float) -> Response:
        prior = {name: kind.sent.get(name) for name in (*(resource.name for resource in added), *removed)}
        kind.sent.update((resource.name, resource) for resource in added)
        for name in removed:
            kind.sent.pop(name, None)
            kind.retired.pop(name, None)
        kind.asked -= prior.keys()
        kind.opened = False
        kind.serial += 1
        if kind.flight is not None:  # overdue: it may be answered yet
            kind.late = dict([*kind.late.items(), (kind.flight.nonce, kind.flight)][-LATE:])
        version = view.version(kind.url)
        completes = None if kind.suspects else view
        flight = Flight(str(kind.serial), version, {r.name: r for r in added}, prior, tuple(removed), now, completes)
        kind.flight = flight
        if kind.url == CDS:
            self._rewarm(added)
        whole = not self.delta and kind.url in FULL_STATE
        resources = tuple(kind.sent.values()) if whole else tuple(added)
        self._facts.append(Pushed(self.node, kind.url, version, flight.versions, flight.removed))
        return Response(kind.url, flight.nonce, version, resources, flight.removed if self.delta else ())

    def _rewarm(self, clusters: Iterable[Resource]) -> None:
        """A changed cluster warms again and wants its endpoints again, though they did not change (envoy#13009)."""
        endpoints = self._types[EDS]
        for cluster in clusters:
            if endpoints.sent.pop(cluster.name, None) is not None:
                endpoints.asked.add(cluster.name)

    # What to remove.

    def _needed(self) -> list[Snapshot]:
        """Every snapshot that some stage still has to do with, newest first."""
        found: list[Snapshot] = []
        stages = [self._types[url] for url in GATED]
        for snapshot in (self._target, *(s for stage in stages for s in (stage.view, stage.done))):
            if snapshot is not None and not any(snapshot is other for other in found):
                found.append(snapshot)
        return found

    def _spare(self, kind: TypeState, needed: list[Snapshot]) -> list[str]:
        """The obsolete; what is wanted again, or gone already, no longer waits to be removed."""
        obsolete = self._obsolete(kind, needed)
        kind.retired = {name: kind.retired[name] for name in obsolete if name in kind.retired}
        return obsolete

    def _retire(self, now: float) -> bool:
        """Note what has lost its last user; True if something is due to be removed now."""
        needed = self._needed()
        users: list[TypeState] = []
        due = False
        for url in (*REMOVALS, *(url for url in self._types if url not in REMOVALS)):
            kind = self._types[url]
            obsolete = self._spare(kind, needed)
            # A new listener may be refused because the old one still has its port, so LDS does not wait for LDS.
            if obsolete and self._quiet(refusals=url == LDS) and not any(user.excess for user in users):
                for name in obsolete:
                    kind.retired.setdefault(name, now)
            due |= not kind.waiting and any(now >= since + self.timing.grace for since in kind.retired.values())
            if url in GATED:
                users.append(kind)
        return due

    def _obsolete(self, kind: TypeState, needed: list[Snapshot]) -> list[str]:
        """What the client has and nobody needs; endpoints are needed as long as the client has their cluster."""
        users = [snapshot.of_type(kind.url) for snapshot in needed]
        if kind.url == EDS:
            users += [*(snapshot.of_type(CDS) for snapshot in needed), self._types[CDS].sent]
        if kind.sent.keys() <= users[0].keys():  # the usual case, at the speed of C
            return []
        return sorted(set(kind.sent).difference(*users))

    def _quiet(self, *, refusals: bool) -> bool:
        """Envoy uses the listeners and routes of one snapshot, apart from `excess`: what they refer to is known.

        Before an answer, or with one refused, it may use any version of before, and so clusters of any snapshot of before.
        """
        listeners, routes = self._types[LDS], self._types[RDS]
        if listeners.view is None or routes.view is None or listeners.view.version(LDS) != routes.view.version(LDS):
            return False
        for kind, view in ((listeners, listeners.view), (routes, routes.view)):
            if kind.done is not view or (kind.seen and (kind.flight or kind.suspects)):
                return False
            if (kind is routes or not refusals) and kind.refused.errors(view.of_type(kind.url)):
                return False
        if not routes.seen and listeners.sent and routes.view.of_type(RDS):
            return False  # a client that came back has listeners: its routes are of whatever snapshot, until it asks
        return listeners.seen or not self._types[CDS].sub.wildcard
