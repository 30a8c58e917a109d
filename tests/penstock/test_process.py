"""A command as a process: what it writes."""

import logging
import resource
import sys

from penstock.process import OneLine, allow_files


def test_nobody_forges_a_line_of_the_log() -> None:
    form = OneLine("%(levelname)-7s %(message)s")
    said = logging.LogRecord(
        "penstock", logging.ERROR, "", 1, "proxy %s refused", ("a\nINFO    fine\x1b[2J\u2028",), None
    )
    assert form.format(said) == r"ERROR   proxy a\nINFO    fine\x1b[2J\u2028 refused"


def test_a_traceback_has_lines() -> None:
    try:
        int("no")
    except ValueError:
        said = logging.LogRecord("penstock", logging.ERROR, "", 1, "ours", (), sys.exc_info())
    assert OneLine("%(message)s").format(said).splitlines()[-1].startswith("ValueError: ")


def test_files_are_allowed_up_to_the_system_s_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        allow_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(before[1], 1 << 16), before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
