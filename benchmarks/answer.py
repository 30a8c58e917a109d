"""What it costs an Envoy to look at answers: to read their usage, to give rewritten models their names back, to hide unasked usage.

`python -m benchmarks.answer [--seconds 6]`: one plain Envoy with one worker and a port for each way, which take turns: without any
filter; with sse_to_metadata, Envoy's own way to read usage, which we do not use; with our filter, which reads, and with either change
beside that. The last line is JSON, in microseconds of user and system time of a request; ratios within a run are what counts.
Exit status 1 if an answer was not what it should be.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from benchmarks import _load
from benchmarks.flips import HOST, STARTUP_S, TYPE, free_port, listens
from benchmarks.path import MODEL, backends, plain
from penstock import envoy
from xds_server.model.names import LUA, PENSTOCK_NAMESPACE
from xds_server.translate.answer import SCRIPT
from xds_server.translate.usage import PLACES

# What the decision says, by way; the target is what `_backend` answers.
WAYS: dict[str, dict[str, Any]] = {
    "without": {},
    "sse_to_metadata": {},
    "read": {},
    "restore": {"asked": f'"{MODEL}"', "target": '"m"'},
    "hide": {"unasked_usage": True},
}
ROWS = ((0, 32), (100, 16), (1000, 16))  # (streamed tokens or 0, connections)
ROUNDS = 3
WARM_UP_S = 0.5


def filters(way: str) -> list[dict[str, Any]]:
    """The decision's metadata, which all have, and the filter."""
    decision = {
        "@type": TYPE + "filters.http.set_metadata.v3.Config",
        "metadata": [{"metadata_namespace": PENSTOCK_NAMESPACE, "value": {"id": "1"} | WAYS[way]}],
    }
    found = [{"name": "decision", "typed_config": decision}]
    if way == "sse_to_metadata":
        found.append(sse_to_metadata())
    elif way != "without":
        lua = {"@type": TYPE + "filters.http.lua.v3.Lua", "default_source_code": {"inline_string": SCRIPT}}
        found.append({"name": LUA, "typed_config": lua})
    return found


def sse_to_metadata() -> dict[str, Any]:
    """With a rule for each place where usage may be."""
    rules = [
        {"rule": {"selectors": [{"key": key} for key in path], "on_present": {"metadata_namespace": "ai", "key": name}}}
        for name, path in PLACES
    ]
    parser = {"@type": TYPE + "content_parsers.json.v3.JsonContentParser", "rules": rules}
    config = {"content_parser": {"name": "envoy.content_parsers.json", "typed_config": parser}}
    kind = TYPE + "filters.http.sse_to_metadata.v3.SseToMetadata"
    return {"name": "envoy.filters.http.sse_to_metadata", "typed_config": {"@type": kind, "response_rules": config}}


def bootstrap(ports: dict[str, int], servers: list[int]) -> dict[str, Any]:
    found = {way: plain(port, servers) for way, port in ports.items()}
    for way, each in found.items():
        (listener,) = each["static_resources"]["listeners"]
        listener["name"] = way
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"] = [*filters(way), *manager["http_filters"]]
    listeners = [each["static_resources"]["listeners"][0] for each in found.values()]
    return {"static_resources": found["hide"]["static_resources"] | {"listeners": listeners}}


async def read(port: int, tokens: int) -> tuple[str, bool]:
    """The model that an answer names first, and whether it tells usage."""
    body = _load.bodies(800, tokens, MODEL)()
    reader, writer = await asyncio.open_connection(HOST, port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
    page = await reader.read()
    writer.close()
    return page.partition(b'"model": "')[2].partition(b'"')[0].decode(), b'"usage"' in page


async def main(options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    ports = {way: free_port() for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="answer-") as name:
        async with (
            backends(2) as servers,
            envoy.running(bootstrap(ports, servers), Path(name), workers=1) as program,
        ):
            async with asyncio.timeout(STARTUP_S):
                while not await listens(ports["hide"]):
                    await asyncio.sleep(0.05)
            for tokens, connections in ROWS:
                found = {way: await read(port, tokens) for way, port in ports.items()}
                wanted = {way: (MODEL if way == "restore" else "m", way != "hide" or not tokens) for way in WAYS}
                if found != wanted:
                    raise _load.LoadFailed(f"the answers have {found}")
                cost = dict.fromkeys(WAYS, float("inf"))
                for _ in range(ROUNDS):  # the least of several turns: what others did meanwhile is in the rest
                    for way, port in ports.items():
                        used, _ = await _load.run(
                            (HOST, port), _load.bodies(800, tokens, MODEL),
                            tokens=tokens, connections=connections,
                            warm_up=WARM_UP_S, seconds=options.seconds / ROUNDS, pids={"envoy": program.pid},
                        )  # fmt: skip
                        cost[way] = min(cost[way], used.us("envoy"))
                row = {"tokens": tokens, **{f"{way}_us": cost[way] for way in WAYS}}
                for way in ("sse_to_metadata", "read", "restore", "hide"):
                    row[f"{way}_us_per_token"] = round((cost[way] - cost["without"]) / tokens, 3) if tokens else None
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    print(json.dumps({"rows": rows}))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each row and way")
    try:
        sys.exit(uvloop.run(main(parser.parse_args())))
    except (_load.LoadFailed, TimeoutError) as error:
        sys.exit(f"a request failed: {error or 'no answer in time'}")
