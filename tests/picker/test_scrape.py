"""Signals, HTTP framing of a page, and the scraper against real sockets."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, strategies as st

from penstock.sim.server import SimServer, SimSettings, several
from picker.inflight import LogEntry
from picker.load import Load
from picker.scorers import waiting
from picker.scrape import ENGINE_LABEL, BadPage, Scraper, ScrapeSettings, page_of
from picker.signals import Signals
from tests.picker.test_inflight import decision
from xds_server.model.graph import Endpoint

A, B = Endpoint("10.0.0.1", 8000), Endpoint("10.0.0.2", 8000)
QUICK = ScrapeSettings(fast=0.001, slow=0.002, timeout=5.0, per_second=1e6)


# --- signals ----------------------------------------------------------------------------------------------------------


def test_loads_merge_scrapes_and_our_own_count() -> None:
    signals = Signals()
    signals.update({"ns/p": [A, B], "ns/q": [A]})
    assert signals.loads("ns/p") == {str(A): Load(), str(B): Load()}
    signals.started(decision("1", str(A), str(B)), now=0.0)
    signals.asked(str(A))
    signals.scraped(str(A), Load(waiting=2, running=3, scraped=1.0), sent_at=0.5)
    signals.started(decision("2", str(A)), now=2.0)
    merged = Load(waiting=2, running=3, scraped=1.0, inflight=2, inflight_tokens=72, inflight_at_scrape=1)
    merged = replace(merged, speed=signals.latency.speed(str(A)), prefill=signals.loads("ns/p")[str(A)].prefill)
    assert signals.loads("ns/p") == {str(A): merged, str(B): Load()}
    assert signals.loads("ns/q") == {str(A): merged}
    assert signals.finished(LogEntry(id="1", status=200)) is not None
    assert signals.loads("ns/q")[str(A)].inflight == 1
    assert signals.loads("ns/unknown") == {}


def test_only_what_changed_is_built_again() -> None:
    signals = Signals()
    signals.update({"ns/p": [A, B]})
    before = dict(signals.loads("ns/p"))
    signals.started(decision("1", str(A)), now=0.0)
    after = signals.loads("ns/p")
    assert after[str(B)] is before[str(B)]
    assert after[str(A)] is not before[str(A)]
    assert signals.loads("ns/p")[str(A)] is after[str(A)]


def test_failures_count_and_keep_the_last_figures() -> None:
    signals = Signals()
    signals.update({"ns/p": [A]})
    signals.scraped(str(A), Load(running=3, scraped=1.0), sent_at=0.5)
    assert [signals.failed(str(A)), signals.failed(str(A))] == [1, 2]
    found = signals.loads("ns/p")[str(A)]
    assert (found.running, found.scraped, found.errors) == (3, 1.0, 2)


def test_figures_belong_to_their_own_scrape_also_while_the_next_runs_or_fails() -> None:
    signals = Signals()
    signals.update({"ns/p": [A]})
    signals.asked(str(A))
    signals.scraped(str(A), Load(waiting=4, scraped=1.0), sent_at=0.5)
    signals.started(decision("1", str(A)), now=1.5)
    for now in (2.0, 3.0):  # an engine under load answers /metrics late, when what was sent matters most
        signals.asked(str(A))
        signals.started(decision(f"at {now}", str(A)), now=now)
        assert signals.loads("ns/p")[str(A)].inflight_at_scrape == 0
        signals.failed(str(A))
    assert waiting(signals.loads("ns/p")[str(A)]) == 4 + 3


def test_a_ghost_is_no_request_that_ended_since_the_scrape() -> None:
    signals = Signals()
    signals.update({"ns/p": [A]})
    signals.started(decision("lost", str(A)), now=0.0)
    signals.started(decision("later", str(A)), now=1.0)
    assert signals.finished(LogEntry(id="later", status=200, endpoint=str(A))) is not None
    signals.asked(str(A))
    signals.scraped(str(A), Load(scraped=9.0), sent_at=9.0)
    load = signals.loads("ns/p")[str(A)]
    assert (load.inflight, load.inflight_at_scrape) == (0, 0)


def test_an_endpoint_that_comes_back_has_no_old_figures() -> None:
    signals = Signals()
    signals.update({"ns/p": [A]})
    signals.scraped(str(A), Load(running=3), sent_at=0.5)
    signals.update({"ns/p": [B]})
    signals.started(decision("1", str(A)), now=0.0)  # decided before it went away
    signals.update({"ns/p": [A]})
    found = signals.loads("ns/p")[str(A)]
    assert replace(found, prefill=Load().prefill) == Load(inflight=1, inflight_tokens=36)


def test_busy_is_told_once_per_busy_time() -> None:
    told: list[str] = []
    signals = Signals(timeout=10.0, on_busy=told.append)
    signals.update({"ns/p": [A]})
    signals.started(decision("1", str(A)), now=0.0)
    signals.started(decision("2", str(A)), now=0.0)
    assert len(signals.expired(10.0)) == 2
    assert not signals.contended(str(A))
    signals.started(decision("3", str(A)), now=11.0)
    assert told == [str(A), str(A)]
    assert signals.contended(str(A))


# --- HTTP -------------------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\n"


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), max_size=8), st.booleans())
def test_framings_give_the_page_and_only_when_complete(body: bytes, cuts: list[int], chunked: bool) -> None:
    if chunked:
        parts, rest = [], body
        for cut in cuts:
            parts, rest = [*parts, rest[:cut]], rest[cut:]
        wire = b"".join(b"%x;x=1\r\n%b\r\n" % (len(part), part) for part in [*parts, rest] if part) + b"0\r\n\r\n"
        response = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + wire
    else:
        response = HEAD + b"content-length: %d\r\n\r\n%b" % (len(body), body)
    assert page_of(response) == (body, True)
    for end in range(0, len(response), 7):
        assert page_of(response[:end]) is None


def test_a_page_without_a_length_ends_with_the_connection() -> None:
    response = b"HTTP/1.0 200 OK\r\n\r\nvllm"
    assert page_of(response) is None
    assert page_of(response, closed=True) == (b"vllm", False)
    assert page_of(HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n") == (b"", False)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        HEAD,
        HEAD + b"content-length: 5\r\n\r\nab",
        HEAD + b"content-length: x\r\n\r\nab",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nab",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nab\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
        b"SSH-2.0\r\n\r\n",
    ],
)
def test_bad_pages(response: bytes) -> None:
    with pytest.raises(BadPage):
        page_of(response, closed=True)


# --- the scraper ------------------------------------------------------------------------------------------------------


class Watched(Signals):
    """Signals that wake a test when something was heard."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    def scraped(self, endpoint: str, figures: Load, sent_at: float) -> None:
        super().scraped(endpoint, figures, sent_at)
        self.heard.set()

    def failed(self, endpoint: str) -> int:
        self.heard.set()
        return super().failed(endpoint)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.heard.clear()
                await self.heard.wait()


