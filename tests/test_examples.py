"""examples/: each is complete and without a mistake, and says which servers a demo must start."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from penstock.cli import main
from penstock.sim.cli import settings_of
from xds_server.model.graph import Graph
from xds_server.resolve import resolve
from xds_server.sources import files

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())
SIMULATE = "penstock.dev/simulate"


def graph(example: Path) -> Graph:
    return resolve(files.read(example).state)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
class TestExample:
    def test_has_no_problem(self, example: Path) -> None:
        assert graph(example).problems == ()

    def test_every_condition_is_good(self, example: Path) -> None:
        document = translated(example)
        bad = {"Conflicted"}  # True is bad for these alone
        conditions = [found for each in document["status"] for found in conditions_of(each)]
        assert conditions
        for found in conditions:
            assert (found["status"] == "True") != (found["type"] in bad), found

    def test_every_pool_has_endpoints_on_loopback(self, example: Path) -> None:
        pools = graph(example).pools
        assert pools
        for pool in pools.values():
            assert pool.endpoints
            assert all(endpoint.address.startswith("127.") for endpoint in pool.endpoints)

    def test_no_two_pools_share_an_endpoint(self, example: Path) -> None:
        endpoints = [endpoint for pool in graph(example).pools.values() for endpoint in pool.endpoints]
        assert len(endpoints) == len(set(endpoints))

    def test_every_pool_says_what_a_demo_simulates(self, example: Path) -> None:
        options = [
            line.partition(f"{SIMULATE}: ")[2] for line in text_of(example).splitlines() if f"{SIMULATE}: " in line
        ]
        assert len(options) == len(graph(example).pools)
        for each in options:
            assert settings_of(each.split()).models

    def test_translates(self, example: Path) -> None:
        resources = translated(example)["envoy"]
        assert resources["clusters"] and resources["listeners"] and resources["routes"]

    def test_is_written_in_documents_of_kubernetes(self, example: Path) -> None:
        for each in text_of(example).split("\n---\n"):
            assert "apiVersion: " in each and "kind: " in each and "metadata:" in each


def text_of(example: Path) -> str:
    return "\n---\n".join(path.read_text().strip() for path in sorted(example.rglob("*.yaml")))


def translated(example: Path) -> dict[str, Any]:
    """What `penstock translate` prints."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert main(["translate", str(example), "--output", "json"]) == 0, err.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def conditions_of(value: object) -> list[dict[str, str]]:
    """Every condition in a status, however deep."""
    if isinstance(value, list):
        return [found for each in value for found in conditions_of(each)]
    if not isinstance(value, dict):
        return []
    if {"type", "status", "reason"} <= value.keys() and isinstance(value["status"], str):
        return [value]
    return conditions_of(list(value.values()))


def test_there_are_the_scenarios_of_the_field() -> None:
    assert {path.name for path in EXAMPLES} >= {"quickstart", "lora", "several-models"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
def test_pod_addresses_of_the_examples_are_all_loopback() -> None:
    lines = [line for example in EXAMPLES for line in text_of(example).splitlines() if "podIP" in line]
    assert lines and all("127.0." in line for line in lines)
