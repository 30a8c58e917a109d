"""Cursor: what a reflector asks next, for each way in which a list or a watch can go."""

from typing import Any

import pytest

from xds_server.kubernetes.api import ApiError
from xds_server.kubernetes.cursor import Cursor, Phase


class Sink:
    """Names, as they would be at each moment."""

    def __init__(self) -> None:
        self.now: set[str] = set()
        self.next: set[str] | None = None

    def begin(self) -> None:
        self.next = set()

    def put(self, found: dict[str, Any]) -> None:
        (self.now if self.next is None else self.next).add(found["metadata"]["name"])

    def remove(self, found: dict[str, Any]) -> None:
        (self.now if self.next is None else self.next).discard(found["metadata"]["name"])

    def commit(self) -> None:
        assert self.next is not None
        self.now, self.next = self.next, None


def thing(name: str, version: int = 1) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def page(*names: str, version: str = "7", more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": [thing(name) for name in names]}


def event(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": found}


def end(version: str = "9") -> dict[str, Any]:
    meta = {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}
    return event("BOOKMARK", {"metadata": meta})


def listed(cursor: Cursor, body: dict[str, Any]) -> None:
    assert list(cursor.page(body)) == [None] * len(body["items"])


def test_a_streamed_list_counts_only_with_its_end() -> None:
    sink = Sink()
    cursor = Cursor(sink)
    assert cursor.request(60)["sendInitialEvents"] == "true"
    cursor.event(event("ADDED", thing("a")))
    cursor.event(event("BOOKMARK", thing("", 2)))
    assert not cursor.synced and not sink.now
    cursor.event(end())
    assert cursor.synced and cursor.objects == 1 and sink.now == {"a"}
    cursor.event(event("ADDED", thing("b", 12)))
    cursor.event(event("DELETED", thing("a", 13)))
    cursor.ended()
    assert sink.now == {"b"}
    assert cursor.request(60)["resourceVersion"] == "13"


@pytest.mark.parametrize("code", [400, 422])
def test_a_server_that_refuses_to_stream_is_asked_for_pages_from_then_on(code: int) -> None:
    cursor = Cursor(Sink())
    cursor.request(60)
    cursor.failed(ApiError(code, "Invalid", "sendInitialEvents"))
    assert cursor.phase is Phase.LIST
    cursor.request(60)
    listed(cursor, page("a"))
    cursor.failed(ApiError(410, "Expired", ""))
    assert cursor.phase is Phase.LIST


def test_a_server_that_ends_the_stream_before_its_end_is_asked_for_pages() -> None:
    cursor = Cursor(Sink())
    cursor.request(60)
    cursor.event(event("ADDED", thing("a")))
    cursor.ended()
    assert cursor.phase is Phase.LIST


def test_pages_are_joined_and_a_partial_list_removes_nothing() -> None:
    sink = Sink()
    sink.now = {"a", "b", "c"}
    cursor = Cursor(sink, streaming=False)
    assert cursor.request(0) == {"limit": "500"}
    listed(cursor, page("a", more="token"))
    assert cursor.request(0) == {"limit": "500", "continue": "token"}
    assert sink.now == {"a", "b", "c"}
    cursor.failed(ApiError(410, "Expired", "continue token"))
    assert cursor.request(0) == {"limit": "500"}
    listed(cursor, page("b"))
    assert sink.now == {"b"} and cursor.watching() and cursor.objects == 1


def test_a_page_that_fails_for_another_reason_is_asked_for_again() -> None:
    cursor = Cursor(Sink(), streaming=False)
    cursor.request(0)
    listed(cursor, page("a", more="token"))
    for code in (0, 429, 503):
        cursor.failed(ApiError(code, "", ""))
        assert cursor.request(0)["continue"] == "token"


def test_a_watch_resumes_and_only_an_expired_one_lists_again() -> None:
    sink = Sink()
    cursor = Cursor(sink, streaming=False)
    cursor.request(0)
    listed(cursor, page("a", version="7"))
    assert cursor.request(60) == {"allowWatchBookmarks": "true", "timeoutSeconds": "60", "resourceVersion": "7"}
    cursor.event(event("BOOKMARK", thing("", 20)))
    for code in (0, 429, 500):
        cursor.failed(ApiError(code, "", ""))
        assert cursor.request(60)["resourceVersion"] == "20"
    with pytest.raises(ApiError) as raised:
        cursor.event(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}))
    cursor.failed(raised.value)
    assert cursor.phase is Phase.LIST
    cursor.request(0)
    assert sink.now == {"a"}
