"""CORS in a real Envoy: what a browser is told."""

from collections.abc import Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.xds_server.fleet_envoy import HOME, answering, at, backend, graph, on_port_80, served, to
from xds_server.model.graph import CORS
from xds_server.model.objects import CORSFilter
from xds_server.translate.cors import policy

pytestmark = pytest.mark.envoy
A = backend("a")
NAMED = CORSFilter(
    ("https://www.foo.com", "https://*.bar.com"),
    ("GET", "OPTIONS"),
    ("x-1", "x-2"),
    ("x-3",),
    credentials=True,
    max_age=3600,
)
ANY = CORSFilter(("*",), ("*",), ("*",))
ANY_WITH = CORSFilter(("*",), ("*",), ("*",), credentials=True)
ALLOW = "access-control-allow-"


def said(headers: Mapping[str, str]) -> dict[str, str]:
    return {
        name.lower().removeprefix("access-control-"): value.replace(" ", "")
        for name, value in headers.items()
        if name.lower().startswith("access-control-")
    }


async def test_a_browser_is_told_what_it_may(tmp_path: Path) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.method)
        return web.Response()

    filters = {"/named": NAMED, "/any": ANY, "/with": ANY_WITH}
    port = on_port_80(*(to(path, A, cors=CORS(each)) for path, each in filters.items()), to("/none", A))
    async with answering(answer) as where, aiohttp.ClientSession() as session:
        found = graph(port, backends=[A], endpoints={A.cluster: at(where)})
        async with served(found, tmp_path) as bound:

            async def ask(method: str, path: str, origin: str) -> dict[str, str]:
                headers = {"origin": origin}
                if method == "OPTIONS":
                    headers |= {"access-control-request-method": "PUT", "access-control-request-headers": "x-1,x-2"}
                async with session.request(method, f"http://{HOME}:{bound[80]}{path}", headers=headers) as got:
                    assert got.status == 200
                    return said(got.headers)

            for origin in ("https://www.foo.com", "https://www.bar.com", "https://a.b.bar.com"):
                assert await ask("OPTIONS", "/named", origin) == {
                    "allow-origin": origin,
                    "allow-methods": "GET,OPTIONS",
                    "allow-headers": "x-1,x-2",
                    "expose-headers": "x-3",
                    "max-age": "3600",
                    "allow-credentials": "true",
                }
                assert (await ask("GET", "/named", origin))["allow-origin"] == origin
            for method in ("GET", "OPTIONS"):
                for origin in (
                    "https://foobar.com",
                    "https://bar.com",
                    "http://www.bar.com",
                    "https://x.bar.com.evil.com",
                ):
                    assert "allow-origin" not in await ask(method, "/named", origin)
            origin = "https://other.foo.com:12345"
            told = {"allow-origin": origin, "allow-methods": "PUT", "allow-headers": "x-1,x-2", "max-age": "5"}
            assert await ask("OPTIONS", "/any", origin) == told
            assert await ask("OPTIONS", "/with", origin) == told | {"allow-credentials": "true"}
            assert await ask("GET", "/with", origin) == {"allow-origin": origin, "allow-credentials": "true"}
            assert seen.count("OPTIONS") == 0  # answered by Envoy
            assert await ask("OPTIONS", "/none", origin) == {}
            assert seen.count("OPTIONS") == 1


def test_an_origin_is_text_except_for_its_star() -> None:
    found = policy(CORS(CORSFilter(("https://*.a-b.com",)))).allow_origin_string_match[0]
    assert found.safe_regex is not None
    assert found.safe_regex.regex == r"(?i)https://[^/:]+\.a\-b\.com"
