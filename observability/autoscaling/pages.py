"""/autoscale on the telemetry server: for people and scripts, and for the other replicas of the gateway.

/autoscale                      the pools
/autoscale?pool=NS/NAME         every signal, the figures behind it, and what an autoscaler would do; &labels=a%3Db narrows it
/autoscale?pool=NS/NAME&here=1  what this replica alone knows: the others add it to theirs
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web

from observability.autoscaling.external_metrics import Refused, selector
from observability.autoscaling.signals import Unavailable, UnknownPool

PATH = "/autoscale"
Here = Callable[[str, Mapping[str, str]], Mapping[str, Any]]  # this replica's Demand, as plain data
Explain = Callable[[str, Mapping[str, str]], Awaitable[Mapping[str, Any]]]


def add_page(app: web.Application, pools: Callable[[], Iterable[str]], here: Here, explain: Explain) -> None:
    """`here` and `explain` raise UnknownPool (404) and Unavailable (503)."""

    async def handle(request: web.Request) -> web.Response:
        pool = request.query.get("pool", "")
        if not pool:
            return _json({"pools": sorted(pools())})
        try:
            labels = selector(request.query.get("labels", ""))
            found = here(pool, labels) if "here" in request.query else await explain(pool, labels)
        except Refused as error:
            return _json({"error": str(error)}, error.code)
        except UnknownPool as error:
            return _json({"error": str(error)}, 404)
        except Unavailable as error:
            return _json({"error": str(error)}, 503)
        return _json(found)

    app.router.add_get(PATH, handle)


def _json(found: Mapping[str, Any], code: int = 200) -> web.Response:
    body = orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, status=code, content_type="application/json")
