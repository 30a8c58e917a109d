"""Held: the newest status of each object, and which have changed."""

import asyncio

from xds_server.kubernetes.held import Entry, Held
from xds_server.model.objects import ObjectRef

REF = ObjectRef("g", "HTTPRoute", "ns", "a")


def entry(version: int, status: bytes = b"{}", uid: str = "u", path: str = "/a") -> Entry:
    return Entry(path, uid, str(version), status)


async def test_the_newer_version_stays_whichever_comes_last() -> None:
    held = Held()
    held.put(REF, entry(5, b'{"a":1}'))
    held.put(REF, entry(4, b'{"a":0}'))
    assert held[REF] == {"a": 1} and len(held) == 1 and list(held) == [REF]
    held.put(REF, entry(1, b'{"a":2}', uid="another object"))
    assert held[REF] == {"a": 2}


async def test_changes_are_those_of_the_status() -> None:
    held = Held()
    held.put(REF, entry(1))
    assert await held.changes() == {REF}
    waiting = asyncio.ensure_future(held.changes())
    held.put(REF, entry(2))  # only the version
    await asyncio.sleep(0)
    assert not waiting.done() and held.entry(REF) == entry(2)
    held.put(REF, entry(3, b'{"a":1}'))
    assert await waiting == {REF}


async def test_only_who_holds_it_takes_it_away() -> None:
    held = Held()
    held.put(REF, entry(1))
    held.remove(REF, "/of/another/group")
    assert REF in held
    held.remove(REF, "/a")
    assert REF not in held and held.entry(REF) is None


async def test_equal_statuses_are_equal_whatever_their_order() -> None:
    one = Entry.of("/a", {"metadata": {"uid": "u"}, "status": {"a": 1, "b": 2}})
    assert one == Entry.of("/a", {"metadata": {"uid": "u"}, "status": {"b": 2, "a": 1}})
