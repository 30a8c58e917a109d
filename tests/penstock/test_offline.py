"""`penstock translate`: the configuration and the status of manifests, and a status for CI."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from penstock.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart"


def document(capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    assert main(["translate", str(EXAMPLE), "--output", "json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_everything_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys)
    assert set(found) == {"envoy", "status", "problems"}
    assert set(found["envoy"]) == {"clusters", "endpoints", "listeners", "routes", "secrets"}
    assert found["problems"] == []


@pytest.mark.parametrize(("show", "keys"), [("envoy", {"envoy"}), ("status", {"status", "problems"})])
def test_a_part(capsys: pytest.CaptureFixture[str], show: str, keys: set[str]) -> None:
    assert set(document(capsys, "--show", show)) == keys


def test_yaml_says_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = document(capsys)
    assert main(["translate", str(EXAMPLE)]) == 0
    assert YAML(typ="safe").load(capsys.readouterr().out) == wanted


def test_listeners_are_bound_as_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--listen", "8080=127.0.0.5:18080", "--listen", "0.0.0.0")
    socket = found["envoy"]["listeners"][0]["address"]["socketAddress"]
    assert (socket["address"], socket["portValue"]) == ("127.0.0.5", 18080)
    everywhere = document(capsys, "--listen", "0.0.0.0")["envoy"]["listeners"][0]["address"]["socketAddress"]
    assert (everywhere["address"], everywhere["portValue"]) == ("0.0.0.0", 8080)


def test_a_problem_is_told_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (EXAMPLE / "routes.yaml").read_text().replace("name: llm-base", "name: nobody")
    for path in EXAMPLE.iterdir():
        (tmp_path / path.name).write_text(text if path.name == "routes.yaml" else path.read_text())
    assert main(["translate", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "routes.yaml:" in told.err and "nobody" in told.err and "spec.rules[1].backendRefs[0]" in told.err
    assert "nobody" in YAML(typ="safe").load(told.out)["problems"][0]


def test_a_key_is_never_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden = Path(__file__).parents[1] / "golden" / "https.in.yaml"
    (tmp_path / "https.yaml").write_text(golden.read_text())
    main(["translate", str(tmp_path), "--output", "json"])
    told = capsys.readouterr()
    key = golden.read_text().partition("tls.key: ")[2].split()[0]
    assert json.loads(told.out)["envoy"]["secrets"] == [{"name": "default/cert"}]
    assert key not in told.out + told.err


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_bad_picker_configuration_is_a_problem_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in EXAMPLE.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "picker.yaml").write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: max-score-picker\n- type: no-such-scorer\n"
    )
    assert main(["translate", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()  # once, though two pools use it
    assert line.startswith("picker.yaml:5: EndpointPickerConfig ")
    assert "plugins[1].type: the plugin 'no-such-scorer' is not supported" in line
    assert line.endswith("the last good configuration stays in effect")


def test_a_directory_without_manifests_guards_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", str(tmp_path)]) == 2
    assert "holds no manifest" in capsys.readouterr().err
