"""`penstock sim`: one simulated model server."""

import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from penstock.arguments import Parser
from penstock.sim.engine import EngineSettings
from penstock.sim.faults import KINDS
from penstock.sim.latency import Latency
from penstock.sim.server import SimServer, SimSettings

_DESCRIPTION = "One simulated model server: the OpenAI API with invented text, and the metrics of vLLM."


def parser() -> Parser:
    """Options and their defaults; docs quote `--help`."""
    made = Parser(prog="penstock sim", description=_DESCRIPTION)
    option, latency = made.add_argument, Latency()
    millis = partial(option, type=float, metavar="MS")
    option("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    option(
        "--port", type=int, default=8000, metavar="N", help="0: any free one, which is printed (default: %(default)s)"
    )
    option("--name", default="", help="value of the response header x-sim-server (default: sim-PORT)")
    option("--models", default="base", help="served names of the model, comma separated (default: %(default)s)")
    option("--loras", default="", help="adapters that it has at the start, comma separated; other models are 404")
    option(
        "--max-loras", type=int, default=0, metavar="N", help="adapters in one batch (default: as many as there are)"
    )
    option("--max-num-seqs", type=int, default=8, metavar="N", help="requests in one batch (default: %(default)s)")
    option("--max-model-len", type=int, default=32768, metavar="N", help="tokens of the context (default: %(default)s)")
    option("--kv-blocks", type=int, default=4096, metavar="N", help="blocks of the KV cache (default: %(default)s)")
    option("--block-size", type=int, default=16, metavar="N", help="tokens of a KV block (default: %(default)s)")
    millis(
        "--prefill-ms-per-token",
        default=latency.prefill_ms_per_token,
        help="of a prompt token that is not cached (default: %(default)s)",
    )
    millis("--decode-ms", default=latency.decode_ms, help="of an output token (default: %(default)s)")
    millis(
        "--overhead-ms", default=latency.overhead_ms, help="of a request, before its first token (default: %(default)s)"
    )
    millis("--lora-ms", default=latency.lora_ms, help="to load an adapter (default: %(default)s)")
    option(
        "--slowdown",
        type=float,
        default=latency.decode_slowdown,
        metavar="FACTOR",
        help="added when the batch is full: 2 makes it 3 times slower (default: %(default)s)",
    )
    option(
        "--jitter",
        type=float,
        default=latency.jitter,
        metavar="SHARE",
        help="0.1: every time is up to 10 %% more or less (default: %(default)s)",
    )
    option(
        "--max-queued",
        type=int,
        default=0,
        metavar="N",
        help="waiting requests beyond which the answer is 503 (default: no limit)",
    )
    option(
        "--data-parallel-size",
        type=int,
        default=1,
        metavar="N",
        help="ranks behind the port, each with a batch and a KV cache of its own (default: %(default)s)",
    )
    option("--seed", type=int, default=0, metavar="N", help="of all that is random (default: %(default)s)")
    option(
        "--fail-rate",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the requests that fail, from 0 to 1 (default: %(default)s)",
    )
    option("--fail-kind", default="500", choices=KINDS, help="how they fail (default: %(default)s)")
    option(
        "--kill-after-tokens",
        type=int,
        default=0,
        metavar="N",
        help="die when so many tokens were generated (default: never)",
    )
    option(
        "--kv-events",
        type=int,
        default=None,
        metavar="PORT",
        help="publish KV events there over ZMQ, as vLLM does; 0: any free port, named by GET /kv_event_sources (default: none)",
    )
    return made


def settings_of(argv: Sequence[str]) -> SimSettings:
    given = parser().parse_args(argv)
    loras = _names(given.loras)
    latency = Latency(
        overhead_ms=given.overhead_ms,
        prefill_ms_per_token=given.prefill_ms_per_token,
        decode_ms=given.decode_ms,
        prefill_slowdown=given.slowdown,
        decode_slowdown=given.slowdown,
        lora_ms=given.lora_ms,
        jitter=given.jitter,
    )
    engine = EngineSettings(
        max_num_seqs=given.max_num_seqs,
        kv_blocks=given.kv_blocks,
        block_tokens=given.block_size,
        max_loras=given.max_loras or len(loras),
        max_queued=given.max_queued,
        latency=latency,
        seed=given.seed,
    )
    return SimSettings(
        name=given.name or f"sim-{given.port}",
        host=given.host,
        port=given.port,
        models=_names(given.models) or ("base",),
        loras=loras,
        max_model_len=given.max_model_len,
        engine=engine,
        fail_kind=given.fail_kind,
        fail_rate=given.fail_rate,
        kill_after_tokens=given.kill_after_tokens,
        kv_events=given.kv_events,
        data_parallel_size=max(given.data_parallel_size, 1),
    )


async def serve(settings: SimSettings) -> int:
    """Until SIGTERM or SIGINT (0), or until the server dies of --kill-after-tokens (1)."""
    server, ended = SimServer(settings), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        await server.start()
    except (OSError, OverflowError) as error:
        print(f"penstock sim: error: cannot listen on {settings.host}:{settings.port}: {error}", file=sys.stderr)
        return 1
    print(f"{settings.name} listens on {server.url}", flush=True)
    try:
        async with asyncio.TaskGroup() as tasks:
            waits = [tasks.create_task(ended.wait()), tasks.create_task(server.dead.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()
    finally:
        await server.stop()
    return int(server.dead.is_set())


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    settings = settings_of(sys.argv[1:] if argv is None else argv)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(settings))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The one of uvloop if it is there: a third faster, and not needed."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name for part in listed.split(",") if (name := part.strip()))
