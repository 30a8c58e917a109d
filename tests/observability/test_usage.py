"""The gateway's own process."""

from pathlib import Path

import pytest

from observability import catalogue as c, usage


def test_a_running_process_uses_something() -> None:
    found = {sample.metric: sample.value for sample in usage.collect()}
    assert found[c.PROCESS_CPU_SECONDS_TOTAL] > 0
    assert found[c.PROCESS_RESIDENT_MEMORY_BYTES] > 1 << 20
    assert found[c.PROCESS_OPEN_FDS] >= 3


def test_without_proc_there_is_still_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "PROC", Path("/nowhere"))
    assert [sample.metric for sample in usage.collect()] == [c.PROCESS_CPU_SECONDS_TOTAL]
