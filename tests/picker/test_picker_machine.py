"""Picker and Signals together, as the shells drive them, in any order of requests, ends, edits and time.

The rules that matter most are those in which nobody hears anything: time passes, an answer lies there that nobody has fetched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from picker.facts import Decision
from picker.flow import FlowControl
from picker.latency import GUESS
from picker.load import Load
from picker.picker import Answer, Ask, Denied, Picker, Waiting
from picker.queues import SCAN
from picker.request import InferenceRequest
from picker.signals import Signals
from tests.picker.test_inflight import ended
from tests.picker.test_picker import A, B, C, pool
from xds_server.model.graph import Endpoint, Objective

OBJECTIVES = (Objective("bulk", -1), Objective("gold", 10))
POOLS = st.sampled_from(["one", "two"])
TTFT, TTL = "x-slo-ttft-ms", "x-llm-d-inference-ttl"
HEADERS = [{}, {}, {}, {TTFT: "1"}, {TTFT: "2000"}, {TTL: "0s"}, {TTL: "1s"}, {TTFT: "500", TTL: "5s"}]
REQUESTS: dict[str, st.SearchStrategy[Any]] = {
    "objective": st.sampled_from(["", "bulk", "gold"]),
    "fairness_id": st.sampled_from("ab"),
    "headers": st.sampled_from(HEADERS),
    "body_bytes": st.integers(0, 3000),
}
SUBSETS = st.sampled_from([None] * 5 + [(str(A),), (str(B), str(C)), ()])
SETS = st.sampled_from([(A, B), (B, C), (), None, None])  # None: there is no such pool
PAGES = st.sampled_from([Load(), Load(running=1), Load(running=3), Load(1, 1), Load(3, 2), None])
FLAGS = st.sampled_from(["", "", "", "UC", "UF", "DC"])
FEW, NONE = ({"flowControl": {"maxRequests": 3}}, {"featureGates": ["flowControl=false"]})
CONFIGURED = st.sampled_from([{}, {"queue_ttl": 2.0}, {"ttft_objective": 0.5}, {"config": FEW}, {"config": NONE}])


class Machine(RuleBasedStateMachine):
    """Every request has one end: refused, served, failed, lost, or its client left while it waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.number = 0.0, 0
        self.waiting: set[str] = set()  # told to wait, and not heard of since
        self.flying: dict[str, Decision] = {}
        self.ended: set[str] = set()
        self.signals = Signals(timeout=200.0)
        self.picker = Picker(self.signals, served=self.signals.served)
        self.configured: dict[str, Any] = {}
        self.apply({"one": (A, B), "two": (C,)})

    @initialize(slots=st.integers(0, 2))
    def start(self, slots: int) -> None:
        """Servers that were seen to run so many while others waited; 0: which may take any number, for all we know."""
        for endpoint in (A, B, C):
            self.scrape(endpoint, Load(waiting=1, running=slots))

    def apply(self, pools: Mapping[str, Sequence[Endpoint] | None]) -> None:
        self.endpoints = here = {name: found for name, found in pools.items() if found is not None}
        made = [pool(*found, name=name, objectives=OBJECTIVES, **self.configured) for name, found in here.items()]
        self.picker.update({one.name: one for one in made})
        self.signals.update({one.name: one.endpoints for one in made})

    def end(self, id_: str) -> None:
        assert id_ not in self.ended, "a second end"
        self.ended.add(id_)

    def hear(self, id_: str, answer: Answer) -> None:
        self.waiting.discard(id_)
        if isinstance(answer, Denied):
            assert answer.outcome.id == id_
            self.end(id_)
        else:
            assert id_ not in self.flying, "decided twice"
            self.flying[id_] = answer

    def log(self, id_: str, **told: Any) -> None:
        """Envoy's entry of a request that was sent."""
        sent = self.flying.pop(id_)
        outcome = self.signals.finished(ended(id_, **{"endpoint": sent.endpoints[0], "attempts": 1, **told}))
        assert outcome is not None, "an end that nobody hears of"
        assert (outcome.id, outcome.pool) == (id_, sent.pool)
        self.end(id_)

    def flows(self) -> dict[str, FlowControl]:
        return {state.pool.name: state.flow for state in self.picker._states.values()}

    @rule(name=POOLS, given=st.fixed_dictionaries(REQUESTS), subset=SUBSETS, count=st.integers(1, 6))
    def ask(self, name: str, given: dict[str, Any], subset: tuple[str, ...] | None, count: int) -> None:
        """Requests come; others may have their answer for it, which nobody fetches yet."""
        for _ in range(count):
            self.number += 1
            id_, prompt = str(self.number), b"x" * given["body_bytes"]
            request = InferenceRequest("/v1/completions", model="m", prompt=prompt, request_id=f"r-{id_}", **given)
            found = self.picker.decide(Ask(request, f"ns/{name}", subset, id_, self.now, 1000.0 + self.now))
            if isinstance(found, Waiting):
                assert (found.id, found.until > self.now) == (id_, True)
                self.waiting.add(id_)
            else:
                if isinstance(found, Decision):
                    assert set(found.endpoints) <= set(map(str, self.endpoints[name])), "an endpoint of another pool"
                self.hear(id_, found)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), flag=FLAGS, last=st.booleans(), seconds=st.floats(0.01, 3.0))
    def finish(self, data: st.DataObject, flag: str, last: bool, seconds: float) -> None:
        """A server has answered, the first or the last one that was tried; or it failed, or the client left."""
        id_ = data.draw(st.sampled_from(sorted(self.flying)))
        tried = self.flying[id_].endpoints[: None if last else 1]
        told = {"status": 503, "details": "upstream_reset", "flags": frozenset({flag})} if flag else {}
        self.log(id_, endpoint=tried[-1], attempts=len(tried), duration=seconds, ttft=seconds / 2, **told)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client that waits leaves; perhaps just as it is answered: then its answer is on its way, and counts."""
        id_ = data.draw(st.sampled_from(sorted(self.waiting)))
        if self.picker.cancel(id_, self.now):
            self.waiting.remove(id_)
            self.end(id_)
        else:
            self.poll()
            assert id_ not in self.waiting, "it neither waits nor is answered"

    @precondition(lambda self: self.flying)
    @rule()
    def sweep(self) -> None:
        """Requests whose entry never came are given up."""
        self.poll()
        for outcome in self.signals.expired(self.now):
            assert outcome.endpoint == self.flying.pop(outcome.id).endpoints[0]
            self.end(outcome.id)

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.5, 1.0, 3.0, 61.0]))
    def late(self, seconds: float) -> None:
        """Time passes, and nobody polls: whatever comes next comes before the timer."""
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule()
    def exact(self) -> None:
        """The moment of the next deadline; nobody polls yet."""
        self.now = max(self.now, self.picker.next_deadline() or 0.0)

    @precondition(lambda self: self.waiting)
    @rule()
    def poll(self) -> None:
        """Something has changed, or the timer: all are heard that can be."""
        for id_, answer in self.picker.poll(self.now):
            assert id_ in self.waiting, "an answer for nobody"
            self.hear(id_, answer)
        assert (self.picker.next_deadline() or inf) > self.now, "the timer would fire at once, for ever"
        assert not self.picker.answers
        self.nobody_waits_for_idle_servers()

    def nobody_waits_for_idle_servers(self) -> None:
        """Unless it may not have them all, or has an objective: then it may be better off with another one."""
        busy = {decision.endpoints[0] for decision in self.flying.values()}
        for name, endpoints in self.endpoints.items():
            if endpoints and busy.isdisjoint(map(str, endpoints)):
                queues = self.flows()[f"ns/{name}"].queues
                kept = [one.id for one in queues if one.ask.ask.subset is None and one.ask.ttft is None]
                assert not kept, "they wait, and all servers are idle"

    @rule(name=POOLS, found=SETS)
    def edit(self, name: str, found: Sequence[Endpoint] | None) -> None:
        """A pool comes, goes or comes back, or its endpoints do."""
        self.apply({**self.endpoints, name: found})

    @rule(configured=CONFIGURED)
    def configure(self, configured: dict[str, Any]) -> None:
        """Limits change while some wait by the old ones."""
        self.configured = configured
        self.apply(self.endpoints)

    @rule(endpoint=st.sampled_from([A, B, C]), page=PAGES)
    def scrape(self, endpoint: Endpoint, page: Load | None) -> None:
        """A page of a server, which need not agree with what we have there; None: it does not come."""
        if any(endpoint in found for found in self.endpoints.values()):
            self.signals.asked(str(endpoint))
            if page is None:
                self.signals.failed(str(endpoint))
            else:
                self.signals.scraped(str(endpoint), replace(page, scraped=self.now), self.now)

    @invariant()
    def who_waits_is_who_was_told_to(self) -> None:
        queued = {item.id for flow in self.flows().values() for item in flow.queues}
        assert queued == self.picker._waiting.keys(), "a queue and the Picker differ"
        assert queued | self.picker._answers.keys() == self.waiting, "somebody waits for nothing"
        assert self.picker.waits == bool(self.waiting)

    @invariant()
    def sums_are_sums(self) -> None:
        for name, flow in self.flows().items():
            items = list(flow.queues)
            assert flow.queues.size == sum(item.size for item in items)
            assert flow.deadline == min((item.until for item in items), default=inf)
            for priority, held in self.picker.queued(name).items():
                sizes = [item.size for item in items if item.priority == priority]
                assert held == (len(sizes), sum(sizes)), f"the band {priority}"
            if len(items) <= SCAN:
                order = [item.id for item in flow.queues.order(self.now)]
                assert sorted(order) == sorted(item.id for item in items), "everybody has one turn"

    @invariant()
    def what_is_in_flight_was_sent(self) -> None:
        unheard = [answer for answer in self.picker._answers.values() if isinstance(answer, Decision)]
        assert len(self.signals.inflight) == len(self.flying) + len(unheard)
        sent = [decision.endpoints[0] for decision in (*self.flying.values(), *unheard)]
        for endpoint in map(str, (A, B, C)):
            assert 0 <= self.signals.inflight.count(endpoint) <= sent.count(endpoint)  # ghosts do not count

    @invariant()
    def loads_step_by_step_are_loads_made_from_nothing(self) -> None:
        """`update` would make them too, but then the steps would always be single ones. Speed is learned from peers as well."""
        for name, endpoints in self.endpoints.items():
            found = self.signals.loads(f"ns/{name}")
            assert found.keys() == set(map(str, endpoints))
            for endpoint, load in found.items():
                anew = self.signals._merged(endpoint)
                assert replace(load, speed=GUESS) == replace(anew, speed=GUESS), f"{endpoint} has changed unheard"

    def teardown(self) -> None:
        """All requests end, and nothing of them stays."""
        for _ in range(1000):
            for id_ in sorted(self.flying):
                self.log(id_, duration=1.0)
            self.poll()
            if not self.flying and not self.picker.waits:
                break
            if not self.flying:
                self.exact()
        else:
            pytest.fail("never settles")
        assert self.ended == {str(number) for number in range(1, self.number + 1)}
        assert self.picker.next_deadline() is None
        assert not (self.signals._begun or self.signals.inflight._sent or self.signals.inflight._asked_for)


Machine.TestCase.settings = settings(max_examples=120, stateful_step_count=40)
TestMachine = Machine.TestCase
