"""The documents and mistakes of test_parse: one valid document of every kind, and what may be wrong with it."""

import base64
from typing import Any

from ruamel.yaml import YAML

GATEWAY = "gateway.networking.k8s.io"


def yaml(text: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


ROUTE = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: chat, namespace: prod, generation: 3, labels: {team: a}}
spec:
  parentRefs:
  - {name: public, sectionName: https, port: 443}
  - {name: inner, namespace: infra}
  hostnames: [api.example.com, "*.example.org"]
  rules:
  - name: first
    matches:
    - path: {type: PathPrefix, value: /v1}
      headers: [{name: X-Team, value: a.*, type: RegularExpression}, {name: x-team, value: ignored}]
      queryParams: [{name: Model, value: m}]
      method: POST
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: A, value: "1"}], add: [{name: B, value: "2"}], remove: [C]}
    - type: URLRewrite
      urlRewrite: {hostname: inner.example.com, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
    - type: RequestMirror
      requestMirror: {backendRef: {name: copy, port: 80}, fraction: {numerator: 1, denominator: 1000}}
    - {type: CORS, cors: {allowOrigins: ["*"]}}
    backendRefs:
    - {group: inference.networking.x-k8s.io, kind: InferencePool, name: llama, weight: 9}
    - name: plain
      port: 8080
      filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Server]}}]
    timeouts: {request: 1m30s, backendRequest: 500ms}
    retry: {codes: [502, 503], attempts: 2, backoff: 100ms}
  - filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, statusCode: 301, port: 443}
""")
GATEWAY_DOCUMENT = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec:
  gatewayClassName: penstock
  addresses: [{value: 10.0.0.1}, {type: Hostname, value: gw.example.com}, {type: IPAddress}]
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - name: https
    port: 443
    protocol: HTTPS
    hostname: "*.example.com"
    tls: {certificateRefs: [{name: cert, namespace: certs}]}
    allowedRoutes:
      namespaces:
        from: Selector
        selector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d]}]}
      kinds: [{kind: HTTPRoute}]
""")
POOL = yaml("""
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: llama
  annotations: {penstock.dev/endpoints: "10.0.0.1:8000, localhost:8001,[fd00::1]:8002"}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}, {number: 8001}]
  endpointPickerRef: {name: epp, port: {number: 9002}, failureMode: FailOpen}
""")
OBJECTIVE = yaml("""
apiVersion: llm-d.ai/v1alpha2
kind: InferenceObjective
metadata: {name: urgent, annotations: {penstock.dev/models: "a, b,a"}}
spec: {poolRef: {name: llama}, priority: 10}
""")
REWRITE = yaml("""
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModelRewrite
metadata: {name: canary}
spec:
  poolRef: {name: llama}
  rules:
  - matches: [{model: {value: gpt}}]
    targets: [{modelRewrite: llama, weight: 9}, {modelRewrite: llama-next}]
""")
GRANT = yaml("""
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: routes, namespace: b}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]
  to: [{group: "", kind: Service}, {group: inference.networking.x-k8s.io, kind: InferencePool, name: llama}]
""")
CLASS = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: penstock, namespace: ignored}
spec: {controllerName: penstock.dev/gateway-controller, description: x, parametersRef: {group: a.b, kind: K, name: n}}
""")
SERVICE = yaml("""
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.1.1.1
  sessionAffinity: None
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: serving, appProtocol: kubernetes.io/h2c}, {port: 81, nodePort: 30000}]
""")
SLICE = yaml("""
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: any}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-a}, zone: z, nodeName: n}
- {addresses: [10.0.0.2], conditions: {ready: false, terminating: true}}
""")
POD = yaml("""
apiVersion: v1
kind: Pod
metadata: {name: web-a, labels: {app: web}}
spec:
  nodeName: n
  initContainers: [{name: sidecar, ports: [{name: side, containerPort: 9000}]}]
  containers: [{name: c, image: i, ports: [{name: serving, containerPort: 8000}, {containerPort: 1}]}]
