"""What a server sends, in pieces of any size."""

import aiohttp
import pytest
from aiohttp import web

from picker.reading import whole


@pytest.mark.parametrize(("most", "found"), [(3000, 3000), (2999, 0)])
async def test_an_answer_is_read_whole_or_not_at_all(most: int, found: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"x" * 1000)
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with aiohttp.ClientSession() as session:
            host, port = runner.addresses[0]
            async with session.get(f"http://{host}:{port}/") as response:
                assert len(await whole(response, most)) == found
    finally:
        await runner.cleanup()
