"""`python -m penstock.sim` as a process."""

import asyncio
import socket
import sys

import aiohttp


async def start(*options: str) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "penstock.sim", "--port", "0", *options, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = (await process.stdout.readline()).decode()
    return process, line.split()[-1]


async def test_serves_until_told_to_stop() -> None:
    process, url = await start("--name", "me")
    async with aiohttp.ClientSession() as session, session.get(url + "/health") as response:
        assert (response.status, response.headers["x-sim-server"]) == (200, "me")
    process.terminate()
    assert await process.wait() == 0


async def test_dies_with_a_status_when_killed() -> None:
    process, url = await start()
    async with aiohttp.ClientSession() as session, session.post(url + "/sim", json={"die": True}) as response:
        assert response.status == 200
    assert await process.wait() == 1


async def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock.sim", "--port", port), stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
    assert process.returncode == 1
    assert said.startswith(b"penstock sim: error: cannot listen on") and said.count(b"\n") == 1