status: {podIPs: [{ip: 10.0.0.7}]}
""")
SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "cert"},
    "type": "kubernetes.io/tls",
    "data": {"tls.key": base64.b64encode(b"key").decode() + "\n", "both": "AA=="},
    "stringData": {"tls.crt": "crt", "both": "plain"},
}
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod", "labels": {"a": "b"}}}
PICKER = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": [{"type": "queue-scorer"}]}
OLD_POOL = yaml("""
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {name: llama}
spec: {selector: {app: llama}, targetPortNumber: 8000, extensionRef: {name: epp}}
""")
VALID = [
    ROUTE, GATEWAY_DOCUMENT, POOL, OLD_POOL, OBJECTIVE, REWRITE, GRANT, CLASS, SERVICE, SLICE, POD, SECRET, CONFIG_MAP,
    NAMESPACE, PICKER,
]  # fmt: skip

# --- mistakes ----------------------------------------------------------------------------------------------------------

RULE = "spec.rules[0]"
LISTENER = "spec.listeners[1]"
BAD = [  # document, what to set, its value, the field that the Problem names ("" for the same), words of its message
    (ROUTE, "metadata.name", ..., "", "must be set; add it"),
    (ROUTE, "metadata.namespace", "Prod", "", "a DNS label"),
    (ROUTE, "metadata.labels", {"a": 1}, "metadata.labels[a]", "must be text, got 1; write it in quotes"),
    (ROUTE, "apiVersion", f"{GATEWAY}/v1alpha2", "", f"is not served; write {GATEWAY}/v1"),
    (ROUTE, "sepc", {}, "", "did you mean spec?"),
    (ROUTE, "spec", [], "", "must be an object, got a list"),
    (ROUTE, "spec.rules", [], "", "at least 1"),
    (ROUTE, "spec.rules", [{}] * 17, "", "at most 16"),
    (ROUTE, "spec.rules", [{"matches": [{}] * 64}] * 3, "", "at most 128 matches in all, got 192"),
    (ROUTE, "spec.rules[1].name", "first", "", "unique, got 'first' again"),
    (ROUTE, f"{RULE}.matches", [{}] * 65, "", "at most 64"),
    (ROUTE, f"{RULE}.matchs", [], "", "did you mean matches?"),
    (ROUTE, f"{RULE}.matches[0].path.value", "v1", "", "must start with '/', got 'v1'"),
    (ROUTE, f"{RULE}.matches[0].path.value", "/a//b", "", "must not contain '//'"),
    (ROUTE, f"{RULE}.matches[0].path.value", "/a/..", "", "must not contain '/..'"),
    (ROUTE, f"{RULE}.matches[0].path.value", "/ä", "", "percent-encode"),
    (ROUTE, f"{RULE}.matches[0].path.value", 7, "", "write it in quotes"),
    (ROUTE, f"{RULE}.matches[0].path.type", "Prefix", "", "did you mean PathPrefix?"),
    (ROUTE, f"{RULE}.matches[0].path.typ", "Exact", "", "did you mean type?"),
    (ROUTE, f"{RULE}.matches[0].method", "post", "", "did you mean POST?"),
    (ROUTE, f"{RULE}.matches[0].headers[1].name", "X-Team", "", "unique"),
    (ROUTE, f"{RULE}.matches[0].headers[0].name", "a b", "", "HTTP token"),
    (ROUTE, f"{RULE}.matches[0].headers[0].value", ..., "", "must be set"),
    (ROUTE, f"{RULE}.matches[0].path.type", "Exact", f"{RULE}.matches", "exactly one, of type PathPrefix"),
    (ROUTE, f"{RULE}.filters[0].type", "RequestHeaderModifer", "", "did you mean RequestHeaderModifier?"),
    (ROUTE, f"{RULE}.filters[0].type", "CORS", f"{RULE}.filters[0].requestHeaderModifier", "when type is CORS"),
    (ROUTE, f"{RULE}.filters[1].urlRewrite", ..., "", "must be set"),
    (ROUTE, f"{RULE}.filters[1].urlRewrite.path.replacePrefixMatch", ..., "", "must be set"),
    (ROUTE, f"{RULE}.filters[2].requestMirror.percent", 10, "", "together with fraction"),
    (ROUTE, f"{RULE}.filters[2].requestMirror.fraction.numerator", 1001, "", "from 0 to 1000"),
    (ROUTE, f"{RULE}.filters[2]", {"type": "CORS", "cors": {}}, f"{RULE}.filters[3].type", "unique"),
    (ROUTE, "spec.rules[1].filters[0].requestRedirect.statusCode", 300, "", "one of 301, 302"),
    (ROUTE, "spec.rules[1].filters[0].requestRedirect.scheme", "ftp", "", "one of http, https"),
    (ROUTE, "spec.rules[1].backendRefs", [{"name": "a", "port": 1}], "", "together with a RequestRedirect"),
    (ROUTE, f"{RULE}.backendRefs[1].port", ..., "", "must be set for a Service"),
    (ROUTE, f"{RULE}.backendRefs[1].port", "80", "", "an integer from 1 to 65535, got '80'; write it without quotes"),
    (ROUTE, f"{RULE}.backendRefs[1].port", True, "", "write a number"),
    (ROUTE, f"{RULE}.backendRefs[1].port", 70000, "", "from 1 to 65535"),
    (ROUTE, f"{RULE}.backendRefs[0].weight", -1, "", "from 0 to 1000000"),
    (ROUTE, f"{RULE}.backendRefs[0].wieght", 1, "", "did you mean weight?"),
    (ROUTE, f"{RULE}.backendRefs[0].nam", "x", "", "did you mean name?"),
    (ROUTE, f"{RULE}.timeouts.request", "10", "", "such as 10s"),
    (ROUTE, f"{RULE}.timeouts.backendRequest", "2m", "", "not be longer than request"),
    (ROUTE, f"{RULE}.retry.codes", [200], f"{RULE}.retry.codes[0]", "from 400 to 599"),
    (ROUTE, "spec.hostnames[0]", "https://a", "", "without scheme"),
    (ROUTE, "spec.parentRefs[1]", {"name": "public"}, "", "again"),
    (GATEWAY_DOCUMENT, "spec.gatewayClassName", ..., "", "must be set"),
    (GATEWAY_DOCUMENT, "spec.listeners", [], "", "at least 1"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.name", "http", "", "unique"),
    (GATEWAY_DOCUMENT, "spec.listeners[0].tls", {"mode": "Passthrough"}, "", "write protocol: HTTPS"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.tls.mode", "Passthrough", "", "must be Terminate"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.tls.certificateRefs", [], "", "must name a Secret"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.protocol", "TCP", f"{LISTENER}.tls", "TCP"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.tsl", {}, "", "did you mean tls?"),
    (GATEWAY_DOCUMENT, "spec.listeners[1]", {"name": "x", "port": 80, "protocol": "HTTP"}, "", "of listener 'http'"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.allowedRoutes.namespaces.from", "all", "", "did you mean All?"),
    (GATEWAY_DOCUMENT, "spec.addresses[0].value", "gw", "", "IPv4 or IPv6"),
    (GATEWAY_DOCUMENT, "spec.addresses[2].value", "10.0.0.1", "", "unique"),
    (CLASS, "spec.controllerName", "penstock", "", "a domain and a path"),
    (GRANT, "spec.from[0].namespace", ..., "", "must be set"),
    (POOL, "spec.selector", ..., "", "must be set"),
    (POOL, "spec.selector", {"app": "x"}, "spec.selector.matchLabels", "must be set"),
    (POOL, "spec.selector.matchLabels", {}, "", "at least 1 label"),
    (POOL, "spec.targetPorts", [], "", "at least 1"),
    (POOL, "spec.targetPorts", [{"number": n} for n in range(1, 10)], "", "at most 8"),
    (POOL, "spec.targetPorts[1].number", 8000, "", "unique"),
    (POOL, "spec.targetPort", [], "", "did you mean targetPorts?"),
    (POOL, "spec.endpointPickerRef.port", ..., "", "must be set when kind is Service"),
    (POOL, "spec.endpointPickerRef.failureMode", "FailClosed", "", "did you mean FailClose?"),
    (OLD_POOL, "spec.targetPortNumber", ..., "", "must be set"),
    (OLD_POOL, "spec.targetPorts", [], "", "did you mean targetPortNumber?"),
    (OBJECTIVE, "spec.priority", "high", "", "an integer"),
    (REWRITE, "spec.rules[0].targets", [], "", "at least 1"),
    (REWRITE, "spec.rules[0].matches[0].model.type", "Prefix", "", "one of Exact"),
    (SERVICE, "spec.ports[0].targetPort", 0, "", "from 1 to 65535"),
    (SLICE, "addressType", ..., "", "must be set"),
    (SLICE, "endpoints[0].addresses[0]", "web", "", "IPv4 or IPv6"),
    (POD, "status.podIP", "web", "", "IPv4 or IPv6"),
    (SECRET, "data.both", "!", "data[both]", "base64"),
    (CONFIG_MAP, "data.a", 1, "data[a]", "write it in quotes"),
    (NAMESPACE, "metadata", ..., "", "must be set"),
    (ROUTE, "kind", "HttpRoute", "", "did you mean HTTPRoute?"),
    (ROUTE, "apiVersion", "v1", "", f"must be {GATEWAY}/v1 for kind HTTPRoute"),
    (ROUTE, f"{RULE}.filters[0]", {"type": "RequestRedirect", "requestRedirect": {}}, f"{RULE}.filters", "both"),
    (ROUTE, f"{RULE}.filters[1].urlRewrite.path.replaceFullPath", "/", "", "write type: ReplaceFullPath"),
    (ROUTE, f"{RULE}.matches[0].headers[0].value", "a\ud800", "", "lone surrogate"),
    (ROUTE, f"{RULE}.name", "a" * 254, "", "at most 253 characters"),
    (ROUTE, "spec.hostnames", "a.example", "", "must be a list"),
    (ROUTE, "metadata.labels", ["a"], "", "must be an object"),
    (GATEWAY_DOCUMENT, "spec.listeners[0].protocol", "TLS", "spec.listeners[0].tls", "must be set with protocol TLS"),
    (GATEWAY_DOCUMENT, "spec.listeners[0]", {"name": "x", "port": 1, "protocol": "UDP", "hostname": "a"}, "spec.listeners[0].hostname", "UDP"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.allowedRoutes.namespaces.selector.matchExpressions[0].values", [], "", "at least one"),
    (GATEWAY_DOCUMENT, f"{LISTENER}.allowedRoutes.namespaces.selector.matchExpressions[0].operator", "Exists",
     f"{LISTENER}.allowedRoutes.namespaces.selector.matchExpressions[0].values", "must be empty"),
    (POOL, "spec.selector.matchLabels", {f"a{n}": "" for n in range(65)}, "", "at most 64"),
    (POOL, "metadata.annotations", {"penstock.dev/endpoint-picker-config": " "},
     "metadata.annotations[penstock.dev/endpoint-picker-config]", "must name"),
    (SLICE, "endpoints[1].conditions.ready", "no", "", "true or false"),
]  # fmt: skip
