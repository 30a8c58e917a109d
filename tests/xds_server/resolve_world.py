"""A small world for the tests of `resolve`: manifests in as few words as they need, and what Envoy would do with a Graph."""

import textwrap
from typing import Any

from ruamel.yaml import YAML

from xds_server.model.graph import CONTROLLER, Forward, Graph, ObjectStatus, Route, VirtualHost
from xds_server.model.objects import (
    GATEWAY_GROUP,
    GATEWAY_X_GROUP,
    INFERENCE_GROUP,
    ClusterState,
    HTTPMatch,
    Object,
    ObjectRef,
)
from xds_server.parse import parse
from xds_server.resolve import Setting, resolve
from xds_server.resolve.hostnames import covering

CLASS = f"""
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: penstock, generation: 1}}
spec: {{controllerName: {CONTROLLER}}}
"""
GROUPS = {
    "GatewayClass": (GATEWAY_GROUP, "v1"),
    "Gateway": (GATEWAY_GROUP, "v1"),
    "HTTPRoute": (GATEWAY_GROUP, "v1"),
    "ReferenceGrant": (GATEWAY_GROUP, "v1"),
    "GRPCRoute": (GATEWAY_GROUP, "v1"),
    "TLSRoute": (GATEWAY_GROUP, "v1"),
    "TCPRoute": (GATEWAY_GROUP, "v1"),
    "UDPRoute": (GATEWAY_GROUP, "v1"),
    "ListenerSet": (GATEWAY_GROUP, "v1"),
    "BackendTLSPolicy": (GATEWAY_GROUP, "v1"),
    "XBackend": (GATEWAY_X_GROUP, "v1alpha1"),
    "XBackendTrafficPolicy": (GATEWAY_X_GROUP, "v1alpha1"),
    "XTelemetryPolicy": (GATEWAY_X_GROUP, "v1alpha1"),
    "ClusterTrustBundle": ("certificates.k8s.io", "v1beta1"),
    "InferencePool": (INFERENCE_GROUP, "v1"),
    "InferenceObjective": ("llm-d.ai", "v1alpha2"),
    "InferenceModelRewrite": ("llm-d.ai", "v1alpha2"),
    "EndpointPickerConfig": ("llm-d.ai", "v1alpha1"),
    "EndpointSlice": ("discovery.k8s.io", "v1"),
}
CLUSTER_SCOPED = ("GatewayClass", "Namespace", "ClusterTrustBundle")


def thing(kind: str, name: str, spec: dict[str, Any] | None = None, ns: str = "d", **more: Any) -> Object:
    """One object; `more` is metadata, except for the top-level fields of the kinds that have no spec."""
    group, version = GROUPS.get(kind, ("", "v1"))
    top = {
        key: more.pop(key)
        for key in ("data", "type", "status", "ports", "endpoints", "addressType", "content")
        if key in more
    }
    content = top.pop("content", {})
    meta = {"name": name, "generation": 1, **more}
    if kind not in CLUSTER_SCOPED:
        meta["namespace"] = ns
    created = meta.pop("created", None)
    if created:
        meta["creationTimestamp"] = created
    body = {"apiVersion": f"{group}/{version}".lstrip("/"), "kind": kind, "metadata": meta, **top, **content}
    if spec is not None:
        body["spec"] = spec
    found = parse(body)
    assert found is not None
    return found


def gateway(name: str = "gw", *listeners: dict[str, Any], ns: str = "d", **more: Any) -> Object:
    spec = {"gatewayClassName": "penstock", "listeners": list(listeners) or [http()], **more.pop("spec", {})}
    return thing("Gateway", name, spec, ns, **more)


def http(name: str = "http", port: int = 80, hostname: str = "", **more: Any) -> dict[str, Any]:
    return {"name": name, "port": port, "protocol": "HTTP", **({"hostname": hostname} if hostname else {}), **more}


def rule(*paths: str, to: str | list[dict[str, Any]] = "s", **more: Any) -> dict[str, Any]:
    backends = [{"name": to, "port": 80}] if isinstance(to, str) else to
    matches = [{"path": {"type": "PathPrefix", "value": path}} for path in paths]
    return {**({"matches": matches} if matches else {}), "backendRefs": backends, **more}


