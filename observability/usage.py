"""What the gateway's own process uses, read when it is asked for. Source: proc(5), Linux."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from observability import catalogue as c
from observability.registry import Sample

_PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc/self")


def collect() -> Iterator[Sample]:
    """For `Registry.collect`; nothing of the memory and the files where there is no /proc."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield Sample(c.PROCESS_CPU_SECONDS_TOTAL, {}, used.ru_utime + used.ru_stime)
    try:
        pages = int((PROC / "statm").read_text(encoding="ascii").split()[1])
        files = len(os.listdir(PROC / "fd"))  # noqa: PTH208  a list of names is all that is wanted
    except OSError:
        return
    yield Sample(c.PROCESS_RESIDENT_MEMORY_BYTES, {}, pages * _PAGE)
    yield Sample(c.PROCESS_OPEN_FDS, {}, files)
