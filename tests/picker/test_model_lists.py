"""The shell that asks servers for their models, against real sockets. Times are the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from penstock.sim.server import SimServer, SimSettings
from picker.model_lists import ModelLists, ModelListSettings
from picker.served import Served
from tests.picker.test_scrape import endpoint_of, served_by
from tests.picker.test_served import page
from xds_server.model.graph import Endpoint

NOW = ModelListSettings(interval=0.001, soonest=0.001, lasting=0.001, timeout=5.0)
NEVER = ModelListSettings(interval=3600.0, soonest=0.001, lasting=3600.0, timeout=5.0)
HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n"


def response(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body)


class Heard(Served):
    """Wakes a test when something was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()
        self.answers = 0

    def listed(self, address: str, names: frozenset[str], at: float, until: float, *, strict: bool = True) -> None:
        super().listed(address, names, at, until, strict=strict)
        self._tell()

    def unknown(self, address: str) -> None:
        super().unknown(address)
        self._tell()

    def unanswered(self, address: str) -> None:
        super().unanswered(address)
        self._tell()

    def _tell(self) -> None:
        self.answers += 1
        self.news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def asking(*endpoints: Endpoint, settings: ModelListSettings = NOW) -> AsyncIterator[tuple[Heard, ModelLists]]:
    served = Heard()
    lists = ModelLists(served, settings, seed=1)
    served.update(map(str, endpoints))
    lists.update(endpoints)
    task = asyncio.create_task(lists.run())
    try:
        yield served, lists
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_adapter_that_comes_and_goes_is_seen_at_the_next_question() -> None:
    server = SimServer(SimSettings(models=("base",), loras=("sql",)))
    await server.start()
    async with asking(endpoint_of(server.address)) as (served, lists):
        async with asyncio.timeout(20):
            await lists.all_asked()
        assert served.has(server.address) == {"base", "sql"}
        server.models.load("chat")
        await served.until(lambda: served.has(server.address) == {"base", "sql", "chat"})
        server.models.unload("sql")
        await served.until(lambda: served.has(server.address) == {"base", "chat"})
    await server.stop()


async def test_who_may_have_changed_is_asked_at_once() -> None:
    server = SimServer(SimSettings(models=("base",)))
    await server.start()
    async with asking(endpoint_of(server.address), settings=NEVER) as (served, lists):
        await served.until(lambda: served.has(server.address) == {"base"})
        server.models.load("sql")
        lists.hurry([f"{server.address}@1", "9.9.9.9:1"])
        await served.until(lambda: served.has(server.address) == {"base", "sql"})
    await server.stop()


async def test_what_changes_while_it_answers_is_asked_for_again() -> None:
    asked, changed = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = page({"id": "new" if asked.is_set() else "old"})
        asked.set()
        await changed.wait()
        writer.write(response(body))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server, asking(endpoint, settings=NEVER) as (served, lists):
        await asked.wait()
        lists.hurry([str(endpoint)])
        changed.set()
        await served.until(lambda: served.has(str(endpoint)) == {"new"})


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 401 x\r\ncontent-length: 0\r\n\r\n",  # it wants a key
        b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        response(b"{}"),
        response(b"["),
        HEAD + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz",
    ],
)
async def test_what_is_no_list_is_not_known_and_rarely_asked_for(answer: bytes) -> None:
    asked = 0

    def reply(count: int) -> bytes:
        nonlocal asked
        asked = count
        return answer

    server, endpoint = await served_by(reply)
    async with server, asking(endpoint, settings=NEVER) as (served, lists):
        served.listed(str(endpoint), frozenset({"old"}), 0.0, 1e9)
        await served.until(lambda: served.answers == 2)
        assert served.has(str(endpoint)) is None
        lists.hurry([str(endpoint)])
        async with asyncio.timeout(20):
            await lists.all_asked()
        assert asked == 1


@pytest.mark.parametrize(
    "answer",
    [
        None,  # closes the connection
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 429 x\r\ncontent-length: 0\r\n\r\n",
        HEAD + b"content-length: 100\r\n\r\n{",
        b"",  # says nothing
    ],
)
async def test_without_an_answer_what_was_known_counts_and_it_is_asked_again(answer: bytes | None) -> None:
    server, endpoint = await served_by(lambda count: answer if count < 3 else response(page({"id": "base"})))
    quick = ModelListSettings(interval=3600.0, soonest=0.001, lasting=3600.0, timeout=0.05)
    async with server, asking(endpoint, settings=quick) as (served, _):
        served.listed(str(endpoint), frozenset({"old"}), 0.0, 1e9)
        await served.until(lambda: served.answers > 1)
        assert served.has(str(endpoint)) == {"old"}
        await served.until(lambda: served.has(str(endpoint)) == {"base"})


async def test_a_page_that_never_ends_is_no_list() -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b'\r\n{"data": [')
        with_pleasure = b'{"id": "base"},' * 100_000
        try:
            while True:
                writer.write(with_pleasure)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server, asking(endpoint, settings=NEVER) as (served, _):
        await served.until(lambda: served.answers == 1)
        assert served.has(str(endpoint)) is None


async def test_an_address_is_asked_once_and_no_more_when_it_is_gone() -> None:
    lists = ModelLists(Served())
    where = Endpoint("10.0.0.1", 8000, by_header=True)
    lists.update([where, Endpoint("10.0.0.1", 8000, rank=1, by_header=True), Endpoint("10.0.0.2", 8000)])
    assert set(lists._targets) == {"10.0.0.1:8000", "10.0.0.2:8000"}
    lists.update([where])
    assert set(lists._targets) == {"10.0.0.1:8000"}


def test_lists_that_take_long_to_read_are_read_seldom() -> None:
    lists = ModelLists(Served())
    lists.update([Endpoint(f"10.0.0.{number}", 8000) for number in range(100)])
    assert (lists._interval(), lists._soonest()) == (10.0, 1.0)
    for target in lists._targets.values():
        target.cost = 0.006  # 10 000 adapters
    assert lists._interval() == pytest.approx(30.0)  # a fiftieth of the time is for reading
    assert lists._soonest() == pytest.approx(3.0)
