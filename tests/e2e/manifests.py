"""Manifests in as few words as the tests need; `$name` is filled in by `pool` and the rest."""

from collections.abc import Iterable

from penstock.sim.server import SimServer

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: penstock}
spec: {controllerName: penstock.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: penstock
  listeners:
  - {name: http, port: 8080, protocol: HTTP}
"""
POOL = "inference.networking.k8s.io"


def pool(name: str, servers: Iterable[SimServer | str], *, mode: str = "", config: str = "", more: str = "") -> str:
    """An InferencePool of these servers; `mode` is the picker's failureMode, `config` names an EndpointPickerConfig.

    `more` is one more annotation.
    """
    listed = ", ".join(each if isinstance(each, str) else each.address for each in servers)
    named = f"\n    penstock.dev/endpoint-picker-config: {config}" if config else ""
    added = f"\n    {more}" if more else ""
    picker = f"\n  endpointPickerRef: {{name: picker, port: {{number: 9002}}, failureMode: {mode}}}" if mode else ""
    return f"""
apiVersion: {POOL}/v1
kind: InferencePool
metadata:
  name: {name}
  annotations:
    penstock.dev/endpoints: "{listed}"{named}{added}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  targetPorts: [{{number: 8000}}]{picker}
"""


def to_pool(name: str, weight: int | None = None) -> str:
    share = "" if weight is None else f", weight: {weight}"
    return f"{{group: {POOL}, kind: InferencePool, name: {name}{share}}}"


def to_service(name: str, namespace: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"{{name: {name}, port: 80{where}}}"


def rule(path: str, *backends: str, model: str = "", more: str = "") -> str:
    """One rule of `route`: a path prefix, perhaps a model, to backends; `more` is one line of YAML."""
    headers = f"\n      headers: [{{name: x-gateway-model-name, value: {model}}}]" if model else ""
    extra = f"\n    {more}" if more else ""
    to = f"\n    backendRefs: [{', '.join(backends)}]" if backends else ""
    return f"""
  - matches:
    - path: {{type: PathPrefix, value: {path}}}{headers}{extra}{to}"""


def route(name: str, *rules: str, hostname: str = "", namespace: str = "default") -> str:
    hosts = f"\n  hostnames: [{hostname}]" if hostname else ""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: gw, namespace: default}}]{hosts}
  rules:{"".join(rules)}
"""


def service(name: str, address: str, namespace: str = "default") -> str:
    """A Service and its EndpointSlice with one endpoint, "ip:port"."""
    host, _, port = address.rpartition(":")
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  ports: [{{name: http, port: 80, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: {namespace}
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints:
- addresses: [{host}]
  conditions: {{ready: true}}
"""


def documents(*parts: str) -> str:
    return "\n---\n".join(part.strip("\n") for part in parts) + "\n"
