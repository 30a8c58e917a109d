"""The command line: options, mistakes with their remedies, exit statuses."""

import asyncio
import json
import signal
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from penstock.cli import _settings, main, parser
from penstock.settings import Listen, Settings
from tests.e2e.waiting import free_port

RUN = ["run", "--manifests", "m"]


def settings(*options: str) -> Settings:
    return _settings(parser().parse_args([*RUN, *options]))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command ends with."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("penstock")
    return text


def test_the_options_of_run_have_the_defaults_of_settings() -> None:
    assert settings() == Settings(Path("m"), request_log="-")


def test_every_option_of_run_reaches_the_settings() -> None:
    found = settings(
        *(
            "--no-envoy",
            "--workers",
            "3",
            "--admin",
            "unix:/a",
            "--xds",
            "[::1]:1",
            "--xds",
            "unix:/x",
            "--picker",
            "h:2",
        ),
        *("--telemetry", "h:3", "--request-log", "", "--request-log-rate", "0.5", "--max-body", "64Ki"),
        *("--decisions", "d.jsonl", "--decisions-rate", "0.1", "--explain", "header"),
        *("--picker-timeout", "0.25", "--scorers", "s", "--listen", "0.0.0.0", "--listen", "80=[::1]:8080"),
        *("--scaler", "h:4"),
    )
    assert (found.proxy.start, found.proxy.workers, found.proxy.admin) == (False, 3, "unix:/a")
    assert (found.xds, found.picker, found.telemetry) == (("[::1]:1", "unix:/x"), "h:2", "h:3")
    assert (found.autoscaling.scaler, found.autoscaling.addresses) == ("h:4", "h:4")
    assert (found.request_log, found.request_log_rate) == ("", 0.5)
    assert (found.decisions, found.decisions_rate, found.explain) == ("d.jsonl", 0.1, True)
    assert (found.max_body, found.picker_timeout, found.scorers) == (65536, 0.25, Path("s"))
    assert found.listen == Listen("0.0.0.0", ((80, "::1", 8080),))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*RUN, "--manifest", "x"], "did you mean --manifests?"),
        ([*RUN, "--telemetri=h:1"], "did you mean --telemetry?"),
        ([*RUN, "--xyzzy"], "see `penstock run --help`"),
        (["run"], "--manifests"),
        ([], "COMMAND"),
        (["rum"], "rum"),
        ([*RUN, "--xds", "nowhere"], "write HOST:PORT"),
        ([*RUN, "--listen", "80=nowhere"], "write HOST:PORT"),
        ([*RUN, "--listen", "http=h:80"], "write PORT=ADDRESS:PORT"),
        ([*RUN, "--listen", "80=unix:/x"], "write PORT=ADDRESS:PORT"),
        ([*RUN, "--workers", "-1"], "0 or more"),
        ([*RUN, "--workers", "many"], "0 or more"),
        ([*RUN, "--request-log-rate", "2"], "a number from 0 to 1"),
        ([*RUN, "--request-log-rate", "nan"], "a number from 0 to 1"),
        ([*RUN, "--decisions-rate", "-1"], "a number from 0 to 1"),
        ([*RUN, "--explain", "yes"], "header"),
        (["replay"], "FILE"),
        ([*RUN, "--max-body", "32MB"], "Ki, Mi or Gi"),
        ([*RUN, "--max-body", "1"], "from 1Ki to 1Gi"),
        ([*RUN, "--max-body", "2Gi"], "from 1Ki to 1Gi"),
        (["bootstrap"], "--xds"),
        (["translate"], "DIR"),
    ],
)
def test_a_mistake_is_one_line_with_the_remedy(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in told(capsys, *arguments)


def test_an_abbreviation_is_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """It would mean something else, or nothing, once another option begins like it."""
    assert "did you mean" in told(capsys, *RUN, "--telem", "h:1")


@pytest.mark.parametrize(("text", "size"), [("1024", 1024), ("1Ki", 1024), ("32Mi", 32 << 20), ("1Gi", 1 << 30)])
def test_sizes(text: str, size: int) -> None:
    assert settings("--max-body", text).max_body == size


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out.strip()) == (0, f"penstock {version('penstock')}")


@pytest.mark.parametrize("command", ["run", "demo", "sim", "translate", "replay", "bootstrap"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"penstock {command}" in capsys.readouterr().out


def test_bootstrap_prints_json_for_envoy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bootstrap", "--xds", "10.0.0.1:18000", "--node-id", "edge-7", "--fleet", "edge"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["node"] == {"id": "edge-7", "cluster": "edge"}


async def started(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "penstock.cli", *arguments), stderr=asyncio.subprocess.PIPE
    )


async def run_without_envoy(folder: Path, telemetry: str) -> asyncio.subprocess.Process:
    xds, picker = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    options = ("--no-envoy", "--xds", xds, "--picker", picker, "--telemetry", telemetry, "--request-log", "")
    return await started("run", "--manifests", str(folder), *options)


async def line_with(process: asyncio.subprocess.Process, word: str) -> str:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := (await process.stderr.readline()).decode():
            if word in line:
                return line
    raise AssertionError(f"it ended without a word of {word}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_ends_well_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    telemetry = f"127.0.0.1:{free_port()}"
    process = await run_without_envoy(tmp_path, telemetry)
    assert telemetry in await line_with(process, "ready")
    process.send_signal(number)
    assert process.stderr is not None
    rest = (await process.stderr.read()).decode()
    assert (await process.wait(), "Traceback" in rest) == (0, False), rest


async def ends_with_a_line(process: asyncio.subprocess.Process) -> str:
    _, said = await process.communicate()
    text = said.decode()
    assert process.returncode == 1 and "Traceback" not in text, text
    return next(line for line in text.splitlines() if "error" in line)


async def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    process = await run_without_envoy(tmp_path / "nowhere", f"127.0.0.1:{free_port()}")
    assert "nowhere" in await ends_with_a_line(process)


async def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        taken = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        process = await run_without_envoy(tmp_path, taken)
        assert taken.rpartition(":")[2] in await ends_with_a_line(process)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--no-envoy",), "say where, by --xds ADDRESS and --picker ADDRESS"),
        (("--no-envoy", "--xds", "127.0.0.1:1", "--picker", "0.0.0.0:9002"), "name an address that they reach"),
    ],
)
async def test_a_fleet_elsewhere_needs_addresses(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    process = await started("run", "--manifests", str(tmp_path), *options)
    assert said in await ends_with_a_line(process)