class Scraping:
    """A scraper that runs while the block does."""

    def __init__(self, signals: Signals, settings: ScrapeSettings = QUICK) -> None:
        self.scraper = Scraper(signals, settings, seed=1)

    async def __aenter__(self) -> Scraper:
        self.task = asyncio.create_task(self.scraper.run())
        return self.scraper

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def endpoint_of(address: str) -> Endpoint:
    host, _, port = address.rpartition(":")
    return Endpoint(host, int(port))


async def test_scrapes_every_endpoint_again_and_again() -> None:
    servers = several(3)
    for server in servers:
        await server.start()
    signals = Watched()
    endpoints = [endpoint_of(server.address) for server in servers]
    signals.update({"ns/p": endpoints})
    async with Scraping(signals) as scraper:
        scraper.update(endpoints)
        await signals.until(lambda: all(load.blocks == 4096 for load in signals.loads("ns/p").values()))
        first = {key: load.scraped for key, load in signals.loads("ns/p").items()}
        await signals.until(lambda: all(load.scraped > first[key] for key, load in signals.loads("ns/p").items()))
        scraper.update(endpoints[:1])
        assert list(scraper._targets) == [str(endpoints[0])]
    for server in servers:
        await server.stop()


async def test_a_page_is_asked_for_once_for_all_ranks_behind_a_port() -> None:
    server = SimServer(SimSettings(data_parallel_size=2))
    await server.start()
    where = endpoint_of(server.address)
    ranks = [replace(where, rank=rank, by_header=True) for rank in range(3)]
    signals = Watched()
    signals.update({"ns/p": ranks})
    async with Scraping(signals) as scraper:
        scraper.update(ranks)
        assert list(scraper._targets) == [server.address]
        await signals.until(lambda: signals.loads("ns/p")[str(ranks[2])].resting == inf)  # the server has no such rank
        known = signals.loads("ns/p")
        assert [(load.blocks, load.errors) for load in known.values()] == [(4096, 0), (4096, 0), (0, 0)]
        assert known[str(ranks[0])].scraped == known[str(ranks[1])].scraped > 0
        await server.stop()
        await signals.until(lambda: all(load.errors for load in signals.loads("ns/p").values()))
        assert [load.resting == inf for load in signals.loads("ns/p").values()] == [False, False, True]
        scraper.update([where])
        assert list(scraper._targets[server.address].endpoints) == [server.address]
        assert not signals.several
        signals.update({"ns/p": [where]})
        server.settings = replace(server.settings, port=where.port)
        await server.start()
        await signals.until(lambda: signals.several == {server.address: 2})
    await server.stop()


