"""Which of the kinds that we read are served: a kind whose CRD is missing is no error, and comes and goes with it.

Source: Kubernetes API discovery. Small answers, one for each group and version that we may read.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from xds_server.kubernetes.api import Api, ApiError
from xds_server.kubernetes.resources import Resource, choose, group_versions

_MISSES = 2  # looks in a row that must not find a kind: an API server that starts answers 404 before it knows its CRDs
Answers = Mapping[tuple[str, str], list[dict[str, Any]] | None]  # by (group, version); None: it could not be asked
Kinds = Mapping[tuple[str, str], Resource]


class Discovery:
    """What is known to be served. Pure: fed with answers."""

    def __init__(self) -> None:
        self._lists: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._missed: dict[tuple[str, str], int] = {}
        self.kinds: dict[tuple[str, str], Resource] | None = None  # None until every group has answered once

    @property
    def missing(self) -> bool:
        """Whether a kind was not found that is believed to be there: the next look decides, and should be some time later."""
        return bool(self._missed)

    def update(self, answers: Answers) -> None:
        self._lists.update({place: found for place, found in answers.items() if found is not None})
        if self._lists.keys() < answers.keys():
            return
        found = choose(self._lists)
        for kind, resource in (self.kinds or {}).items():
            if kind in found:
                self._missed.pop(kind, None)
                continue
            self._missed[kind] = self._missed.get(kind, 0) + 1
            if self._missed[kind] < _MISSES:
                found[kind] = resource
            else:
                del self._missed[kind]
        self.kinds = found


async def ask(api: Api) -> Answers:
    """What each group and version serves: nothing where there is no such, None where the question failed."""
    places = group_versions()
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(_resources(api, group, version)) for group, version in places]
    return {place: task.result() for place, task in zip(places, asked, strict=True)}


async def _resources(api: Api, group: str, version: str) -> list[dict[str, Any]] | None:
    try:
        found = await api.get(f"/apis/{group}/{version}" if group else f"/api/{version}")
    except ApiError as error:
        return [] if error.code == 404 else None
    return list(found.get("resources") or ())
