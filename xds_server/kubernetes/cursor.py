"""List and watch: where a reflector stands in the protocol and what it asks next, without a network.

Source: Kubernetes API concepts, "Efficient detection of changes", "Streaming lists"; client-go's Reflector. The sink is told
to begin, given every object, and told to commit: a list that breaks off has changed nothing.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Protocol

from xds_server.kubernetes.api import ApiError

Json = dict[str, Any]
_INITIAL_END = "k8s.io/initial-events-end"
_PAGE = 500


class Sink(Protocol):
    """What a reflector fills."""

    def begin(self) -> None: ...
    def put(self, found: Json) -> None: ...
    def remove(self, found: Json) -> None: ...
    def commit(self) -> None: ...


class Phase(Enum):
    STREAM = "stream"  # a watch that starts with every object (sendInitialEvents)
    LIST = "list"
    WATCH = "watch"


class Cursor:
    """Ask `request()`; feed the answer to `page` or `event`, the end of it to `ended` or `failed`; repeat."""

    def __init__(self, sink: Sink, *, streaming: bool = True) -> None:
        self._sink = sink
        self._streaming = streaming
        self._version = ""
        self._continue = ""
        self.phase = Phase.STREAM if streaming else Phase.LIST
        self.synced = False  # everything has been read once
        self.objects = 0  # read by the present list
        self.events = 0  # taken in, ever

    def watching(self) -> bool:
        """Everything has been read; only changes are asked for."""
        return self.phase is Phase.WATCH

    def request(self, seconds: int) -> dict[str, str]:
        """The parameters of the next request; a watch is to end after `seconds`."""
        watch = {"allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        match self.phase:
            case Phase.STREAM:
                self._begin()
                return watch | {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            case Phase.WATCH:
                return watch | {"resourceVersion": self._version}
        if not self._continue:
            self._begin()
            return {"limit": str(_PAGE)}
        return {"limit": str(_PAGE), "continue": self._continue}

    def page(self, body: Mapping[str, Any]) -> Iterator[None]:
        """Takes a page in; yields after each object, so that the shell can let others run."""
        for found in body.get("items") or ():
            self.objects += 1
            self._sink.put(found)
            yield
        meta = body.get("metadata") or {}
        self._continue = meta.get("continue") or ""
        if not self._continue:
            self._version = meta.get("resourceVersion") or ""
            self._commit()

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes an event of a watch in. Raises ApiError for an ERROR event; give that to `failed`."""
        found = event.get("object") or {}
        match event.get("type"):
            case "ADDED" | "MODIFIED":
                self.objects += self.phase is Phase.STREAM
                self._sink.put(found)
            case "DELETED":
                self._sink.remove(found)
            case "BOOKMARK":
                pass
            case _:
                raise ApiError.of(found)
        self.events += 1
        meta = found.get("metadata") or {}
        self._version = meta.get("resourceVersion") or self._version
        if self.phase is Phase.STREAM and (meta.get("annotations") or {}).get(_INITIAL_END) == "true":
            self._commit()

    def ended(self) -> None:
        """The watch ended without an error. Before all initial events came, that is a server that does not know them."""
        if self.phase is Phase.STREAM:
            self._unstream()

    def failed(self, error: ApiError) -> None:
        match self.phase:
            case Phase.STREAM if error.code in (400, 404, 405, 422) or error.reason == "NoEnd":
                self._unstream()  # refused as a parameter: by far most servers below 1.34
            case Phase.LIST if self._continue and 400 <= error.code < 500 and error.code != 429:
                self._continue = ""  # 410: the snapshot of the pages before has expired
            case Phase.WATCH if error.code in (400, 410) or error.reason in ("Expired", "Gone"):
                self._restart()

    def _begin(self) -> None:
        self.objects = 0
        self._sink.begin()

    def _commit(self) -> None:
        self._sink.commit()
        self.synced = True
        self.phase = Phase.WATCH

    def _unstream(self) -> None:
        self._streaming = False
        self._restart()

    def _restart(self) -> None:
        self._version = self._continue = ""
        self.phase = Phase.STREAM if self._streaming else Phase.LIST
