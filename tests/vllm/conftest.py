"""Two vLLM servers for all tests of this folder, and a gateway before them. Without PENSTOCK_VLLM the tests are skipped."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.server import Server
from tests.vllm.text import CORPUS

ROOT = Path(__file__).parents[2]
VARIABLE = "PENSTOCK_VLLM"
FIGURES: dict[str, Any] = {}


@pytest.fixture(scope="session")
def vllm() -> Path:
    """The executable. PENSTOCK_VLLM names it, or the virtual environment that has it."""
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"needs vLLM: make test-vllm, or {VARIABLE} names a virtual environment that has it")
    found = Path(named).absolute()
    return found / "bin" / "vllm" if found.is_dir() else found


@pytest.fixture(scope="session")
def models(vllm: Path) -> Path:
    """The model and its adapters; made once, with the Python of vLLM."""
    found = ROOT / "build" / "vllm-models"
    if not (found / ".complete").exists():
        maker = Path(__file__).with_name("model.py")
        subprocess.run([vllm.with_name("python"), maker, found, CORPUS], check=True)
    return found


@pytest.fixture(scope="session")
def fleet(vllm: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two servers, alike."""
    logs = tmp_path_factory.mktemp("vllm")
    found = [Server(vllm, models, logs / f"{name}.log") for name in ("one", "two")]
    try:
        for each in found:
            each.start()
        for each in found:
            each.ready()
        yield found
    finally:
        for each in found:
            each.stop()


@pytest.fixture
def servers(fleet: list[Server]) -> list[Server]:
    """Both well and with empty caches, whatever the test before did to them."""
    for each in fleet:
        if each.process is None or each.process.poll() is not None:
            each.start()
    for each in fleet:
        each.ready()
        each.reset()
    return fleet


@pytest.fixture
async def gateway(servers: list[Server], tmp_path: Path) -> AsyncIterator[Any]:
    """Penstock with both servers as a pool: a World."""
    from tests.vllm.rig import before  # noqa: PLC0415 -- what it imports warns, and pytest is not configured yet

    async with before(servers, tmp_path) as found:
        yield found


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a test measured, for the table at the end."""
    found: dict[str, Any] = FIGURES.setdefault(request.node.name, {})
    return found


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for test, found in FIGURES.items():
        for name, value in found.items():
            terminalreporter.write_line(
                f"{test}: {name}: {value:.4g}" if isinstance(value, float) else f"{test}: {name}: {value}"
            )
