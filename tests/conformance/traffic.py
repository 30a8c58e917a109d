"""Steady traffic, from inside the cluster's network, every answer looked at: a program of its own, run by `Bench.traffic`.

Its argument is a Plan as JSON. It says "started" once the first answer is right, ends with its standard input, and then prints a
Summary as JSON. Half of the workers keep their connections, the others open one for each request. All requests are POST, which
no client sends twice on its own: what is lost is seen.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle

import aiohttp


@dataclass(frozen=True, slots=True)
class Plan:
    urls: tuple[str, ...]  # in turn; nobody's certificate is checked
    host: str
    json: dict[str, object] = field(default_factory=dict)
    backend: str = ""  # how the name of an echo backend's pod starts
    workers: int = 4
    pause: float = 0.02  # seconds between two requests of a worker
    patience: float = 10.0  # seconds for an answer
    warm: float = 60.0  # seconds until the first right answer


@dataclass(slots=True)
class Summary:
    """Times are of the machine's monotonic clock."""

    right: int = 0
    wrong: list[tuple[float, str]] = field(default_factory=list)  # (when it was sent, what came)
    slowest: float = 0.0
    servers: dict[str, int] = field(default_factory=dict)  # answers by x-sim-server


def problem(plan: Plan, status: int, body: bytes) -> str:
    """What is wrong with an answer; "" if nothing is."""
    if status != 200:
        return f"{status}: {body[:120].decode(errors='replace')}"
    try:
        found = json.loads(body)
    except ValueError:
        return f"no JSON: {body[:120].decode(errors='replace')}"
    if plan.backend and not str(found.get("pod", "")).startswith(plan.backend):
        return f"another backend: {found.get('pod')}"
    if not plan.backend and not found.get("choices"):
        return f"no completion: {body[:120].decode(errors='replace')}"
    return ""


async def ask(session: aiohttp.ClientSession, plan: Plan, urls: Iterator[str], seen: Summary) -> None:
    began = time.monotonic()
    try:
        async with session.post(next(urls), json=plan.json, headers={"host": plan.host}, ssl=False) as answer:
            wrong = problem(plan, answer.status, await answer.read())
            server = answer.headers.get("x-sim-server", "")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        wrong, server = repr(error), ""
    seen.slowest = max(seen.slowest, time.monotonic() - began)
    if wrong:
        seen.wrong.append((began, wrong))
    else:
        seen.right += 1
        seen.servers[server] = seen.servers.get(server, 0) + 1


async def work(plan: Plan, seen: Summary, *, keep: bool, ended: asyncio.Event) -> None:
    connector = aiohttp.TCPConnector(force_close=not keep)
    timeout = aiohttp.ClientTimeout(total=plan.patience)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        urls = cycle(plan.urls)
        while not ended.is_set():
            await ask(session, plan, urls, seen)
            await asyncio.sleep(plan.pause)


async def main(plan: Plan) -> Summary:
    seen, ended = Summary(), asyncio.Event()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=plan.patience)) as session:
        limit, warm, urls = time.monotonic() + plan.warm, Summary(), cycle(plan.urls)
        while not warm.right:
            await ask(session, plan, urls, warm)
            if time.monotonic() > limit:
                raise SystemExit(f"no right answer: {warm.wrong[-1:]}")
    print("started", flush=True)
    async with asyncio.TaskGroup() as tasks:
        for number in range(plan.workers):
            tasks.create_task(work(plan, seen, keep=number % 2 == 0, ended=ended))
        await asyncio.to_thread(sys.stdin.read)
        ended.set()
    return seen


if __name__ == "__main__":
    print(json.dumps(asdict(asyncio.run(main(Plan(**json.loads(sys.argv[1])))))))
