"""A fake of Cloud Monitoring's REST API that is as strict as the real one: unknown fields, stale etags, small pages, and the rules of
objectives (google/monitoring/v3/service.proto, service_service.proto).
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from google.cloud.monitoring_dashboard_v1 import Dashboard
from google.cloud.monitoring_v3 import AlertPolicy, Service, ServiceLevelObjective
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from tests.threaded import threaded

PAGE = 3
_TYPES = {
    "dashboards": Dashboard,
    "alertPolicies": AlertPolicy,
    "services": Service,
    "serviceLevelObjectives": ServiceLevelObjective,
}
_VERSIONS = {"dashboards": "v1"}
# The parameter that names an object, and what it may be.
_NAMED = {
    "services": ("serviceId", re.compile(r"[a-z0-9-]+")),
    "serviceLevelObjectives": ("serviceLevelObjectiveId", re.compile(r"[a-zA-Z0-9\-_:.]+")),
}
_LABEL_KEY, _LABEL_VALUE = re.compile(r"[a-z][a-z0-9_-]{0,62}"), re.compile(r"[a-z0-9_-]{0,63}")
_COMPARISON = re.compile(
    r'((?:metric|resource)\.(?:type|labels?\."?\w+"?))\s*(?:=|!=|:)\s*"([^"]*)"(?:\s+(?:AND\s+)?|$)'
)
_DAY = 86_400
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
        """`plural` may be below something: `services/1/serviceLevelObjectives`."""
        return self._add(f"projects/{project}/{plural}", plural.rpartition("/")[2], body, {})

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> dict[str, Any]:
        self.calls.append((method, path))
        version, _, rest = path.strip("/").partition("/")
        parts = rest.split("/")
        plural = parts[-1] if len(parts) % 2 else parts[-2]
        if version != _VERSIONS.get(plural, "v3") or parts[1] == "forbidden":
            raise Refused(403, f"Permission denied on {rest}")
        if len(parts) > 4 and "/".join(parts[:4]) not in self.objects:
            raise Refused(404, f"{'/'.join(parts[:4])} is not there")
        if method == "GET":
            names = sorted(name for name in self.objects if name.rpartition("/")[0] == rest)
            start = int(query.get("pageToken", ["0"])[0])
            page = {plural: [self.objects[name] for name in names[start : start + PAGE]]}
            return page | ({"nextPageToken": str(start + PAGE)} if start + PAGE < len(names) else {})
        if method == "POST":
            return self._add(rest, plural, body, query)
        there = self.objects.get(rest)
        if there is None:
            raise Refused(404, f"{rest} is not there")
        if method == "DELETE":
            del self.objects[rest]
            return {}
        if "etag" in there and body.get("etag") != there["etag"]:
            raise Refused(409, "etag does not match")
        if mask := query.get("updateMask"):
            body = there | {key: body[key] for key in mask[0].split(",") if key in body}
        return self._store(rest, plural, body)

    def _add(self, under: str, plural: str, body: dict[str, Any], query: dict[str, list[str]]) -> dict[str, Any]:
        self._count += 1
        parameter, pattern = _NAMED.get(plural, ("", re.compile("")))
        chosen = query.get(parameter, [str(self._count)])[0]
        if parameter and not pattern.fullmatch(chosen):
            raise Refused(400, f"{parameter} must match {pattern.pattern}")
        name = f"{under}/{chosen}"
        if name in self.objects:
            raise Refused(409, f"{name} already exists")
        return self._store(name, plural, body)

    def _store(self, name: str, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        kind = _TYPES[plural]
        given = {key: value for key, value in body.items() if key not in _OUTPUT_ONLY}
        try:
            parsed = ParseDict(given, kind.pb(kind()), ignore_unknown_fields=False)
        except ParseError as error:
            raise Refused(400, str(error)) from error
        for problem in _problems(plural, parsed):
            raise Refused(400, problem)
        stored = MessageToDict(parsed) | {"name": name}  # as the API answers: no zeros, no empty values
        if plural == "dashboards":
            self._count += 1
            stored["etag"] = f"e{self._count}"
        self.objects[name] = stored
        return stored


def _problems(plural: str, found: Any) -> Iterator[str]:
    if plural in {"services", "serviceLevelObjectives"}:
        for key, value in found.user_labels.items():
            if not (_LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
                yield f"user_labels: {key}={value} is not allowed"
    if plural == "services" and not found.WhichOneof("identifier"):
        yield "a service needs an identifier, such as custom"
    if plural == "serviceLevelObjectives":
        yield from _objective(found)


def _objective(found: Any) -> Iterator[str]:
    if not 0 < found.goal <= 0.9999:
        yield "goal must be in (0, 0.9999]"
    if found.WhichOneof("period") != "rolling_period":
        yield "a period is needed"
    days, rest = divmod(found.rolling_period.seconds, _DAY)
    if rest or found.rolling_period.nanos or not 1 <= days <= 30:
        yield "rolling_period must be whole days, at most 30"
    based = found.service_level_indicator.request_based
    match based.WhichOneof("method"):
        case "good_total_ratio":
            ratio = based.good_total_ratio
            filters = [ratio.good_service_filter, ratio.bad_service_filter, ratio.total_service_filter]
            if sum(map(bool, filters)) != 2:
                yield "good_total_ratio: exactly two of good, bad and total"
            for each in filter(None, filters):
                yield from _filter(each, "counter")
        case "distribution_cut":
            cut = based.distribution_cut
            if not cut.range_.min_ < cut.range_.max_:
                yield "distribution_cut: the range is empty"
            yield from _filter(cut.distribution_filter, "histogram")
        case _:
            yield "an indicator is needed"


def _filter(text: str, kind: str) -> Iterator[str]:
    """One time series: a metric type, of a kind that can be counted so, and a resource type, each once."""
    compared = _COMPARISON.findall(text)
    if _COMPARISON.sub("", text):
        yield f"filter {text!r}: cannot be parsed at {_COMPARISON.sub('', text)!r}"
    for key in ("metric.type", "resource.type"):
        if sum(name == key for name, _ in compared) != 1:
            yield f"filter {text!r}: must have {key} once"
    if not dict(compared).get("metric.type", "").endswith(f"/{kind}"):
        yield f"filter {text!r}: must be of a {kind}"


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

        do_GET = do_POST = do_PATCH = do_DELETE = do  # noqa: N815 - http.server's

        def log_message(self, *_: object) -> None:
            pass

    with threaded(Handler) as address:
        fake.endpoint = f"http://{address}"
        yield fake
