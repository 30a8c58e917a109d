"""AdsSession against the model Envoy, in any order of messages, snapshots, time and reconnects."""

import math
from collections import deque

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.xds_server.model_envoy import ModelEnvoy, content, resource
from xds_server.ads import AdsSession, Timing
from xds_server.facts import Acked, Nacked, Pushed, Response
from xds_server.snapshot import CDS, EDS, LDS, RDS, Snapshot

BAD = st.sampled_from([False] * 7 + [True])
VERSIONS = st.integers(0, 2)


@st.composite
def snapshots(draw: st.DrawFn, *, bad: st.SearchStrategy[bool] = BAD) -> Snapshot:
    """Consistent: routes refer to clusters that exist, listeners to routes that exist."""
    clusters = draw(st.lists(st.sampled_from(["c0", "c1", "c2", "c3"]), unique=True))
    endpoints = draw(st.lists(st.sampled_from(clusters), unique=True)) if clusters else []
    routes = draw(st.lists(st.sampled_from(["r0", "r1", "r2"]), unique=True))
    refs = st.lists(st.sampled_from(clusters), unique=True) if clusters else st.just([])
    listeners = draw(st.lists(st.sampled_from(["l0", "l1"]), unique=True)) if routes else []
    return Snapshot.of(
        clusters=[resource(name, draw(VERSIONS), bad=draw(bad)) for name in clusters],
        endpoints=[resource(name, draw(VERSIONS)) for name in endpoints],
        routes=[resource(name, draw(VERSIONS), bad=draw(bad), refs=draw(refs)) for name in routes],
        listeners=[
            resource(name, draw(VERSIONS), bad=draw(bad), refs=[draw(st.sampled_from(routes))]) for name in listeners
        ],
    )


