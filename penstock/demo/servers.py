"""The demo's simulated model servers, all in one process: `python -m penstock.demo.servers JSON`, a list of `penstock sim` options.

Prints "ready" when all listen; ends on SIGTERM, or when its standard input closes (whoever started it is gone).
"""

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack

import uvloop

from penstock.sim.cli import settings_of
from penstock.sim.server import SimServer


async def serve(commands: list[list[str]]) -> int:
    """Until told to end; 1 if a port is taken."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.connect_read_pipe(lambda: _Parent(ended), sys.stdin)
    async with AsyncExitStack() as stack:
        for command in commands:
            server = SimServer(settings_of(command))
            try:
                await server.start()
            except OSError as error:
                print(
                    f"penstock demo: cannot listen on {server.address}: {error.strerror}; end what listens there",
                    file=sys.stderr,
                )
                return 1
            stack.push_async_callback(server.stop)
        print("ready", flush=True)
        await ended.wait()
    return 0


class _Parent(asyncio.Protocol):
    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._ended.set()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(serve(json.loads(sys.argv[1]))))