async def test_a_dead_endpoint_counts_errors_and_recovers() -> None:
    (server,) = several(1)
    await server.start()
    endpoint = endpoint_of(server.address)
    await server.stop()
    signals = Watched()
    signals.update({"ns/p": [endpoint]})
    async with Scraping(signals) as scraper:
        scraper.update([endpoint])
        await signals.until(lambda: signals.loads("ns/p")[str(endpoint)].errors >= 3)
        server.settings = replace(server.settings, port=endpoint.port)
        await server.start()
        await signals.until(lambda: signals.loads("ns/p")[str(endpoint)].errors == 0)
    await server.stop()


async def served_by(reply: Callable[[int], bytes | None]) -> tuple[asyncio.Server, Endpoint]:
    """A server that answers the n-th GET with reply(n) and, for None, closes the connection."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                count += 1
                answer = reply(count)
                if answer is None:
                    break
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])


PAGE = b"vllm:num_requests_running 1\n"
OK = HEAD + b"content-length: %d\r\n\r\n%b" % (len(PAGE), PAGE)


async def test_a_label_that_is_corrected_counts() -> None:
    server, endpoint = await served_by(lambda _: OK)
    wrong = replace(endpoint, labels=((ENGINE_LABEL, "sglang"),))
    signals = Watched()
    signals.update({"ns/p": [wrong]})
    async with server, Scraping(signals) as scraper:
        scraper.update([wrong])
        await signals.until(lambda: signals.loads("ns/p")[str(wrong)].errors > 0)
        scraper.update([replace(endpoint, labels=((ENGINE_LABEL, "vllm"),))])
        await signals.until(lambda: signals.loads("ns/p")[str(wrong)].running == 1)


async def test_a_kept_connection_that_was_closed_is_not_an_error() -> None:
    server, endpoint = await served_by(lambda count: OK if count % 2 else None)
    signals = Watched()
    signals.update({"ns/p": [endpoint]})
    async with server, Scraping(signals) as scraper:
        scraper.update([endpoint])
        seen: set[float] = set()

        def enough() -> bool:
            load = signals.loads("ns/p")[str(endpoint)]
            assert load.errors == 0
            seen.add(load.scraped)
            return len(seen) > 3

        await signals.until(enough)


@pytest.mark.parametrize(
    "bad", [HEAD + b"content-length: 3\r\n\r\nup1", b"HTTP/1.1 404 x\r\n\r\n", b"", HEAD + b"\r\n"]
)
async def test_what_is_no_page_is_an_error_and_a_hanging_server_is_one_too(bad: bytes) -> None:
    server, endpoint = await served_by(lambda _: bad)
    signals = Watched()
    signals.update({"ns/p": [endpoint]})
    async with server, Scraping(signals, replace(QUICK, timeout=0.01)) as scraper:
        scraper.update([endpoint])
        await signals.until(lambda: signals.loads("ns/p")[str(endpoint)].errors >= 2)


async def test_an_idle_endpoint_that_gets_a_request_is_scraped_soon() -> None:
    server, endpoint = await served_by(lambda _: OK)
    signals = Watched()
    signals.update({"ns/p": [endpoint]})
    async with server, Scraping(signals, replace(QUICK, slow=3600.0)) as scraper:
        scraper.update([endpoint])
        await signals.until(lambda: signals.loads("ns/p")[str(endpoint)].running == 1)
        first = signals.loads("ns/p")[str(endpoint)].scraped
        signals.started(decision("1", str(endpoint)), now=0.0)
        await signals.until(lambda: signals.loads("ns/p")[str(endpoint)].scraped > first)


async def test_the_rate_of_all_busy_endpoints_together_is_bounded() -> None:
    scraper = Scraper(Signals(), ScrapeSettings(fast=0.1, per_second=200.0))
    for number in range(100):
        scraper.hurry(f"10.0.0.{number}:80")
    assert scraper._interval() == 0.5
