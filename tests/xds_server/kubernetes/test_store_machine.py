"""Store, Cursor and Held against a model API server, in any order of changes, requests, failures and writes of our own."""

import copy
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from xds_server.kubernetes.api import ApiError
from xds_server.kubernetes.cursor import Cursor, Phase
from xds_server.kubernetes.held import Entry, Held
from xds_server.kubernetes.resources import Query, Resource
from xds_server.kubernetes.store import KEPT, Store
from xds_server.model.objects import InvalidObject, Object, ObjectRef
from xds_server.parse import parse

Json = dict[str, Any]
ROUTES = Resource("gateway.networking.k8s.io", "HTTPRoute", "v1", "httproutes")
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired"}
NAMES = st.sampled_from(["a", "b"])
HOSTS = st.sampled_from(["one.example", "two.example", "one.example", "no host!"])
LABELS = st.sampled_from([{}, {"team": "blue"}])
ANNOTATIONS = st.sampled_from([{}, {"note": "x"}, {LAST_APPLIED: "{}"}])
STATUSES = st.sampled_from([{}, {"parents": []}, {"parents": [{"controllerName": "x"}]}])


class ModelServer:
    """One collection of an API server. Everything it hands out is a copy.

    A watch tells what has happened since its version, in order, and where it stands when there is nothing to tell. A streamed list
    is one that starts with the objects of now; what happens meanwhile comes before the bookmark that ends them. Pages are of one
    moment and have one object. Whoever asks for what is compacted is told 410. Source: Kubernetes API concepts; KEP-3157.
    """

    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming
        self.objects: dict[str, Json] = {}
        self.version = 1
        self.oldest = 0  # versions before this are compacted
        self._history: list[tuple[int, Json]] = []
        self._moments: dict[int, list[Json]] = {}  # version -> what the pages of then show

    def create(self, name: str, host: str) -> None:
        meta = {"name": name, "namespace": "ns", "uid": f"uid-{self.version}", "generation": 1}
        meta |= {"creationTimestamp": "2026-01-01T00:00:00Z", "labels": {}, "annotations": {}}
        self._store("ADDED", {"metadata": meta, "spec": {"hostnames": [host]}, "status": {}})

    def change(self, name: str, part: str, value: Json) -> Json:
        """Of the spec, which has generations; of the status or the metadata, which have none."""
        found = copy.deepcopy(self.objects[name])
        found["metadata"]["generation"] += part == "spec" and value != found["spec"]
        found[part] = found[part] | value if part == "metadata" else value
        return copy.deepcopy(self._store("MODIFIED", found))

    def remove(self, name: str) -> None:
        self._store("DELETED", copy.deepcopy(self.objects[name]))
        del self.objects[name]

    def page(self, query: dict[str, str]) -> Json:
        start, moment = map(int, query.get("continue", f"0@{self.version}").split("@"))
        if moment < self.oldest:
            raise ApiError.of(EXPIRED)
        shown = self._moments.setdefault(moment, list(self.objects.values()))
        more = {"continue": f"{start + 1}@{moment}"} if start + 1 < len(shown) else {}
        meta = {"resourceVersion": str(moment)} | more
        return copy.deepcopy({"metadata": meta, "items": shown[start : start + 1]})

    def watch(self, query: dict[str, str]) -> Iterator[Json]:
        initial = "sendInitialEvents" in query
        if initial and not self.streaming:
            raise ApiError(422, "Invalid", "sendInitialEvents is forbidden for watch")
        told = self.version if initial else int(query["resourceVersion"])
        for found in list(self.objects.values()) if initial else ():
            yield copy.deepcopy({"type": "ADDED", "object": found})
        while told >= self.oldest:
            if later := [(version, event) for version, event in self._history if version > told]:
                told, event = later[0]
                yield copy.deepcopy(event)
            else:
                end, initial = {"k8s.io/initial-events-end": "true"} if initial else {}, False
                yield {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(told), "annotations": end}}}
        yield {"type": "ERROR", "object": EXPIRED}

    def _store(self, event: str, found: Json) -> Json:
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        self.objects[found["metadata"]["name"]] = found
        self._history.append((self.version, {"type": event, "object": found}))
        return found


def reference(name: str) -> ObjectRef:
    return ROUTES.ref("ns", name)


def parsed(found: Json) -> Object | None:
    """What the Store should have of it; None if it cannot be parsed."""
    found = copy.deepcopy(found) | {"apiVersion": ROUTES.api_version, "kind": ROUTES.kind}
    found["metadata"]["annotations"].pop(LAST_APPLIED, None)
    try:
        return parse(found, strict=False)
    except InvalidObject:
        return None


