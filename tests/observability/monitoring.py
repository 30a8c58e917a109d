"""A fake of Cloud Monitoring's REST API that is as strict as the real one: unknown fields, stale etags, small pages."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud.monitoring_dashboard_v1 import Dashboard
from google.cloud.monitoring_v3 import AlertPolicy
from google.protobuf.json_format import MessageToDict, ParseDict

PAGE = 3
_TYPES = {"dashboards": Dashboard, "alertPolicies": AlertPolicy}
_OUTPUT_ONLY = ("name", "etag")


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class FakeMonitoring:
    """`objects`: by name. `calls`: (method, path), in order."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.endpoint = ""
        self._count = 0

    def add(self, project: str, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        name = f"projects/{project}/{plural}/{self._count}"
        self.objects[name] = {}
        return self._store(name, plural, body)

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        self.calls.append((method, path))
        version, _, rest = path.strip("/").partition("/")
        parts = rest.split("/")
        plural = parts[2]
        if version != {"dashboards": "v1", "alertPolicies": "v3"}.get(plural) or parts[1] == "forbidden":
            raise Refused(403, f"Permission denied on {rest}")
        if method == "GET":
            names = sorted(name for name in self.objects if name.startswith(rest + "/"))
            start = int(query.get("pageToken", ["0"])[0])
            page = {plural: [self.objects[name] for name in names[start : start + PAGE]]}
            return page | ({"nextPageToken": str(start + PAGE)} if start + PAGE < len(names) else {})
        if method == "POST":
            return self.add(parts[1], plural, body)
        there = self.objects.get(rest)
        if there is None:
            raise Refused(404, f"{rest} is not there")
        if "etag" in there and body.get("etag") != there["etag"]:
            raise Refused(409, "etag does not match")
        if mask := query.get("updateMask"):
            body = there | {key: body[key] for key in mask[0].split(",") if key in body}
        return self._store(rest, plural, body)

    def _store(self, name: str, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        kind = _TYPES[plural]
        given = {key: value for key, value in body.items() if key not in _OUTPUT_ONLY}
        parsed = ParseDict(given, kind.pb(kind()), ignore_unknown_fields=False)
        stored = MessageToDict(parsed) | {"name": name}  # as the API answers: no zeros, no empty values
        if plural == "dashboards":
            self._count += 1
            stored["etag"] = f"e{self._count}"
        self.objects[name] = stored
        return stored


@contextmanager
def fake_monitoring() -> Iterator[FakeMonitoring]:
    """Served on a free port while the block lasts."""
    fake = FakeMonitoring()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            split = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                status, found = 200, fake.answer(self.command, split.path, parse_qs(split.query), body)
            except Refused as refused:
                status, found = refused.status, {"error": {"message": refused.message}}
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do  # noqa: N815 - http.server's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
