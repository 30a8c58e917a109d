"""Boards, alert policies, and a service with its objectives in a Google Cloud project: what differs there, and making it alike.

Ours are found by a label, changed with the etag under which they were read (where the API has one), and never deleted, but for
objectives that we no longer have. Nothing else is touched. Source: the REST APIs monitoring.googleapis.com/v1 (dashboards) and /v3
(alertPolicies, services, services.serviceLevelObjectives).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_SHOWN = 3  # differences of one object that are told
_OF_DASHBOARD = "penstock-"


class Session(Protocol):
    """As much of requests.Session as is used."""

    def request(self, method: str, url: str, **options: Any) -> Any:
        """Answers a response."""


class ProjectError(Exception):
    """The API refused, or could not be reached."""


class NotThereError(ProjectError):
    """404."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`fields` are those that a change names, so that what people add beside them (notification channels) stays; () for all.

    `under` is the parent below the project; while that is not there, nothing of the kind is. `naming` is the parameter that names
    a new object, by its label; "" where the API names it. With `prune`, one of ours that is not wanted any more is removed.
    """

    version: str
    plural: str
    labels: str
    fields: tuple[str, ...] = ()
    under: str = ""
    naming: str = ""
    prune: bool = False

    def identity(self, body: Mapping[str, Any]) -> str:
        """Which of ours it is; "" for one of others."""
        labels = body.get(self.labels, {})
        if self.plural == "dashboards":
            return next((key for key in sorted(labels) if key.startswith(_OF_DASHBOARD)), "")
        return str(labels.get("penstock", ""))


DASHBOARDS = Kind("v1", "dashboards", "labels")
POLICIES = Kind(
    *("v3", "alertPolicies", "userLabels"),
    ("displayName", "userLabels", "combiner", "severity", "conditions", "alertStrategy", "documentation"),
)
SERVICES = Kind("v3", "services", "userLabels", ("displayName", "userLabels"), naming="serviceId")
SLOS = Kind(
    *("v3", "serviceLevelObjectives", "userLabels"),
    ("displayName", "userLabels", "goal", "rollingPeriod", "serviceLevelIndicator"),
    under="/services/penstock",
    naming="serviceLevelObjectiveId",
    prune=True,
)


@dataclass(frozen=True, slots=True)
class Change:
    """`theirs` is what is there now; empty where nothing is. `ours` is empty where it is to go."""

    kind: Kind
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    differences: tuple[str, ...]

    def __str__(self) -> str:
        if not self.ours:
            return f"- {self.theirs.get('displayName', self.theirs['name'])}: is no longer wanted"
        name = self.ours["displayName"]
        if not self.theirs:
            return f"+ {name}: is not there"
        more = len(self.differences) - _SHOWN
        told = "; ".join(self.differences[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        return f"~ {name}: {told}"


class Project:
    """`endpoint` is https://monitoring.googleapis.com, or a fake's; `session` carries the credentials."""

    def __init__(self, name: str, session: Session, endpoint: str = "https://monitoring.googleapis.com") -> None:
        self._name, self._session, self._endpoint = name, session, endpoint.rstrip("/")

    def changes(self, kind: Kind, ours: Iterable[Mapping[str, Any]]) -> list[Change]:
        """What would have to be done; nothing where all is alike. Raises ProjectError."""
        ours = list(ours)
        there = {kind.identity(each): each for each in self._list(kind)}
        wanted = {"", *map(kind.identity, ours)}
        found = [Change(kind, {}, there[name], ()) for name in there.keys() - wanted] if kind.prune else []
        for body in ours:
            theirs = there.get(kind.identity(body), {})
            differing = tuple(differences(body, theirs)) if theirs else ()
            if differing or not theirs:
                found.append(Change(kind, body, theirs, differing))
        return found

    def apply(self, change: Change) -> None:
        """Raises ProjectError; also where somebody has changed the object since it was read."""
        kind, body = change.kind, dict(change.ours)
        if not body:
            self._call("DELETE", f"{kind.version}/{change.theirs['name']}")
            return
        if not change.theirs:
            named = {kind.naming: kind.identity(body)} if kind.naming else {}
            self._call("POST", self._path(kind), json=body, params=named)
            return
        name = change.theirs["name"]
        body["name"] = name
        if "etag" in change.theirs:
            body["etag"] = change.theirs["etag"]
        mask = {"updateMask": ",".join(kind.fields)} if kind.fields else {}
        self._call("PATCH", f"{kind.version}/{name}", json=body, params=mask)

    def _path(self, kind: Kind) -> str:
        return f"{kind.version}/projects/{self._name}{kind.under}/{kind.plural}"

    def _list(self, kind: Kind) -> Iterator[dict[str, Any]]:
        token = ""
        while True:
            params = {"pageToken": token} if token else {}
            try:
                page = self._call("GET", self._path(kind), params=params)
            except NotThereError:
                if not kind.under:
                    raise
                return
            yield from page.get(kind.plural, [])
            token = page.get("nextPageToken", "")
            if not token:
                return

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._session.request(method, f"{self._endpoint}/{path}", timeout=30, **options)
        except OSError as error:  # what requests and google-auth raise are kinds of it
            raise ProjectError(f"{self._endpoint} cannot be reached: {error}") from error
        if answer.status_code >= 400:
            kind = NotThereError if answer.status_code == 404 else ProjectError
            raise kind(f"{method} {path}: {answer.status_code} {_message(answer)}")
        found: dict[str, Any] = answer.json()
        return found


def _message(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:200]


def differences(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where `theirs` does not say what `ours` says. What the API adds is none, nor that it leaves out zeros and empty values."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping | None):
        for key, value in ours.items():
            yield from differences(value, (theirs or {}).get(key), f"{where}.{key}" if where else key)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(mine, other, f"{where}[{at}]")
    elif ours != theirs and not (not ours and theirs is None):
        yield f"{where} is not as it should be"