class Machine(RuleBasedStateMachine):
    """The world moves at any time; what the server says of it is heard in order, one object or event at a time."""

    @initialize(streaming=st.booleans())
    def start(self, streaming: bool) -> None:
        self.server = ModelServer(streaming=streaming)
        self.held = Held()
        self.answers: list[tuple[ObjectRef, Entry]] = []  # to our writes, on their way
        self.store = Store(Query(ROUTES), self.held, self.changed)
        self.cursor = Cursor(self.store)
        self.open()

    def changed(self) -> None:
        self.told = True

    def open(self) -> None:
        """The next request. What is left of the answer to the one before is lost."""
        query = self.cursor.request(60)
        self.answer = self.listed(query) if self.cursor.phase is Phase.LIST else self.watched(query)

    def listed(self, query: dict[str, str]) -> Iterator[bool]:
        for _ in self.cursor.page(self.server.page(query)):
            yield False

    def watched(self, query: dict[str, str]) -> Iterator[bool]:
        for event in self.server.watch(query):
            self.cursor.event(event)
            yield event["type"] == "BOOKMARK" and self.cursor.watching()

    def hear_one(self) -> bool:
        """Whether everything has been heard now."""
        objects, problems = dict(self.store.now.objects), dict(self.store.now.problems)
        self.told, up_to_date = False, None
        try:
            up_to_date = next(self.answer, None)
        except ApiError as error:
            self.cursor.failed(error)
        if up_to_date is None:
            self.open()
        now = self.store.now
        differs = (objects, problems) != (now.objects, now.problems)
        assert self.told == differs, "a change is told, and nothing else is"
        assert self.cursor.watching() or not differs, "a list that is not complete has changed nothing"
        same = [ref for ref, value in now.objects.items() if value == objects.get(ref)]
        assert all(now.objects[ref] is objects[ref] for ref in same), "what is equal keeps its identity"
        lost = [ref for ref in now.problems if now.objects.get(ref) is not objects.get(ref)]
        assert lost == [], "a mistake leaves the last good version"
        return bool(up_to_date)

    @rule(count=st.integers(1, 6))
    def hear(self, count: int) -> None:
        for _ in range(count):
            self.hear_one()

    @rule(name=NAMES, host=HOSTS)
    def apply(self, name: str, host: str) -> None:
        if name in self.server.objects:
            self.server.change(name, "spec", {"hostnames": [host]})
        else:
            self.server.create(name, host)

    @rule(name=NAMES, labels=LABELS, annotations=ANNOTATIONS)
    def annotate(self, name: str, labels: Json, annotations: Json) -> None:
        if name in self.server.objects:
            self.server.change(name, "metadata", {"labels": labels, "annotations": annotations})

    @rule(name=NAMES, status=STATUSES)
    def status(self, name: str, status: Json) -> None:
        """Another controller writes it."""
        if name in self.server.objects:
            self.server.change(name, "status", status)

    @rule(name=NAMES, status=STATUSES)
    def write(self, name: str, status: Json) -> None:
        """Our status. What is not about the newest version is refused."""
        ref = reference(name)
        entry, found = self.held.entry(ref), self.server.objects.get(name)
        if entry and found and entry.version == found["metadata"]["resourceVersion"]:
            self.answers.append((ref, Entry.of(entry.path, self.server.change(name, "status", status))))

    @rule()
    def written(self) -> None:
        """The answers to our writes: they overtake the watch, or come after it, but not after their object has gone."""
        for ref, entry in self.answers:
            self.held.put(ref, entry)
        self.answers = []

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.written()
        if name in self.server.objects:
            self.server.remove(name)

    @rule(name=NAMES, host=HOSTS)
    def recreate(self, name: str, host: str) -> None:
        """As `kubectl replace --force`: another object, with the generation of the first."""
        self.remove(name)
        self.server.create(name, host)

    @rule()
    def compact(self) -> None:
        """Who has not heard of everything so far has to start again."""
        self.server.oldest = self.server.version

    @rule(code=st.sampled_from([0, 410, 429, 500]))
    def fail(self, code: int) -> None:
        """What is being read breaks off."""
        self.cursor.failed(ApiError(code, "", ""))
        self.open()

    @precondition(lambda self: self.cursor.phase is not Phase.LIST)
    @rule()
    def end(self) -> None:
        """In good order. Of a streamed list it is the end before its end: pages are asked for instead."""
        self.cursor.ended()
        self.open()

    @rule()
    def settle(self) -> None:
        assert any(self.hear_one() for _ in range(1000)), "never hears everything"
        self.written()
        world = {reference(name): found for name, found in self.server.objects.items()}
        values = {ref: parsed(found) for ref, found in world.items()}
        now = self.store.now
        assert now.problems.keys() == {ref for ref, value in values.items() if value is None}
        kept = {ref for ref, problem in now.problems.items() if problem.message.endswith(KEPT)}
        assert kept == now.problems.keys() & now.objects.keys(), "a problem says whether a good version is left"
        good = {ref: value for ref, value in now.objects.items() if ref not in now.problems}
        assert good == {ref: value for ref, value in values.items() if value}, "the objects are those of the world"
        entries = {ref: Entry.of(ROUTES.path("ns", ref.name), found) for ref, found in world.items()}
        assert {ref: self.held.entry(ref) for ref in self.held} == entries, "the statuses are those of the world"

    def teardown(self) -> None:
        if hasattr(self, "server"):
            self.settle()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=200, stateful_step_count=40)
