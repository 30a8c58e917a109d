"""Who leads where, of the examples."""

from pathlib import Path

import pytest

from penstock import topology as module
from penstock.topology import topology
from xds_server.model.graph import Graph
from xds_server.resolve import resolve
from xds_server.sources import files

EXAMPLES = Path(__file__).parents[2] / "examples"


def graph(name: str) -> Graph:
    return resolve(files.read(EXAMPLES / name).state)


def test_routes_lead_to_their_pools_by_weight() -> None:
    found = topology(graph("several-models"))
    assert found["more"] == 0
    rows = {row["route"]: row for row in found["routes"]}
    assert {row["gateway"] for row in found["routes"]} == {""}  # one fleet serves every Gateway
    assert all(row["hostnames"] == ["example.com"] for row in rows.values())
    shares = {each["name"]: each["weight"] for row in rows.values() for each in row["backends"]}
    assert set(shares) == {"genai-inference/gemma", "genai-inference/gemma-new", "genai-inference/small"}
    for row in rows.values():
        assert sum(each["weight"] for each in row["backends"]) == pytest.approx(1.0)
        assert all(each["pool"] for each in row["backends"])


def test_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = topology(graph("several-models"))["routes"]
    monkeypatch.setattr(module, "MOST", 1)
    assert topology(graph("several-models")) == {"routes": whole[:1], "more": len(whole) - 1}


def test_nothing_leads_nowhere() -> None:
    assert topology(Graph()) == {"routes": [], "more": 0}
