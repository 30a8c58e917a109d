"""One query's objects, parsed, with the last good version of what cannot be: a reflector's sink.

Pure. A value that is equal to the one before keeps its identity and announces nothing: most updates are of statuses.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from xds_server.kubernetes.held import Entry, Held
from xds_server.kubernetes.resources import Query
from xds_server.model.objects import InvalidObject, Object, ObjectRef, Problem
from xds_server.parse import parse
from xds_server.status import FIELDS

Json = dict[str, Any]
KEPT = "the last good version stays in effect"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"  # a copy of the object: nothing to keep


@dataclass(slots=True)
class Contents:
    objects: dict[ObjectRef, Object] = field(default_factory=dict)
    problems: dict[ObjectRef, Problem] = field(default_factory=dict)
    seen: dict[ObjectRef, tuple[str, int]] = field(
        default_factory=dict
    )  # (uid, generation) of good objects; may be few


class Store:
    """`changed` is called when the objects or problems are not the ones they were."""

    def __init__(self, query: Query, held: Held, changed: Callable[[], None]) -> None:
        self.query = query
        self.now = Contents()
        self._next: Contents | None = None  # while a list is being read
        self._held = held if query.resource.kind in FIELDS else None
        self._holding: set[ObjectRef] = set()  # also what a list had that then broke off
        self._changed = changed

    def begin(self) -> None:
        self._next = Contents()

    def put(self, found: Json) -> None:
        into = self._next or self.now
        ref = self._ref(found)
        if self._held is not None:
            self._held.put(ref, Entry.of(self._path(ref), found))
            self._holding.add(ref)
        if self._unchanged(ref, found):
            _put(into, ref, self.now.objects[ref], None, self.now.seen[ref])
            return
        value, problem = self._read(ref, found)
        before, complaint = self.now.objects.get(ref), self.now.problems.get(ref)
        if value == before:
            value = before
        _put(into, ref, value, problem, None if problem or self._held is None else _stamp(found))
        if into is self.now and (value is not before or problem != complaint):
            self._changed()

    def remove(self, found: Json) -> None:
        ref = self._ref(found)
        into = self._next or self.now
        known = ref in into.objects or ref in into.problems
        _put(into, ref, None, None, None)
        self._release(ref)
        if into is self.now and known:
            self._changed()

    def commit(self) -> None:
        """What was put since `begin` is all that there is."""
        if self._next is None:
            return
        before, self.now, self._next = self.now, self._next, None
        for ref in [ref for ref in self._holding if ref not in self.now.objects and ref not in self.now.problems]:
            self._release(ref)
        if before.objects != self.now.objects or before.problems != self.now.problems:
            self._changed()

    def replace(self, all_: Iterable[Json]) -> None:
        """A whole list at once."""
        self.begin()
        for found in all_:
            self.put(found)
        self.commit()

    def _unchanged(self, ref: ObjectRef, found: Json) -> bool:
        """Whether at most the status differs: told by uid, generation and the metadata that we keep, without parsing."""
        old = self.now.objects.get(ref)
        stamp = self.now.seen.get(ref)
        if old is None or stamp is None or stamp != _stamp(found) or ref in self.now.problems:
            return False
        meta = found["metadata"]
        annotations = dict(meta.get("annotations") or {})
        annotations.pop(_LAST_APPLIED, None)
        return bool(old.meta.labels == (meta.get("labels") or {}) and old.meta.annotations == annotations)

    def _read(self, ref: ObjectRef, found: Json) -> tuple[Object | None, Problem | None]:
        resource = self.query.resource
        found["apiVersion"], found["kind"] = resource.api_version, resource.kind  # items of built-in lists have neither
        (found["metadata"].get("annotations") or {}).pop(_LAST_APPLIED, None)
        try:
            return parse(found, strict=False), None
        except InvalidObject as invalid:
            before = self.now.objects.get(ref)
            problem = replace(invalid.problem, ref=ref)
            return before, replace(problem, message=f"{problem.message}; {KEPT}") if before else problem

    def _release(self, ref: ObjectRef) -> None:
        if self._held is not None:
            self._held.remove(ref, self._path(ref))
            self._holding.discard(ref)

    def _ref(self, found: Json) -> ObjectRef:
        meta = found["metadata"]
        return self.query.resource.ref(meta.get("namespace") or "", meta["name"])

    def _path(self, ref: ObjectRef) -> str:
        return self.query.resource.path(ref.namespace, ref.name)


def _put(
    into: Contents, ref: ObjectRef, value: Object | None, problem: Problem | None, stamp: tuple[str, int] | None
) -> None:
    _set(into.objects, ref, value)
    _set(into.problems, ref, problem)
    _set(into.seen, ref, stamp)


def _set(into: dict[ObjectRef, Any], ref: ObjectRef, value: Any) -> None:
    if value is None:
        into.pop(ref, None)
    else:
        into[ref] = value


def _stamp(found: Json) -> tuple[str, int] | None:
    meta = found["metadata"]
    generation = meta.get("generation")
    return (meta.get("uid", ""), generation) if generation else None