def route(
    name: str, *rules: dict[str, Any], parents: Any = None, hostnames: Any = (), ns: str = "d", **more: Any
) -> Object:
    spec: dict[str, Any] = {"parentRefs": parents or [{"name": "gw"}], "rules": list(rules) or [rule()]}
    if hostnames:
        spec["hostnames"] = list(hostnames)
    return thing("HTTPRoute", name, spec, ns, **more)


def service(name: str = "s", ns: str = "d", **more: Any) -> Object:
    ports = more.pop("service_ports", [{"port": 80, "targetPort": 8000}])
    return thing("Service", name, {"ports": ports, **more.pop("spec", {})}, ns, **more)


def pool(name: str = "p", ns: str = "d", **more: Any) -> Object:
    spec = {"selector": {"matchLabels": {"app": name}}, "targetPorts": [{"number": 8000}], **more.pop("spec", {})}
    return thing("InferencePool", name, spec, ns, **more)


def pod(name: str, ip: str, app: str = "p", ns: str = "d", *, ready: bool = True, **more: Any) -> Object:
    status = {"podIP": ip, "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    spec = more.pop("spec", {"containers": [{"name": "c"}]})
    return thing("Pod", name, spec, ns, status=status, labels={"app": app}, **more)


def our_class() -> Object:
    found = parse(YAML(typ="safe").load(textwrap.dedent(CLASS)))
    assert found is not None
    return found


def graph(*objects: Object, **options: Any) -> Graph:
    return resolve(ClusterState.of([our_class(), *objects]), Setting(**options))


def ref(kind: str, name: str, ns: str = "d") -> ObjectRef:
    group = GROUPS.get(kind, ("",))[0]
    return ObjectRef(group, kind, "" if kind in CLUSTER_SCOPED else ns, name)


def status(found: Graph, kind: str, name: str, ns: str = "d") -> ObjectStatus:
    return found.statuses[ref(kind, name, ns)]


def reasons(conditions: Any) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in conditions}


def parent(
    found: Graph, name: str, index: int = 0, ns: str = "d", kind: str = "HTTPRoute"
) -> dict[str, tuple[str, str]]:
    return reasons(status(found, kind, name, ns).parents[index].conditions)


def ancestors(found: Graph, kind: str, name: str, ns: str = "d") -> dict[str, dict[str, tuple[str, str]]]:
    """Of a policy: its conditions for each Gateway."""
    return {each.parent.ref.name: reasons(each.conditions) for each in status(found, kind, name, ns).ancestors}


def listener(found: Graph, name: str, gateway_name: str = "gw") -> dict[str, tuple[str, str]]:
    each = next(each for each in status(found, "Gateway", gateway_name).listeners if each.name == name)
    return reasons(each.conditions)


# --- what Envoy does --------------------------------------------------------------------------------------------------


def host(found: Graph, name: str, port: int = 80, chain: int = 0) -> VirtualHost | None:
    """The virtual host that Envoy takes: the exact one, else the longest wildcard, else "*"."""
    held = {each.hostname: each for each in next(p for p in found.ports if p.number == port).chains[chain].hosts}
    return next((held[pattern] for pattern in covering(name) if pattern in held), None)


def ask(
    found: Graph, name: str, path: str = "/", *, port: int = 80, method: str = "GET", headers: Any = ()
) -> Route | None:
    taken = host(found, name, port)
    request = (path, method, frozenset(headers))
    return next((each for each in (taken.routes if taken else ()) if matches(each.match, request)), None)


def matches(match: HTTPMatch, request: tuple[str, str, frozenset[tuple[str, str]]]) -> bool:
    path, method, headers = request
    value = match.path.value
    if match.path.kind == "Exact" and path != value:
        return False
    prefix = value.rstrip("/")
    if match.path.kind == "PathPrefix" and not (path == prefix or path.startswith(prefix + "/")):
        return False
    return match.method in ("", method) and all((each.name, each.value) in headers for each in match.headers)


def clusters(found: Route | None) -> list[str]:
    assert found is not None
    assert isinstance(found.action, Forward)
    return [each.backend.cluster if each.backend else "" for each in found.action.backends]
