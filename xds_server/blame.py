"""Who is at fault in a NACK, as far as Envoy's text says, and what was refused. Source: seen on Envoy 1.40."""

import re
from collections.abc import Mapping, Sequence

from xds_server.snapshot import CDS, LDS, Collection, Resource

REMEMBERED = 16  # refused versions of one resource that are remembered


def blame(type_url: str, error: str, candidates: Sequence[str] | Mapping[str, Resource]) -> tuple[str, ...]:
    """The candidates that Envoy's error text names; none if it names none (RDS, EDS and SDS never do).

    CDS says `Error adding/updating cluster(s) a: why, b: why`, LDS the same of `listener(s)`, one a line.
    """
    noun = {CDS: "cluster(s) ", LDS: "listener(s) "}.get(type_url)
    if noun is None or noun not in error:
        return ()
    text = error.split(noun, 1)[1]
    maybe = (name for name in candidates if f"{name}: " in text)  # thousands of patterns would take long
    return tuple(name for name in maybe if re.search(rf"(?:^|, |\n){re.escape(name)}: ", text))


class Refused:
    """The versions of one type that one Envoy refused on one stream, with the reason and the time."""

    def __init__(self) -> None:
        self._errors: dict[str, dict[str, tuple[str, float]]] = {}  # name -> version -> error, when

    def add(self, resource: Resource, error: str, now: float) -> None:
        """The oldest of many versions is forgotten."""
        versions = self._errors.setdefault(resource.name, {})
        versions.pop(resource.version, None)
        versions[resource.version] = (error, now)
        if len(versions) > REMEMBERED:
            del versions[next(iter(versions))]

    def __contains__(self, resource: Resource) -> bool:
        return resource.version in self._errors.get(resource.name, ())

    def errors(self, wanted: Collection) -> dict[str, str]:
        """The versions wanted now that were refused: name -> error."""
        return {
            name: versions[wanted[name].version][0]
            for name, versions in self._errors.items()
            if name in wanted and wanted[name].version in versions
        }

    def oldest(self) -> float | None:
        """The time of the first refusal that is remembered."""
        return min((when for versions in self._errors.values() for _, when in versions.values()), default=None)

    def forget(self, now: float, after: float = 0.0) -> None:
        """Whatever was refused `after` seconds ago, or before, may be sent again."""
        kept = (
            (name, {version: found for version, found in versions.items() if found[1] + after > now})
            for name, versions in self._errors.items()
        )
        self._errors = {name: versions for name, versions in kept if versions}
