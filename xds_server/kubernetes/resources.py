"""Resources as the API names them, and the paths and parameters of a query. Source: Kubernetes API concepts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xds_server.model.objects import ObjectRef
from xds_server.parse import KINDS
from xds_server.parse.common import MOVED

BUNDLE = ("certificates.k8s.io", "ClusterTrustBundle")
REFERENCED = frozenset({("", "Secret"), ("", "ConfigMap"), BUNDLE})  # read one by one, where something refers to them
SELECTED = frozenset({("", "Pod")})  # read where an InferencePool selects them


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind, in the version in which we read it."""

    group: str
    kind: str
    version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "") -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name else "")

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def ref(self, namespace: str, name: str) -> ObjectRef:
        """The identity that `parse` gives to an object of this resource."""
        group = MOVED.get((self.group, self.kind), self.group)
        return ObjectRef(group, self.kind, namespace if self.namespaced else "", name)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


@dataclass(frozen=True, slots=True)
class Query:
    """What one reflector keeps: the objects of a resource in all namespaces or one, all of them or those selected."""

    resource: Resource
    namespace: str = ""
    labels: str = ""  # labelSelector
    name: str = ""

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace)

    @property
    def selectors(self) -> dict[str, str]:
        found = {"labelSelector": self.labels} if self.labels else {}
        return found | ({"fieldSelector": f"metadata.name={self.name}"} if self.name else {})

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        chosen = self.name or self.labels
        return f"{self.resource} {where}{chosen}".rstrip(" /")


def selector(labels: Mapping[str, str]) -> str:
    """A labelSelector parameter of matchLabels."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def group_versions() -> tuple[tuple[str, str], ...]:
    """(group, version) of everything that we may read."""
    found = {(group, version): None for (group, _), reader in KINDS.items() for version in reader.versions}
    return tuple(found | {(BUNDLE[0], version): None for version in _BUNDLE_VERSIONS})


_BUNDLE_VERSIONS = ("v1", "v1beta1", "v1alpha1")


def choose(lists: Mapping[tuple[str, str], Iterable[Mapping[str, Any]]]) -> dict[tuple[str, str], Resource]:
    """The kinds that are served, each in the version that we like best. `lists`: (group, version) -> its APIResourceList."""
    wanted = {kind: reader.versions for kind, reader in KINDS.items()}
    wanted.setdefault(BUNDLE, _BUNDLE_VERSIONS)
    found: dict[tuple[str, str], Resource] = {}
    for (group, kind), versions in wanted.items():
        for version in versions:
            for each in lists.get((group, version), ()):
                name = each.get("name", "")
                if each.get("kind") == kind and "/" not in name and "list" in each.get("verbs", ("list",)):
                    resource = Resource(group, kind, version, name, bool(each.get("namespaced")))
                    found.setdefault((group, kind), resource)
    return found
