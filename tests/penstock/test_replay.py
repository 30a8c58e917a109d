"""`penstock replay`: the same again, what differs, another configuration, and what cannot be read."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock import cli
from picker.load import Load
from picker.record import DecisionRecord
from picker.record_json import config_line, record_line
from tests.picker._recorded import ENDPOINTS, RANKS, plugin, traffic

ASK: dict[str, Any] = {"model": "m", "prompt": 300, "headers": {}, "image": False, "subset": None}
LOADS = tuple(Load(scraped=100.0, waiting=0 if i == 3 else 5, kv_usage=0.0 if i == 5 else 0.9) for i in range(7))
CONFIG = {"plugins": [plugin("queue-scorer"), plugin("python-scorer", "own", function="mine:score")]}


def records(count: int = 3) -> list[DecisionRecord]:
    return traffic(CONFIG, LOADS, [ASK] * count)[0]


def lines(*found: DecisionRecord) -> bytes:
    return b"".join([config_line(found[0].config), *map(record_line, found)])


def a_file(folder: Path, content: bytes | str, name: str = "decisions.jsonl") -> str:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["replay", *arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, a_file(tmp_path, lines(*records())))
    assert (status, said) == (0, "3 decisions are the same, 0 differ, 0 lines cannot be read\n")


def test_ranks_are_named_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = traffic(CONFIG, LOADS, [ASK] * 3, RANKS)
    assert all(one.picked and all("@" in name for name in one.picked.endpoints) for one in found)
    assert run(capsys, a_file(tmp_path, lines(*found)))[0] == 0
    status, said, _ = run(capsys, a_file(tmp_path, lines(*found)), "--show", found[0].id)
    assert status == 0 and {"endpoint": "10.0.0.0:8000@1"}.items() <= json.loads(said)["candidates"][1].items()


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines(*records()))))
    assert run(capsys, "-")[0] == 0


def test_what_differs_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, three = records()
    assert two.picked is not None
    worse = replace(two, picked=replace(two.picked, endpoints=(str(ENDPOINTS[0]),)))
    file = a_file(tmp_path, lines(one, worse, three) + b'{"penstock_decision": 1, "cut": ')
    status, said, _ = run(capsys, file)
    assert status == 1
    first, second, third = said.splitlines()
    assert first.startswith(f"{file}:3: id-1: endpoints: 10.0.0.0:8000 was recorded, ")
    assert second == f"{file}:5: the line is cut off, or no JSON"
    assert third == "2 decisions are the same, 1 differ, 1 lines cannot be read"


def test_a_header_that_was_withheld_is_why_it_may_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = plugin("header-label-affinity-scorer", headerName="authorization", labelKey="tier")
    (found,), _ = traffic({"plugins": [scorer]}, LOADS, [ASK])
    assert found.picked is not None
    other = replace(found, picked=replace(found.picked, endpoints=found.picked.endpoints[::-1]))
    status, said, _ = run(capsys, a_file(tmp_path, lines(other)))
    assert (status, "the header authorization was read, and its value is not recorded" in said) == (1, True)


def test_refusals_by_what_waits_are_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said, _ = run(capsys, a_file(tmp_path, lines(replace(records()[0], turn=None))))
    assert (status, said.splitlines()[1].startswith("1 refusals came without a choice")) == (0, True)


def test_a_configuration_that_cannot_be_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one, *_) = records()
    bad = replace(one, config=replace(one.config, content={"plugins": [{"type": "from-the-future"}]}))
    status, said, _ = run(capsys, a_file(tmp_path, lines(bad)))
    assert (status, "the plugin 'from-the-future' is not supported" in said) == (1, True)


def test_an_explanation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = a_file(tmp_path, lines(*records()))
    status, said, _ = run(capsys, file, "--show", "id-1")
    assert (status, set(json.loads(said)["stages"][0]["scores"])) == (0, {str(one) for one in ENDPOINTS})
    assert run(capsys, file, "--show", "id-9")[0] == 2


def test_another_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = a_file(tmp_path, "plugins: [{type: kv-cache-utilization-scorer}]", "other.yaml")
    (record,), _ = traffic({"plugins": [plugin("queue-scorer")]}, LOADS, [ASK])
    status, said, _ = run(capsys, a_file(tmp_path, lines(record)), "--config", other)
    first, summary, ttft, _ = said.splitlines()
    assert (status, first.startswith(f"id-0: {ENDPOINTS[3]} -> {ENDPOINTS[5]}, first token in ")) == (0, True)
    assert summary.startswith("1 decisions: 1 would go elsewhere, 0 have other fallbacks, 0 have another outcome")
    assert ttft.startswith("predicted time to first token: mean ")


def test_another_configuration_may_have_another_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = "plugins: [{type: by-label, parameters: {label: tier, validValues: [none]}}]"
    other = a_file(tmp_path, nobody, "other.yaml")
    status, said, _ = run(capsys, a_file(tmp_path, lines(*records(2))), "--config", other)
    assert (status, said.count("-> no_endpoints (the filter 'by-label' lets no endpoint pass)")) == (0, 2)
    assert "2 have another outcome" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.jsonl",), "none.jsonl cannot be read"),
        (("empty",), "has no decision record"),
        (("good", "--config", "none.yaml"), "none.yaml cannot be read"),
        (("good", "--config", "list.yaml"), "it must be a mapping"),
        (("good", "--config", "magic.yaml"), "plugins[0].type: the plugin 'magic' is not supported"),
        (("good", "--config", "own.yaml"), "start the gateway with --scorers DIR"),
    ],
)
def test_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    a_file(tmp_path, b"{}\n", "empty")
    a_file(tmp_path, lines(*records()), "good")
    a_file(tmp_path, "[1]", "list.yaml")
    a_file(tmp_path, "plugins: [{type: magic}]", "magic.yaml")
    a_file(tmp_path, "plugins: [{type: python-scorer, parameters: {function: 'mine:score'}}]", "own.yaml")
    status, _, said = run(capsys, *arguments)
    assert (status, message in said) == (2, True)


def test_scorers_of_the_user_are_asked_anew_by_another_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_file(
        tmp_path,
        "def score(view):\n    return [float(one.name.startswith('10.0.0.6')) for one in view.endpoints]",
        "mine.py",
    )
    other = a_file(
        tmp_path, "plugins: [{type: python-scorer, parameters: {function: 'mine:score', budget: 10s}}]", "own.yaml"
    )
    file = a_file(tmp_path, lines(*records(1)))
    status, said, _ = run(capsys, file, "--config", other, "--scorers", str(tmp_path))
    assert (status, f"-> {ENDPOINTS[6]}" in said) == (0, True)
