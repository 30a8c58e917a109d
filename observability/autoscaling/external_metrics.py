"""external.metrics.k8s.io/v1beta1: what a HorizontalPodAutoscaler reads, served by ourselves, without an adapter in between.

    GET /apis/external.metrics.k8s.io/v1beta1/namespaces/NS/penstock_pool_saturation?labelSelector=pool%3Dvllm

The pool is in the namespace of the autoscaler. Other labels of the selector narrow the pool to the pods that have them. What is
stale is answered 503, what does not exist 404, as a metav1.Status: an autoscaler keeps the size then, and says why in its status.
Source: k8s.io/metrics pkg/apis/external_metrics/v1beta1; labels: k8s.io/apimachinery pkg/labels. Who may ask: front_proxy.py.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from observability.autoscaling.signals import BY_METRIC, Readings, Unavailable, UnknownPool

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
GROUP_VERSION = f"{GROUP}/{VERSION}"
ROOT = f"/apis/{GROUP_VERSION}"
API_SERVICE = f"{VERSION}.{GROUP}"
POOL_LABEL = "pool"
_TERM = re.compile(r"\s*([A-Za-z0-9][\w./-]*)\s*(?:==?\s*([\w.-]*)|in\s*\(\s*([\w.-]*)\s*\))\s*")
_REASONS = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 400: "BadRequest", 503: "ServiceUnavailable"}

Read = Callable[[str, Mapping[str, str]], Awaitable[Readings]]  # ("ns/pool", labels of its pods)
Count = Callable[[str], None]  # ok | unknown | refused


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def application(
    read: Read,
    *,
    admit: Callable[[web.Request], None] = lambda _: None,
    count: Count = lambda _: None,
    clock: Callable[[], float] = time.time,
) -> web.Application:
    """`admit` raises Refused. `read` raises UnknownPool and Unavailable."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            admit(request)
            return await handler(request)
        except Refused as error:
            return _answer(status(error.code, str(error)), error.code)
        except web.HTTPException as error:
            return _answer(status(error.status, f"{request.path}: {error.reason}"), error.status)

    async def metric(request: web.Request) -> web.Response:
        name = request.match_info["metric"]
        try:
            found = await _value(read, request.match_info["namespace"], name, request.query.get("labelSelector", ""))
        except UnknownPool as error:
            count("refused")
            raise Refused(404, str(error)) from error
        except Unavailable as error:
            count("unknown")
            raise Refused(503, str(error)) from error
        except Refused:
            count("refused")
            raise
        count("ok")
        value, labels, age = found
        return _answer(values(name, value, labels, clock() - (age or 0.0)))

    app = web.Application(middlewares=[guarded])
    for path, document in DOCUMENTS.items():
        app.router.add_get(path, _serve(document))
    app.router.add_get("/healthz", _serve("ok"))
    app.router.add_get("/readyz", _serve("ok"))
    app.router.add_get(ROOT + "/namespaces/{namespace}/{metric}", metric)
    return app


async def _value(read: Read, namespace: str, name: str, text: str) -> tuple[float, Mapping[str, str], float | None]:
    signal = BY_METRIC.get(name)
    if signal is None:
        raise Refused(404, f"there is no metric {name}; there are {', '.join(BY_METRIC)}")
    labels = selector(text)
    pool = labels.pop(POOL_LABEL, "")
    if not pool:
        raise Refused(400, "the selector must name the pool: selector: {matchLabels: {pool: NAME}}")
    readings = await read(f"{namespace}/{pool}", labels)
    return readings.value(signal), {POOL_LABEL: pool, **labels}, readings.age


def selector(text: str) -> dict[str, str]:
    """`a=b,c==d,e in (f)` as a mapping. Raises Refused for what a metric cannot be selected by."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or (term.end() < len(text) and text[term.end()] != ","):
            raise Refused(400, f"labelSelector {text[:200]!r}: only equality is understood, such as pool=vllm")
        found[term[1]] = term[2] if term[2] is not None else term[3]
        at = term.end() + 1
    return found


def values(name: str, value: float, labels: Mapping[str, str], at: float) -> dict[str, Any]:
    """An ExternalMetricValueList of one item; an autoscaler would add up several."""
    item = {
        "metricName": name,
        "metricLabels": dict(labels),
        "timestamp": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "value": quantity(value),
    }
    return {"kind": "ExternalMetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": [item]}


def quantity(value: float) -> str:
    """A resource.Quantity, to the thousandth, rounded up: a little is not nothing."""
    thousandths = -int(-value * 1000.0 // 1)
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def status(code: int, message: str) -> dict[str, Any]:
    """A metav1.Status that says what went wrong."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(code, "InternalError"),
        "code": code,
    }


_VERSION = {"groupVersion": GROUP_VERSION, "version": VERSION}
_API_GROUP = {"name": GROUP, "versions": [_VERSION], "preferredVersion": _VERSION}
_RESOURCES = [
    {"name": name, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList", "verbs": ["get"]}
    for name in BY_METRIC
]
DOCUMENTS: Mapping[str, Mapping[str, Any]] = {
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_API_GROUP]},
    f"/apis/{GROUP}": {"kind": "APIGroup", "apiVersion": "v1", **_API_GROUP},
    ROOT: {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": _RESOURCES},
    # The aggregator merges what it finds here; a group that describes nothing is fine, one that answers 404 is logged as an error.
    "/openapi/v2": {"swagger": "2.0", "info": {"title": "Penstock", "version": VERSION}, "paths": {}},
    "/openapi/v3": {"paths": {}},
}


def _serve(document: Mapping[str, Any] | str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=document) if isinstance(document, str) else _answer(document)

    return handle


def _answer(document: Mapping[str, Any], code: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=code, content_type="application/json")
