"""Which decisions are recorded; the ring in its bounds; the log's lines, and who pays for a stream that does not take them."""

import asyncio
import io
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from observability.decisions import DecisionLog, Decisions, explained, listed
from picker.ask import Ask
from picker.load import Load
from picker.record import Config, DecisionRecord
from picker.record_json import read
from picker.request import InferenceRequest
from tests.picker._recorded import ENDPOINTS, plugin, traffic

ASK: dict[str, Any] = {"model": "m", "prompt": 300, "headers": {}, "image": False, "subset": None}
IDLE = tuple(Load(scraped=100.0) for _ in ENDPOINTS)


def a_record(id_: str = "id-0", config: Any = None) -> DecisionRecord:
    (found,), _ = traffic(config, IDLE, [ASK])
    return replace(found, id=id_)


def an_ask(id_: str, now: float = 0.0, **headers: str) -> Ask:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Ask(InferenceRequest("/", headers=named), "", None, id_, now, now)


def test_a_share_is_recorded_and_the_same_by_every_replica() -> None:
    first, other = Decisions(0.1), Decisions(0.1)
    for kept in (first, other):
        assert kept.wants(an_ask("first")) == "sampled"
    ids = [str(number) for number in range(2000)]
    chosen = [id_ for id_ in ids if first.wants(an_ask(id_))]
    assert 140 < len(chosen) < 260
    assert chosen == [id_ for id_ in ids if other.wants(an_ask(id_))]


def test_at_least_one_a_second_however_few_requests_there_are() -> None:
    kept = Decisions(0.0001)
    assert [kept.wants(an_ask(f"x{n}", n / 4)) for n in range(9)] == (["sampled"] + [None] * 3) * 2 + ["sampled"]


def test_none_where_none_are_wanted() -> None:
    assert Decisions(0.0).wants(an_ask("a")) is None
    with pytest.raises(ValueError, match="share"):
        Decisions(1.5)


def test_clients_ask_where_they_may_and_not_without_end() -> None:
    kept = Decisions(0.0, header=True)
    assert kept.wants(an_ask("a", penstock_explain="1")) == "asked"
    assert [kept.wants(an_ask("a", penstock_explain=value)) for value in ("", "0", "False")] == [None] * 3
    assert Decisions(0.0).wants(an_ask("a", penstock_explain="1")) is None
    many = [kept.wants(an_ask(str(n), 10.0, penstock_explain="1")) for n in range(100)]
    assert many == ["asked"] * 20 + [None] * 80
    assert kept.wants(an_ask("a", 11.0, penstock_explain="1")) == "asked"


def test_the_ring_keeps_the_latest_in_its_bounds() -> None:
    record = a_record()
    kept, told = Decisions(capacity=3), []
    kept.on_record = told.append
    for number in range(5):
        kept.take(replace(record, id=str(number)))
    assert [one.id for one in kept.latest(9)] == ["4", "3", "2"]
    assert [one.id for one in kept.latest(1)] == ["4"]
    assert (kept.get("1"), kept.get("2") is not None, len(told)) == (None, True, 5)
    small = Decisions(candidates=2 * len(ENDPOINTS))
    for number in range(5):
        small.take(replace(record, id=str(number)))
    assert [one.id for one in small.latest(9)] == ["4", "3"]
    tiny = Decisions(candidates=1)
    tiny.take(record)
    assert tiny.get(record.id) is record


def test_what_is_served() -> None:
    record = a_record(config={"plugins": [plugin("queue-scorer")]})
    (row,) = orjson.loads(listed([record]))["decisions"]
    assert (row["id"], row["pool"], row["candidates"]) == (record.id, "ns/pool", len(ENDPOINTS))
    page = explained(record)
    assert orjson.loads(page)["explanation"]["stages"][0]["scorers"] == [{"scorer": "queue-scorer", "weight": 1.0}]
    assert [one.record for one in read([page])] == [record]
    broken = replace(record, config=Config("unreadable"))
    assert "could not be recorded" in orjson.loads(explained(broken))["explanation"]["error"]


async def logged(stream: Any, *records: DecisionRecord, **options: Any) -> DecisionLog:
    found = DecisionLog(stream, **options)
    task = asyncio.create_task(found.lines.run())
    await asyncio.sleep(0)  # a task that has not begun ends without a word
    for record in records:
        found.offer(record)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return found


async def test_a_log_says_a_configuration_once_and_is_read_again() -> None:
    one, other = a_record(config={"plugins": [plugin("queue-scorer")]}), a_record("b")
    stream = io.BytesIO()
    await logged(stream, one, other, one)
    lines = stream.getvalue().splitlines()
    assert [b'"penstock_config"' in line for line in lines] == [True, False, True, False, False]
    assert [found.record for found in read(lines)] == [one, other, one]


async def test_a_long_log_says_it_again() -> None:
    stream = io.BytesIO()
    await logged(stream, *[a_record()] * 1001, capacity=2000)
    assert stream.getvalue().count(b'"penstock_config"') == 2


async def test_lines_are_written_while_it_runs() -> None:
    stream = io.BytesIO()
    found = DecisionLog(stream)
    task = asyncio.create_task(found.lines.run())
    found.offer(a_record())
    async with asyncio.timeout(30):
        while not stream.getvalue():
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert len(list(read(stream.getvalue().splitlines()))) == 1


async def test_what_the_buffer_or_the_stream_does_not_take_is_counted() -> None:
    class Full(io.BytesIO):
        def write(self, _data: Any) -> int:
            raise OSError("no space left on device")

    record = a_record()
    assert (await logged(io.BytesIO(), *[record] * 5, capacity=2)).lines.dropped == 3
    found = await logged(Full(), record, record)
    assert found.lines.dropped == 2
    ((sample),) = found.lines.collect()
    assert sample.value == 2
    huge = replace(record, request=replace(record.request, cacheable=1 << 80))
    assert (await logged(io.BytesIO(), huge)).lines.dropped == 1


async def test_a_record_leads_to_the_trace_of_its_request_and_is_still_read() -> None:
    stream, made = io.BytesIO(), a_record()
    traced = replace(made, request=replace(made.request, trace_id="a" * 32))
    await logged(stream, made, traced, project="p")
    lines = stream.getvalue().splitlines()
    links = [orjson.loads(line).get("logging.googleapis.com/trace") for line in lines]
    assert [link for link in links if link] == [f"projects/p/traces/{'a' * 32}"]
    assert [line.record.request.trace_id for line in read(lines) if line.record] == ["", "a" * 32]
