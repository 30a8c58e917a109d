"""Exactly one Outcome per request, and the right one, in whatever order the picker's word and Envoy's log come.

They come over two connections, so that either may overtake the other; and Envoy knows little of a client that leaves during the pick.
"""

from collections import deque
from dataclasses import replace

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from picker.ask import denied
from picker.facts import Decision, Outcome, Reason, Refused
from picker.inflight import TIMEOUT, LogEntry
from picker.load import Load
from picker.picker import Ask
from picker.request import InferenceRequest
from picker.signals import Signals
from tests.picker.test_inflight import decision, ended
from xds_server.model.graph import Endpoint

POOL = "ns/pool"
A, B = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
ENDPOINTS = st.sampled_from((A, B))
CLUSTERS = st.sampled_from(("", f"pool/{POOL}"))  # of a client that left: Envoy names none before it routes

Fact = Decision | Outcome | LogEntry


class Machine(RuleBasedStateMachine):
    """Each request is a story: what is told of it, one after the other. All stories are told at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.number = 0
        self.signals = Signals()
        self.signals.update({POOL: (A, B)})
        self.stories: dict[str, deque[Fact]] = {}  # by x-request-id: what is still to be told
        self.overtaken: set[str] = set()  # their log came before the picker's word, since the last sweep
        self.late: set[str] = set()  # and before it
        self.expected: dict[str, tuple[Reason, str]] = {}  # why it did not end well, and of which pool it is
        self.sent: dict[str, str] = {}  # endpoint
        self.outcomes: set[str] = set()

    def begin(self, why: Reason, *facts: Fact, of: str = POOL) -> None:
        (request_id,) = {fact.request_id for fact in facts}
        self.expected[request_id] = why, of
        self.stories[request_id] = deque(facts)

    def ids(self) -> tuple[str, str]:
        """Of a new request: ours, and the client's."""
        self.number += 1
        return str(self.number), f"r-{self.number}"

    def decided(self, endpoint: Endpoint) -> Decision:
        id_, request_id = self.ids()
        return replace(decision(id_, str(endpoint)), request_id=request_id)

    def refused(self, why: Reason, status: int) -> Outcome:
        """What the picker tells of a request that it sends nowhere."""
        id_, request_id = self.ids()
        request = InferenceRequest("/v1/completions", request_id=request_id)
        return denied(Ask(request, POOL, None, id_, self.now, 1000.0), Refused(status, why, "")).outcome

    def hear(self, fact: Fact) -> None:
        """As the shell does: Gateway.asked, Gateway.ended."""
        if isinstance(fact, LogEntry):
            outcome = self.signals.finished(fact)
            if outcome is not None:
                self.told(outcome)
        elif isinstance(fact, Outcome):
            self.signals.reported(fact)
            self.told(fact)
        else:
            self.signals.started(fact, self.now)
            self.sent[fact.request_id] = fact.endpoints[0]
            if (entry := self.signals.early(fact)) is not None:
                self.hear(entry)

    def told(self, outcome: Outcome) -> None:
        assert outcome.request_id not in self.outcomes, "a second Outcome"
        assert (outcome.reason, outcome.pool) == self.expected[outcome.request_id]
        self.outcomes.add(outcome.request_id)

    def turn(self, request_id: str) -> None:
        """The next fact of a story."""
        story = self.stories[request_id]
        fact = story.popleft()
        if not story:
            del self.stories[request_id]
        elif isinstance(fact, LogEntry):
            self.overtaken.add(request_id)
        self.hear(fact)

    @rule(endpoint=ENDPOINTS, left=st.booleans())
    def serve(self, endpoint: Endpoint, left: bool) -> None:
        """Envoy was told where to send it, and logs how that ended: well, or its client left the stream."""
        sent = self.decided(endpoint)
        flags = frozenset({"DC"} if left else ())
        entry = ended(sent.id, endpoint=str(endpoint), request_id=sent.request_id, flags=flags)
        self.begin("client_cancelled" if left else "", sent, entry)

    @rule(endpoint=ENDPOINTS)
    def lose(self, endpoint: Endpoint) -> None:
        """It is sent, and the log of it never comes."""
        self.begin("lost", self.decided(endpoint))

    @rule(why=st.sampled_from(("queue_full", "queue_ttl")), cluster=CLUSTERS)
    def refuse(self, why: Reason, cluster: str) -> None:
        """The picker answers it itself, and Envoy logs that answer."""
        refused = self.refused(why, 429)
        entry = LogEntry(request_id=refused.request_id, status=429, details=f"penstock:{why}", cluster=cluster)
        self.begin(why, refused, entry)

    @rule(endpoint=ENDPOINTS, cluster=CLUSTERS, log_first=st.booleans())
    def leave_as_it_is_decided(self, endpoint: Endpoint, cluster: str, log_first: bool) -> None:
        """Its client has left before Envoy heard the decision: the log has no id of ours."""
        self.leave("client_cancelled", self.decided(endpoint), cluster, log_first)

    @rule(cluster=CLUSTERS, log_first=st.booleans())
    def leave_undecided(self, cluster: str, log_first: bool) -> None:
        """Its client has left, and the picker sees the stream end."""
        told = self.refused("client_cancelled", 0)
        self.leave("client_cancelled", replace(told, id=told.request_id), cluster, log_first)

    @rule(cluster=CLUSTERS, log_first=st.booleans())
    def leave_as_it_is_refused(self, cluster: str, log_first: bool) -> None:
        """Its client has left before Envoy heard the refusal."""
        self.leave("queue_ttl", self.refused("queue_ttl", 429), cluster, log_first)

    def leave(self, why: Reason, word: Decision | Outcome, cluster: str, log_first: bool) -> None:
        entry = LogEntry(request_id=word.request_id, flags=frozenset({"DC"}), cluster=cluster, time=1000.0)
        self.begin(why, *((entry, word) if log_first else (word, entry)))

    @rule(left=st.booleans())
    def serve_without_a_picker(self, left: bool) -> None:
        """A route to servers that are no pool: the log is all that tells of it."""
        _, request_id = self.ids()
        flags = frozenset({"DC"} if left else ())
        entry = ended("", request_id=request_id, cluster="service/ns/plain/80", flags=flags)
        self.begin("client_cancelled" if left else "", entry, of="")

    @rule(cluster=CLUSTERS)
    def leave_another_gateway(self, cluster: str) -> None:
        """Its client left while the picker of another gateway was asked, so that no word of it comes here."""
        _, request_id = self.ids()
        entry = LogEntry(request_id=request_id, flags=frozenset({"DC"}), cluster=cluster, time=1000.0)
        self.begin("client_cancelled", entry, of=cluster.removeprefix("pool/"))

    @precondition(lambda self: self.stories)
    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        """Some stories go on, in any order."""
        for request_id in data.draw(st.lists(st.sampled_from(sorted(self.stories)), unique=True, min_size=1)):
            self.turn(request_id)

    @rule()
    def sweep(self) -> None:
        """Lost entries are looked for. The picker's word may come after one sweep, but never after two: they are seconds apart."""
        for request_id in sorted(self.late & self.stories.keys()):
            self.turn(request_id)
        self.late, self.overtaken = self.overtaken, set()
        for outcome in self.signals.expired(self.now):
            self.told(outcome)

    @rule(seconds=st.floats(0.5, 4.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(endpoint=ENDPOINTS, running=st.integers(0, 2))
    def scrape(self, endpoint: Endpoint, running: int) -> None:
        """A server that runs fewer than we think: some are ghosts until their entry comes."""
        self.signals.asked(str(endpoint))
        self.signals.scraped(str(endpoint), Load(running=running, scraped=self.now), self.now)

    @rule(endpoints=st.sampled_from(((A, B), (A,), ())))
    def edit(self, endpoints: tuple[Endpoint, ...]) -> None:
        """Endpoints go while they have requests."""
        self.signals.update({POOL: endpoints})

    @rule()
    def settle(self) -> None:
        """All is told, and what was lost is given up."""
        while self.stories:
            self.turn(min(self.stories))
        self.now += TIMEOUT
        for _ in range(2):
            self.sweep()
        assert self.outcomes == self.expected.keys(), "without an Outcome"
        self.nothing_stays()

    @invariant()
    def what_is_in_flight_has_no_outcome(self) -> None:
        flying = [endpoint for request_id, endpoint in self.sent.items() if request_id not in self.outcomes]
        assert len(self.signals.inflight) == len(flying)
        for endpoint in map(str, (A, B)):
            assert 0 <= self.signals.inflight.count(endpoint) <= flying.count(endpoint)  # ghosts do not count

    def nothing_stays(self) -> None:
        table = self.signals.inflight
        assert len(table) == 0
        assert [table.count(str(endpoint)) for endpoint in (A, B)] == [0, 0]
        assert not (table._sent or table._asked_for or table._early or table._earlier or self.signals._begun)
        assert table._ended.keys().isdisjoint(self.expected), "a client may use its id again"

    def teardown(self) -> None:
        self.settle()


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestMachine = Machine.TestCase
