"""Does the gateway's time to first token agree with the client's? Streams of simulated servers through `penstock run` and Envoy.

The gateway's is that of its request log: Envoy's clock, from the first byte of the request to the first body byte of the server. The
client's is its own: from before the request is written until the first event has arrived. So the client's is longer, by its own work
and one hop. `python -m benchmarks.ttft [--streams 200] [--at-once 4]`; the last line is JSON.
"""

import argparse
import asyncio
import json
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles

import aiohttp

from benchmarks.path import HOST, MANIFESTS, MODEL, free_port, listens, program

FIELD = "penstock.time_to_first_token_seconds"
STARTUP_S = 120.0  # a machine that is busy with other things starts Python slowly


async def first_byte(session: aiohttp.ClientSession, port: int, number: int) -> float:
    """Seconds, of one stream. Prompts differ in length, so the times do."""
    body = {"model": MODEL, "prompt": f"{number} " + "go on " * (number % 40 * 10), "max_tokens": 8, "stream": True}
    start = time.perf_counter()
    async with session.post(
        f"http://{HOST}:{port}/v1/completions", json=body, headers={"user-agent": f"ttft/{number}"}
    ) as answer:
        answer.raise_for_status()
        await answer.content.readany()
        seconds = time.perf_counter() - start
        await answer.read()
    return seconds


async def logged(file: Path, count: int) -> dict[int, float]:
    """What the gateway says, by the number of the stream."""
    async with asyncio.timeout(STARTUP_S):
        while True:
            records = [json.loads(line) for line in file.read_text().splitlines()]
            found = {int(each["user_agent.original"].partition("/")[2]): each[FIELD] for each in records}
            if len(found) >= count:
                return found
            await asyncio.sleep(0.1)


async def measure(folder: Path, streams: int, at_once: int) -> list[tuple[float, float]]:
    """(client's, gateway's) of every stream, in seconds."""
    port, servers = free_port(), [free_port(), free_port()]
    manifests, log = folder / "manifests", folder / "requests.jsonl"
    manifests.mkdir()
    where = ", ".join(f"{HOST}:{each}" for each in servers)
    (manifests / "all.yaml").write_text(MANIFESTS.format(port=port, endpoints=where, model=MODEL))
    command = ["penstock.cli", "run", "--manifests", str(manifests), "--workers", "1", "--request-log", str(log)]
    command += ["--admin", f"{HOST}:{free_port()}", "--telemetry", f"{HOST}:{free_port()}"]
    async with AsyncExitStack() as stack:
        for each in servers:
            arguments = ("--port", str(each), "--models", MODEL, "--max-num-seqs", str(2 * at_once), "--decode-ms", "2")
            await stack.enter_async_context(program("penstock.sim", *arguments, out=asyncio.subprocess.DEVNULL))
        await stack.enter_async_context(program(*command, err=asyncio.subprocess.DEVNULL))
        async with asyncio.timeout(STARTUP_S):
            for each in (*servers, port):
                while not await listens(each):
                    await asyncio.sleep(0.1)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        numbers = iter(range(streams + at_once))
        clients: dict[int, float] = {}

        async def client() -> None:
            for number in numbers:
                clients[number] = await first_byte(session, port, number)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(client())
        gateways = await logged(log, streams + at_once)
    return [
        (clients[number], gateways[number]) for number in range(at_once, streams + at_once)
    ]  # the first ones connect


def main(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), options.streams, options.at_once))
    client, gateway = [one for one, _ in found], [other for _, other in found]
    apart = [(one - other) * 1e3 for one, other in found]
    cuts = quantiles(apart, n=100)
    print(f"{'TTFT':22s} {'median':>10s} {'p90':>10s}")
    for name, values in (("client", client), ("gateway", gateway)):
        print(f"{name:22s} {median(values) * 1e3:7.1f} ms {quantiles(values, n=10)[-1] * 1e3:7.1f} ms")
    print(f"{'client - gateway':22s} {median(apart):7.2f} ms {cuts[89]:7.2f} ms   (p99 {cuts[98]:.2f} ms)")
    figures = {
        "streams": len(found),
        "median_difference_ms": round(median(apart), 3),
        "p90_difference_ms": round(cuts[89], 3),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=4)
    raise SystemExit(main(parser.parse_args()))
