"""A command as a process: until which signal it runs, and how it ends when something is wrong."""

import asyncio
import gc
import logging
import re
import resource
import signal
import sys
from typing import Any

import uvloop


def until_signal() -> asyncio.Event:
    """Set by SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def go(work: Any, *, verbose: bool) -> int:
    """Run a coroutine; what the user can mend is one line, ours is a traceback."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    allow_files()
    for noisy in ("asyncio", "aiohttp", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return int(runner.run(work))
    except* (OSError, UserError) as group:
        if verbose:
            raise
        for error in _leaves(group):
            print(f"penstock: error: {error}", file=sys.stderr)
    return 1


def allow_files() -> None:
    """Each model server and each Envoy takes a few sockets: as many as the system lets us have, where that is not absurd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 1 << 16)), hard))


class OneLine(logging.Formatter):
    """A message is a line, whatever names and errors of others are in it: nobody forges another. Tracebacks stay as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        return re.sub(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", _escaped, super().formatMessage(record))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def calm_garbage_collection() -> None:
    """A large prompt is parsed into many objects that live for a moment: at the default threshold collecting them costs more.

    What has been made until now lives on, so no collection need look at it again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


class UserError(Exception):
    """What stops a command and can be mended by the user; the message says how."""


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [
        leaf
        for each in group.exceptions
        for leaf in (_leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]
