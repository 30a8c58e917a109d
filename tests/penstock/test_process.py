"""A command as a process: what it writes."""

import logging
import sys

from penstock.process import OneLine


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
