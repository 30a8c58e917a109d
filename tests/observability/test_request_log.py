"""The request log: fields, sampling, secrecy, and that it never blocks."""

import asyncio
import io
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, strategies as st

from observability.log import RequestLog, line, record
from picker.facts import Outcome
from picker.trace import NO_TRACE, Trace

OUTCOME = Outcome(
    *("r1", 1_700_000_000.25, "ns/p", "llama", "llama-v2", "chat", 1, "tenant", True, 200, "", "10.0.0.1:8000"),
    duration=2.5,
    ttft=0.25,
    input_tokens=100,
    cached_tokens=32,
    output_tokens=50,
    path="/v1/chat/completions?key=SECRET",
    trace=Trace("a" * 32, "b" * 16, "c" * 16, sampled=True),
    user_agent="openai",
)


class Pipe(io.BytesIO):
    """A stream that says when it was written to."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.broken, self.loop, self.flushed = broken, asyncio.get_running_loop(), asyncio.Event()

    def flush(self) -> None:
        self.loop.call_soon_threadsafe(self.flushed.set)
        if self.broken:
            raise BrokenPipeError


def test_a_record_has_the_names_of_the_conventions() -> None:
    found = record(OUTCOME, "my-project")
    assert found["time"] == "2023-11-14T22:13:20.250+00:00"
    assert found["severity"] == "INFO"
    assert found["url.path"] == "/v1/chat/completions"
    assert found["http.response.status_code"] == 200
    assert found["gen_ai.usage.output_tokens"] == 50
    assert found["logging.googleapis.com/trace"] == "projects/my-project/traces/" + "a" * 32
    assert record(OUTCOME)["logging.googleapis.com/trace"] == "a" * 32
    assert "error.type" not in found
    assert "penstock.queue_seconds" not in found  # not known: absent, not null


@pytest.mark.parametrize(
    ("reason", "severity"), [("upstream_5xx", "ERROR"), ("shed_priority", "WARNING"), ("client_cancelled", "WARNING")]
)
def test_errors_say_whose_they_are(reason: str, severity: str) -> None:
    found = record(replace(OUTCOME, reason=reason, status=0))
    assert (found["severity"], found["error.type"]) == (severity, reason)
    assert "http.response.status_code" not in found


@given(st.text(), st.text(), st.text())
def test_a_record_is_one_line_of_json_whatever_clients_send(model: str, agent: str, path: str) -> None:
    found = line(replace(OUTCOME, model=model, user_agent=agent, path=path + "?SECRET"))
    assert found.decode().splitlines() == [found.decode().removesuffix("\n")]
    assert b"SECRET" not in found
    assert len(orjson.loads(found).get("gen_ai.request.model", "")) <= 128


async def test_errors_are_always_logged_and_successes_at_the_rate() -> None:
    outcomes = [replace(OUTCOME, id=str(n)) for n in range(1000)]
    log = RequestLog(io.BytesIO(), rate=0.1, capacity=5000)
    for outcome in outcomes:
        log.outcome(outcome)
        log.outcome(replace(outcome, reason="upstream_5xx"))
    errors = [found for found in log.lines.take() if b"upstream_5xx" in found]
    assert len(errors) == 1000
    again = RequestLog(io.BytesIO(), rate=0.1, capacity=5000)
    for outcome in outcomes:
        again.outcome(outcome)
    assert 50 < len(again.lines.take()) < 200  # by hash of the id: the same ids in every run


@pytest.mark.parametrize(("rate", "lines"), [(0.0, 0), (1.0, 100)])
async def test_the_rate_reaches_its_ends(rate: float, lines: int) -> None:
    log = RequestLog(io.BytesIO(), rate=rate)
    for n in range(100):
        log.outcome(replace(OUTCOME, id=str(n)))
    assert len(log.lines.take()) == lines


async def test_a_rate_is_a_share() -> None:
    with pytest.raises(ValueError, match="share"):
        RequestLog(io.BytesIO(), rate=10)


async def test_a_full_buffer_drops_and_counts() -> None:
    log = RequestLog(io.BytesIO(), capacity=2)
    for _ in range(5):
        log.outcome(OUTCOME)
    assert [sample.value for sample in log.lines.collect()] == [3]


async def test_lines_are_written_beside_the_loop() -> None:
    pipe = Pipe()
    log = RequestLog(pipe)
    task = asyncio.create_task(log.lines.run())
    log.outcome(OUTCOME)
    await pipe.flushed.wait()
    assert orjson.loads(pipe.getvalue())["penstock.request_id"] == "r1"
    log.outcome(replace(OUTCOME, id="last"))
    task.cancel()  # what is in the buffer is still written
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [orjson.loads(found)["penstock.request_id"] for found in pipe.getvalue().splitlines()] == ["r1", "last"]


async def test_a_broken_stream_loses_lines_not_the_gateway() -> None:
    pipe = Pipe(broken=True)
    log = RequestLog(pipe)
    task = asyncio.create_task(log.lines.run())
    for written in range(2):  # the second write begins when the first is accounted for
        log.outcome(OUTCOME)
        await pipe.flushed.wait()
        pipe.flushed.clear()
        assert log.lines.dropped <= written
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1 <= log.lines.dropped <= 2


def test_a_record_leads_to_its_trace_and_to_the_request() -> None:
    found = record(replace(OUTCOME, method="POST", request_bytes=1234, response_bytes=70), "my-project")
    assert found["logging.googleapis.com/spanId"] == "b" * 16
    assert found["logging.googleapis.com/trace_sampled"] is True
    assert found["httpRequest"] == {
        "requestMethod": "POST",
        "requestUrl": "/v1/chat/completions",
        "status": 200,
        "requestSize": "1234",
        "responseSize": "70",
        "userAgent": "openai",
        "serverIp": "10.0.0.1",
        "latency": "2.500000s",
    }
    plain = record(replace(OUTCOME, trace=NO_TRACE))
    assert not [name for name in plain if name.startswith("logging.") or name == "httpRequest"]
