"""An API server in a few hundred lines: what of the Kubernetes API our shells rely on, and every way in which it lets them down."""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from xds_server.kubernetes.access import anonymous
from xds_server.kubernetes.api import Api, connect

Json = dict[str, Any]
GATEWAY = "gateway.networking.k8s.io"
# collection -> (group, version, kind, namespaced)
KINDS = {
    "namespaces": ("", "v1", "Namespace", False),
    "services": ("", "v1", "Service", True),
    "pods": ("", "v1", "Pod", True),
    "secrets": ("", "v1", "Secret", True),
    "configmaps": ("", "v1", "ConfigMap", True),
    "leases": ("coordination.k8s.io", "v1", "Lease", True),
    "gatewayclasses": (GATEWAY, "v1", "GatewayClass", False),
    "gateways": (GATEWAY, "v1", "Gateway", True),
    "httproutes": (GATEWAY, "v1", "HTTPRoute", True),
    "inferencepools": ("inference.networking.k8s.io", "v1", "InferencePool", True),
}
STATUS = {"gatewayclasses", "gateways", "httproutes", "inferencepools"}  # have a status subresource and a generation


class Asked(NamedTuple):
    """A request, as RBAC sees it."""

    verb: str  # get, list, watch, create, patch, delete, discover
    plural: str
    namespace: str
    name: str
    query: dict[str, str]
    body: Json


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str = "", retry_after: int = 0) -> None:
        self.code, self.reason, self.message, self.retry_after = code, reason, message, retry_after

    @property
    def status(self) -> Json:
        return {"kind": "Status", "apiVersion": "v1", "code": self.code, "reason": self.reason, "message": self.message}


