"""What the page draws agrees with what was recorded."""

from dataclasses import replace

from observability.console.signals import BUCKETS, requests
from observability.record import Recorder
from observability.registry import Registry
from picker.facts import Outcome

WELL = Outcome(
    *("1", 0.0, "ns/p", "chat", "chat-1", "", 0, "", True, 200, "", "a:1"),
    duration=2.0,
    ttft=0.2,
    input_tokens=100,
    cached_tokens=60,
    output_tokens=11,
)


def test_counts_are_those_of_the_outcomes() -> None:
    registry = Registry()
    recorder = Recorder(registry)
    outcomes = [
        WELL,
        replace(WELL, id="2", streaming=False),
        replace(WELL, id="3", reason="upstream_5xx", status=503, ttft=None, output_tokens=None),
        replace(
            WELL, id="4", reason="queue_full", status=429, endpoint="", ttft=None, duration=None, output_tokens=None
        ),
        replace(WELL, id="5", priority=-1),
    ]
    for outcome in outcomes:
        recorder.outcome(outcome)
    others, first = requests(registry.snapshot())
    assert (first["pool"], first["model"], first["target_model"], first["priority"]) == ("ns/p", "chat", "chat-1", "0")
    assert (first["total"], others["total"]) == (4, 1)
    assert first["errors"] == {"client": 0, "server": 1, "shed": 1, "cancelled": 0}
    assert first["tokens"] == {"input": 200, "cached_input": 120, "output": 22}
    assert sum(first["ttft"]) == 2  # with and without streaming: one distribution
    assert first["ttft"][BUCKETS["ttft"].index(0.2)] == 2
    assert all(len(first[name]) == len(bounds) + 1 for name, bounds in BUCKETS.items())


def test_nothing_recorded_is_nothing_to_draw() -> None:
    registry = Registry()
    Recorder(registry)
    assert requests(registry.snapshot()) == []
