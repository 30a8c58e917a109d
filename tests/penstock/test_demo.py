"""The demo: what it asks for, what it counts, and the whole of it as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.demo.targets import Target, targets
from penstock.demo.view import Figures, rows
from picker.facts import Outcome
from xds_server.resolve import resolve
from xds_server.sources import files

ROOT = Path(__file__).parents[2]


def outcome(**changes: object) -> Outcome:
    values = {
        "id": "1", "time": 0.0, "pool": "default/gemma", "model": "gemma", "target_model": "gemma", "objective": "",
        "priority": 0, "fairness_id": "", "streaming": True, "status": 200, "reason": "", "endpoint": "127.0.0.1:8101",
    }  # fmt: skip
    return Outcome(**(values | changes))  # type: ignore[arg-type]


def found(example: str) -> list[Target]:
    state = files.read(ROOT / "examples" / example).state
    return targets(resolve(state), state)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("quickstart", [(m, "localhost", "/v1/chat/completions") for m in ("gemma", "llm-base", "english-bot", "spanish-bot", "french-bot")]),
        ("several-models", [(m, "example.com", "/completions") for m in ("chatbot", "chatbot-batch", "sentiment", "recommender")]),
        ("lora", [(m, "localhost", "/v1/chat/completions") for m in ("llm-base", "english-bot", "spanish-bot")]),
    ],
)  # fmt: skip
def test_every_model_that_a_route_leads_to_is_asked_for(example: str, expected: list[tuple[str, str, str]]) -> None:
    assert sorted((each.model, each.host, each.path) for each in found(example)) == sorted(expected)


def test_the_sdk_gets_the_base_of_the_path() -> None:
    assert Target("m", "localhost", "/v1/chat/completions").sdk_base == "/v1"
    assert Target("m", "localhost", "/completions").sdk_base == ""
    assert Target("m", "localhost", "/generate").sdk_base is None


def test_figures_count_what_reached_a_pool() -> None:
    figures = Figures()
    figures.ended(outcome(ttft=0.2, input_tokens=100, cached_tokens=50, output_tokens=7))
    figures.ended(outcome(ttft=0.4, input_tokens=100, cached_tokens=0, reason="upstream_5xx"))
    figures.ended(outcome(pool="", status=404))
    assert figures.requests == 2
    (row,) = rows(figures)
    assert (row["requests"], row["failed"]) == (2, 1)
    assert row["ttft_p50_ms"] == 300.0
    assert row["cache_hit_ratio"] == 0.25
    assert row["output_tokens"] == 7


@pytest.mark.envoy
def test_the_demo_runs_once_and_nothing_fails(tmp_path: Path) -> None:
    """On ports of its own: the demo of a user, or of another test run, may be using the usual ones."""
    for file in (ROOT / "examples" / "quickstart").glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text().replace("127.0.0.1:8", "127.0.83.1:8"))
    command = [
        sys.executable,
        "-m",
        "penstock.cli",
        "demo",
        "--once",
        "--seconds",
        "2",
        "--rate",
        "20",
        "--manifests",
        str(tmp_path),
        "--listen",
        "127.0.83.1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["requests"] == result["seen_by_gateway"] > 0
    assert result["failed"] == 0
    assert sum(row["requests"] for row in result["rows"]) == result["requests"]
    assert "curl http://127.0.83.1:8080/v1/chat/completions" in done.stderr


def test_a_directory_that_is_none_is_named() -> None:
    command = [sys.executable, "-m", "penstock.cli", "demo", "--manifests", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "penstock: error: nowhere is no directory; name one: penstock demo --manifests DIR\n"
