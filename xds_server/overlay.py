"""What a Gateway's infrastructure.parametersRef changes: YAML overlays in a ConfigMap, one per kind, merged into our manifests.

Mappings merge key by key, lists of objects with `name` by name, other lists are replaced, null removes. Source: Gateway API 1.7
`GatewayInfrastructure.parametersRef`; the merge is the one of Kubernetes' strategic merge patch for the lists that have names.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from xds_server.model.objects import ConfigMap, InvalidObject, ObjectRef, Problem
from xds_server.sources.yaml import BrokenText, load_settings

KINDS = {
    "deployment": "Deployment",
    "service": "Service",
    "serviceAccount": "ServiceAccount",
    "podDisruptionBudget": "PodDisruptionBudget",
    "horizontalPodAutoscaler": "HorizontalPodAutoscaler",
}
# Who an object is, whose it is, and what it selects: changed, the fleet would lose its pods or its identity. externalIPs can take
# anybody's traffic (CVE-2020-8554).
_OURS = (
    "apiVersion", "kind", "status", "metadata.name", "metadata.namespace", "metadata.ownerReferences", "spec.selector",
    "spec.scaleTargetRef", "spec.externalIPs", "spec.template.spec.serviceAccountName", "spec.template.spec.serviceAccount",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Overlays:
    """Parsed and allowed; `parts` by kind."""

    ref: ObjectRef | None = None
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def merged(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Raises InvalidObject where an overlay does not fit."""
        part = self.parts.get(manifest["kind"])
        if part is None:
            return manifest
        key = next(key for key, kind in KINDS.items() if kind == manifest["kind"])
        try:
            return _dicts(manifest, part, "")
        except _Misfit as error:
            raise InvalidObject(Problem(self.ref, f"data[{key}]", "InvalidParameters", str(error))) from None


def read_overlays(config: ConfigMap) -> Overlays:
    """Raises InvalidObject: nothing is half applied."""
    parts: dict[str, Mapping[str, Any]] = {}
    for key, text in sorted(config.data.items()):
        if key not in KINDS:
            near = difflib.get_close_matches(key, KINDS, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"write one of {', '.join(KINDS)}"
            raise _wrong(config, key, f"is no kind that can be changed; {remedy}")
        try:
            found = load_settings(text)
        except BrokenText as error:
            raise _wrong(config, key, f"line {error.line} is not YAML: {error.message}") from None
        if found is None:
            continue
        try:
            orjson.dumps(found)
        except TypeError as error:
            raise _wrong(config, key, f"has no JSON form: {error}") from None
        if not isinstance(found, dict):
            raise _wrong(config, key, "must be a mapping, such as 'spec: {replicas: 3}'")
        for path in _OURS:
            if _has(found, path.split(".")):
                raise _wrong(config, key, f"must not set {path}: Penstock does; remove it")
        parts[KINDS[key]] = found
    return Overlays(config.meta.ref, parts)


def _wrong(config: ConfigMap, key: str, message: str) -> InvalidObject:
    return InvalidObject(Problem(config.meta.ref, f"data[{key}]", "InvalidParameters", message, config.meta.source))


def _has(value: Any, path: list[str]) -> bool:
    """Also where a parent is null: that would remove it."""
    for key in path:
        if not isinstance(value, dict):
            return value is None
        if key not in value:
            return False
        value = value[key]
    return True


class _Misfit(Exception):
    pass


def _dicts(base: Mapping[str, Any], over: Mapping[str, Any], path: str) -> dict[str, Any]:
    found = dict(base)
    for key, value in over.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = _values(found.get(key), value, f"{path}.{key}".lstrip("."))
    return found


def _values(base: Any, over: Any, path: str) -> Any:
    if isinstance(base, dict) or (base is None and isinstance(over, dict)):
        if not isinstance(over, dict):
            raise _Misfit(f"{path} must be a mapping, got {type(over).__name__}")
        return _dicts(base or {}, over, path)
    if isinstance(base, list):
        if not isinstance(over, list):
            raise _Misfit(f"{path} must be a list, got {type(over).__name__}")
        return _lists(base, over, path) if _named([*base, *over]) else over
    if base is not None and isinstance(over, dict | list):
        raise _Misfit(f"{path} must be a plain value, got {type(over).__name__}")
    return over


def _named(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items)


def _lists(base: list[Any], over: list[Any], path: str) -> list[Any]:
    found = list(base)
    for item in over:
        places = [i for i, each in enumerate(base) if each["name"] == item["name"] and _same_place(each, item)]
        if places:
            found[places[0]] = _dicts(found[places[0]], item, f"{path}[{item['name']}]")
        else:
            found.append(_dicts({}, item, path))
    return found


def _same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """A volume may be mounted twice: there the path tells."""
    return bool(one.get("mountPath") == other.get("mountPath", one.get("mountPath")))