class Machine(RuleBasedStateMachine):
    """Messages arrive in order in each direction, and otherwise at any time."""

    delta = True
    patience = 1e9  # seconds until a gate opens without its ACK

    @initialize(snapshot=snapshots())
    def start(self, snapshot: Snapshot) -> None:
        self.now = 0.0
        self.envoy = ModelEnvoy(delta=self.delta)
        self.snapshot = snapshot
        self.older: list[Snapshot] = []
        self.refused: dict[tuple[str, str, str], float] = {}  # when
        self.open()

    def open(self) -> None:
        self.session = AdsSession(delta=self.delta, timing=Timing(ack=self.patience, grace=1.0, retry=30.0))
        self.wire: deque[Response] = deque()
        self.tried: dict[tuple[str, str, str], int] = {}
        self.send(self.session.update(self.snapshot, self.now))

    def send(self, responses: list[Response]) -> None:
        for response in responses:
            assert response.type_url not in {flying.type_url for flying in self.wire}, "one in flight per type"
        for fact in self.session.facts():
            if isinstance(fact, Pushed):
                for name, version in fact.resources.items():
                    since = self.refused.get((fact.type_url, name, version), -math.inf)
                    retried = fact.type_url == LDS and self.now >= since + 30.0  # and the port may be free now
                    assert since == -math.inf or retried, "a refused version was sent again"
            if isinstance(fact, Nacked) and (len(fact.resources) == 1 or fact.type_url != RDS):
                self.refused |= {(fact.type_url, name, fact.resources[name]): self.now for name in fact.blamed}
            if isinstance(fact, Acked) and fact.type_url == LDS:  # a removal frees ports, so listeners are tried again
                self.refused = {key: since for key, since in self.refused.items() if key[0] != LDS}
        self.wire.extend(responses)

    @rule(snapshot=snapshots())
    def update(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.send(self.session.update(snapshot, self.now))

    @rule(data=st.data(), url=st.sampled_from([CDS, EDS, RDS]))
    def edit(self, data: st.DataObject, url: str) -> None:
        """One collection is new and the others are the same objects as before, as `translate.advance` leaves them."""
        clusters = sorted(self.snapshot.of_type(CDS))
        refs = st.lists(st.sampled_from(clusters), unique=True) if clusters and url == RDS else st.just([])
        made = {
            name: resource(name, data.draw(VERSIONS), bad=url != EDS and data.draw(BAD), refs=data.draw(refs))
            for name in (sorted(self.snapshot.of_type(RDS)) if url == RDS else clusters)
        }
        self.older = [*self.older[-3:], self.snapshot]
        self.update(Snapshot({**self.snapshot.resources, url: made}))

    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        """A snapshot of before comes back, itself."""
        self.update(data.draw(st.sampled_from([self.snapshot, *self.older])))

    @rule(count=st.integers(1, 4))
    def to_envoy(self, count: int) -> None:
        for _ in range(min(count, len(self.wire))):
            self.envoy.deliver(self.wire.popleft())

    @rule(count=st.integers(1, 4))
    def to_server(self, count: int) -> None:
        for _ in range(min(count, len(self.envoy.outbox))):
            self.send(self.session.receive(self.envoy.outbox.popleft(), self.now))

    @rule(taken=st.sets(st.sampled_from(["l0", "l1"]), max_size=1))
    def ports(self, taken: set[str]) -> None:
        self.envoy.taken = taken

    @rule(seconds=st.sampled_from([0.1, 0.6, 2.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(self.session.tick(self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0]))
    def late(self, seconds: float) -> None:
        """Whatever comes next comes before the timer."""
        self.now += seconds

    @rule(other=snapshots())
    def return_late(self, other: Snapshot) -> None:
        """What is about to go is wanted again, at the moment when it would."""
        before = self.snapshot
        self.settle()
        self.update(other)
        while self.envoy.outbox or self.wire:
            self.to_envoy(1)
            self.to_server(1)
        self.now = max(self.now, self.session.deadline() or 0.0)
        self.update(before)

    @rule()
    def reconnect(self) -> None:
        self.envoy.connect()
        self.refused = {}
        self.open()

    @rule()
    def settle(self) -> None:
        until = self.now + 60.0  # whatever was refused is tried again, and what that frees is removed
        for _ in range(1000):
            if self.envoy.outbox:
                self.send(self.session.receive(self.envoy.outbox.popleft(), self.now))
            elif self.wire:
                self.envoy.deliver(self.wire.popleft())
            elif (due := self.session.deadline()) is not None and due < until:
                self.now = max(due, self.now)
                self.send(self.session.tick(self.now))
            else:
                break
        else:
            pytest.fail("never settles")
        assert self.envoy.differences(self.snapshot) == []
        assert not self.session.degraded
        states = {found.state for found in self.session.status().types}
        assert "PENDING" not in states

    @rule()
    def reconnect_with_everything(self) -> None:
        self.settle()
        found = [item for kind in self.snapshot.resources.values() for item in kind.items()]
        if self.delta and not any(content(one)["bad"] or name in self.envoy.taken for name, one in found):
            self.reconnect()
            before = self.envoy.received
            self.settle()
            assert self.envoy.received == before, "content versions: a reconnect moves nothing"

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.envoy.taken = set()
            self.settle()


class SotwMachine(Machine):
    delta = False


class OverdueMachine(Machine):
    """Gates open before their ACK: requests may fail then, and versions be sent again, but all comes right in the end."""

    patience = 0.5

    @initialize(snapshot=snapshots())
    def start(self, snapshot: Snapshot) -> None:
        super().start(snapshot)
        self.envoy.check = lambda: None  # type: ignore[method-assign]

    def send(self, responses: list[Response]) -> None:
        self.session.facts()
        self.wire.extend(responses)


class OverdueSotwMachine(OverdueMachine):
    delta = False


TestDelta = Machine.TestCase
TestSotw = SotwMachine.TestCase
TestDelta.settings = TestSotw.settings = settings(max_examples=100, stateful_step_count=40)
TestOverdue = OverdueMachine.TestCase
TestOverdueSotw = OverdueSotwMachine.TestCase
TestOverdue.settings = TestOverdueSotw.settings = settings(max_examples=40, stateful_step_count=40)