class FakeApi:
    def __init__(self, *, streaming: bool = True) -> None:
        self.kinds = dict(KINDS)
        self.streaming = streaming
        self.page = 500  # a list has at most this many, whatever the limit
        self.now = 100  # resourceVersion
        self.oldest = 0  # watches and pages from before this have expired
        self.asked: list[Asked] = []
        self.changed = asyncio.Condition()
        self.before: list[Callable[[Asked], Any]] = []  # may raise Refused, may wait; the first word on each request
        self.watchers: dict[asyncio.Queue[Json | None], tuple[str, Asked]] = {}
        self._objects: dict[str, dict[tuple[str, str], Json]] = {}
        self._history: list[tuple[int, str, str, Json]] = []
        self._transports: set[asyncio.Transport] = set()

    # --- what a test does ---------------------------------------------------------------------------------------------

    def put(self, plural: str, name: str, namespace: str = "default", **fields: Any) -> Json:
        """Create an object, or replace its fields; as its owner would, so the generation rises."""
        group, version, kind, namespaced = KINDS[plural]
        key = (namespace if namespaced else "", name)
        old = self._objects.get(plural, {}).get(key)
        meta = {"name": name, **({"namespace": namespace} if namespaced else {})}
        meta |= fields.pop("metadata", {})
        meta["uid"] = old["metadata"]["uid"] if old else f"uid-{self.now}"
        meta["creationTimestamp"] = "2026-01-01T00:00:00Z"
        if plural in STATUS:
            meta["generation"] = old["metadata"]["generation"] + 1 if old else 1
        found = {"apiVersion": f"{group}/{version}" if group else version, "kind": kind, "metadata": meta, **fields}
        if old and "status" in old:
            found.setdefault("status", old["status"])
        return self._store(plural, key, found, "MODIFIED" if old else "ADDED")

    def get(self, plural: str, name: str, namespace: str = "default") -> Json:
        return self._objects[plural][namespace if KINDS[plural][3] else "", name]

    def status(self, plural: str, name: str, status: Json, namespace: str = "default") -> Json:
        """Somebody else writes the status."""
        found = copy.deepcopy(self.get(plural, name, namespace)) | {"status": status}
        return self._store(plural, (namespace if KINDS[plural][3] else "", name), found, "MODIFIED")

    def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        key = (namespace if KINDS[plural][3] else "", name)
        gone = copy.deepcopy(self._objects[plural].pop(key))
        self._announce(plural, gone, "DELETED")

    def deny(self, *verbs: str, plural: str) -> Callable[[Asked], None]:
        """RBAC; remove what this returns from `before` to allow again."""

        def refuse(asked: Asked) -> None:
            if asked.plural == plural and asked.verb in verbs:
                raise Refused(403, "Forbidden", f"cannot {asked.verb} {plural}")

        self.before.append(refuse)
        return refuse

    def fail(self, times: int, refused: Refused, *verbs: str, plural: str) -> None:
        """The next `times` such requests fail."""
        left = times

        def refuse(asked: Asked) -> None:
            nonlocal left
            if left and asked.plural == plural and asked.verb in verbs:
                left -= 1
                raise refused

        self.before.append(refuse)

    def hang(self, *verbs: str, plural: str) -> asyncio.Event:
        """Such requests wait for the event."""
        released = asyncio.Event()

        async def wait(asked: Asked) -> None:
            if asked.plural == plural and asked.verb in verbs:
                await released.wait()

        self.before.append(wait)
        return released

    def expire(self) -> None:
        """Compaction: whatever asks for the past is told 410."""
        self.now += 1
        self.oldest = self.now

    def bookmark(self) -> None:
        for queue, (plural, _) in self.watchers.items():
            queue.put_nowait(self._bookmark(plural))

    def error(self, code: int, reason: str) -> None:
        """An ERROR event on every watch."""
        for queue in self.watchers:
            queue.put_nowait({"type": "ERROR", "object": Refused(code, reason).status})

    def end(self) -> None:
        """Every watch ends in good order."""
        for queue in self.watchers:
            queue.put_nowait(None)

    def drop(self) -> None:
        """Every connection is cut."""
        for transport in list(self._transports):
            transport.abort()

    def count(self, verb: str, plural: str) -> int:
        return Counter((each.verb, each.plural) for each in self.asked)[verb, plural]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a request or a change makes it true."""
        async with self.changed:
            await self.changed.wait_for(condition)

    # --- the server ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serve(self, *, timeout: float = 30.0) -> AsyncIterator[Api]:
        async def handle(request: web.Request) -> web.StreamResponse:
            assert request.transport
            self._transports.add(request.transport)
            asked = await self._parse(request)
            async with self.changed:
                self.asked.append(asked)
                self.changed.notify_all()
            try:
                for each in self.before:
                    if asyncio.iscoroutine(found := each(asked)):
                        await found
                return await self._answer(request, asked)
            except Refused as refused:
                headers = {"Retry-After": str(refused.retry_after)} if refused.retry_after else {}
                return web.json_response(refused.status, status=refused.code, headers=headers)
            finally:
                async with self.changed:
                    self.changed.notify_all()

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        try:
            async with connect(anonymous(f"http://{host}:{port}"), timeout=timeout) as api:
                yield api
        finally:
            self.drop()
            await runner.cleanup()

    async def _parse(self, request: web.Request) -> Asked:
        parts = request.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        body = orjson.loads(await request.read() or b"{}")
        query = dict(request.query)
        if not rest:
            return Asked("discover", "/".join(parts[1:]), "", "", query, body)
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get")
        if verb == "get" and not name:
            verb = "watch" if query.get("watch") else "list"
        return Asked(verb, plural, namespace, name, query, body | ({"_sub": rest[2]} if len(rest) > 2 else {}))

    async def _answer(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        if asked.verb == "discover":
            return self._discover(asked.plural)
        if asked.plural not in self.kinds:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        if asked.verb == "list":
            return web.json_response(self._list(asked))
        if asked.verb == "watch":
            return await self._watch(request, asked)
        key = (asked.namespace, asked.name)
        objects = self._objects.setdefault(asked.plural, {})
        if asked.verb == "create":
            meta = asked.body["metadata"]
            if (asked.namespace, meta["name"]) in objects:
                raise Refused(409, "AlreadyExists")
            fields = {name: value for name, value in asked.body.items() if name not in ("apiVersion", "kind")}
            return web.json_response(self.put(asked.plural, meta["name"], asked.namespace, **fields), status=201)
        if key not in objects:
            raise Refused(404, "NotFound", f"{asked.plural} {asked.name} not found")
        if asked.verb == "delete":
            self.remove(asked.plural, asked.name, asked.namespace)
            return web.json_response({"kind": "Status", "status": "Success"})
        if asked.verb == "patch":
            return web.json_response(self._patch(asked, objects[key]))
        return web.json_response(objects[key])

    def _patch(self, asked: Asked, old: Json) -> Json:
        body = {name: value for name, value in asked.body.items() if name != "_sub"}
        version = body.get("metadata", {}).pop("resourceVersion", None)
        if version not in (None, old["metadata"]["resourceVersion"]):
            raise Refused(409, "Conflict", "the object has been modified")
        if asked.body.get("_sub") == "status":
            body = {"status": body.get("status", {})}
        found = merged(old, body)
        if found == old:
            return old
        return self._store(asked.plural, (asked.namespace, asked.name), found, "MODIFIED")

    def _discover(self, place: str) -> web.Response:
        found = [
            {"name": plural, "kind": kind, "namespaced": namespaced, "verbs": ["get", "list", "watch"]}
            for plural, (group, version, kind, namespaced) in self.kinds.items()
            if place == (f"{group}/{version}" if group else version)
        ]
        if not found:
            raise Refused(404, "NotFound")
        return web.json_response({"kind": "APIResourceList", "resources": found})

    def _matching(self, asked: Asked) -> list[Json]:
        return [found for _, found in sorted(self._objects.get(asked.plural, {}).items()) if selects(asked, found)]

    def _list(self, asked: Asked) -> Json:
        start, version = 0, self.now
        if token := asked.query.get("continue"):
            start, version = map(int, token.split("@"))
            if version < self.oldest:
                raise Refused(410, "Expired", "the provided continue parameter is too old")
        found = self._matching(asked)
        end = start + min(self.page, int(asked.query.get("limit", "500")))
        meta = {"resourceVersion": str(version)} | ({"continue": f"{end}@{version}"} if end < len(found) else {})
        items = [{name: value for name, value in each.items() if name not in ("apiVersion", "kind")} for each in found]
        return {"kind": "List", "metadata": meta, "items": items[start:end]}

    async def _watch(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        initial = "sendInitialEvents" in asked.query
        if initial and not self.streaming:
            raise Refused(422, "Invalid", "sendInitialEvents is forbidden for watch")
        since = int(asked.query.get("resourceVersion") or 0)
        queue: asyncio.Queue[Json | None] = asyncio.Queue()
        if initial:
            for found in self._matching(asked):
                queue.put_nowait({"type": "ADDED", "object": found})
            queue.put_nowait(self._bookmark(asked.plural, {"k8s.io/initial-events-end": "true"}))
        elif since < self.oldest:
            queue.put_nowait({"type": "ERROR", "object": Refused(410, "Expired", "too old resource version").status})
        else:
            for version, plural, kind, found in self._history:
                if version > since and plural == asked.plural and selects(asked, found):
                    queue.put_nowait({"type": kind, "object": found})
        self.watchers[queue] = (asked.plural, asked)
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await answer.prepare(request)
            async with self.changed:
                self.changed.notify_all()
            while (event := await queue.get()) is not None:
                await answer.write(orjson.dumps(event) + b"\n")
        except ConnectionError:
            pass
        finally:
            self.watchers.pop(queue, None)
        return answer

    def _bookmark(self, plural: str, annotations: dict[str, str] | None = None) -> Json:
        group, version, kind, _ = KINDS[plural]
        meta: Json = {"resourceVersion": str(self.now)} | ({"annotations": annotations} if annotations else {})
        return {"type": "BOOKMARK", "object": {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": meta}}

    def _store(self, plural: str, key: tuple[str, str], found: Json, event: str) -> Json:
        self._objects.setdefault(plural, {})[key] = found
        self._announce(plural, found, event)
        return found

    def _announce(self, plural: str, found: Json, event: str) -> None:
        self.now += 1
        found["metadata"]["resourceVersion"] = str(self.now)
        snapshot = copy.deepcopy(found)
        self._history.append((self.now, plural, event, snapshot))
        for queue, (watched, asked) in self.watchers.items():
            if watched == plural and selects(asked, snapshot):
                queue.put_nowait({"type": event, "object": snapshot})


def selects(asked: Asked, found: Json) -> bool:
    meta = found["metadata"]
    labels = dict(each.split("=") for each in asked.query.get("labelSelector", "").split(",") if each)
    name = asked.query.get("fieldSelector", "").removeprefix("metadata.name=")
    return (
        (not asked.namespace or asked.namespace == meta.get("namespace"))
        and (not name or name == meta["name"])
        and all(meta.get("labels", {}).get(key) == value for key, value in labels.items())
    )


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    found = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found
