"""The wiring without an Envoy: what starts ends."""

import socket
from pathlib import Path

import pytest

from penstock.run import running, taken
from penstock.settings import Proxy, Settings
from picker.facts import Decision, Outcome
from picker.inflight import LogEntry


@pytest.mark.asyncio
async def test_the_request_log_is_complete_at_the_end(tmp_path: Path) -> None:
    manifests, file = tmp_path / "manifests", tmp_path / "requests.jsonl"
    manifests.mkdir()
    settings = Settings(manifests, proxy=Proxy(start=False), telemetry="", request_log=str(file))
    async with running(settings) as gateway:
        gateway.facts.tell(Outcome("1", 0.0, "ns/p", "m", "m", "", 0, "", False, 200, "", "a:1"))
    assert file.read_text().count("\n") == 1


@pytest.mark.asyncio
async def test_a_log_that_overtakes_the_decision_leaves_nothing_in_flight(tmp_path: Path) -> None:
    """A client that leaves while the picker is slow: its entry comes first, over a connection of its own."""
    facts: list[object] = []
    async with running(Settings(tmp_path, proxy=Proxy(start=False), telemetry="")) as gateway:
        gateway.facts.on(object, facts.append)
        facts.clear()
        gateway.ended(LogEntry(request_id="r-1", flags=frozenset({"DC"}), cluster="pool/ns/p"))
        decided = Decision(*("1", 0.0, "ns/p", "m", "m", "", 0, "", False), ("a:1",), 1, 9, 0, 9, 0.0, request_id="r-1")
        gateway.signals.started(decided, 0.0)
        gateway.asked(decided)
        assert gateway.signals.inflight.count("a:1") == 0
    decision, outcome = facts
    assert decision is decided and isinstance(outcome, Outcome)
    assert (outcome.id, outcome.reason) == ("1", "client_cancelled")


def test_a_port_that_another_envoy_shares_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        port = other.getsockname()[1]
        (problem,) = taken([("127.0.0.1", port)])
        assert problem.startswith(f"127.0.0.1:{port}: ")
    assert taken([("127.0.0.1", port)]) == []
