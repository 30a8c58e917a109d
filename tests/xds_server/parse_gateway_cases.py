"""The documents and mistakes of test_parse_gateway_api: streams, gRPC, policies, and what 1.7 added to older kinds."""

from typing import Any

from tests.xds_server.parse_cases import GATEWAY, GATEWAY_DOCUMENT, ROUTE, SERVICE, yaml

GATEWAY_X = "gateway.networking.x-k8s.io"
FULL_GATEWAY = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: full, namespace: prod}
spec:
  gatewayClassName: penstock
  defaultScope: None
  addresses: [{value: 10.0.0.1}, {type: IPAddress, routability: Cluster}, {value: fd00::1, routability: example.com/x}]
  infrastructure:
    labels: {example.com/team: a, plain: ""}
    annotations: {note: any text}
    parametersRef: {group: "", kind: ConfigMap, name: settings}
  allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}
  tls:
    backend: {clientCertificateRef: {name: us, namespace: certs}}
    frontend:
      default:
        validation:
          caCertificateRefs:
          - {group: "", kind: ConfigMap, name: ca, namespace: certs}
          - {group: certificates.k8s.io, kind: ClusterTrustBundle, name: clients}
      perPort:
      - {port: 8443, tls: {}}
      - port: 9443
        tls:
          validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: "", kind: ConfigMap, name: ca}]}
  listeners:
  - name: http
    port: 80
    protocol: HTTP
    filters:
      requests:
      - type: ExternalAuth
        externalAuth: {protocol: GRPC, backendRef: {name: auth, port: 9000}, grpc: {}, forwardBody: {maxSize: 1024}}
      - {type: ExtensionRef, extensionRef: {group: example.com, kind: Limit, name: slow}}
  - {name: tls, port: 443, protocol: TLS, tls: {mode: Passthrough}}
  - {name: tcp, port: 5432, protocol: TCP}
  - {name: udp, port: 53, protocol: UDP}
  - {name: other, port: 1, protocol: example.com/QUIC}
  - {name: odd, port: 2, protocol: WIBBLE}
""")
LISTENER_SET = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: more, namespace: team}
spec:
  parentRef: {name: public, namespace: infra}
  listeners:
  - {name: http, port: 8080, protocol: HTTP, hostname: team.example.com}
  - {name: https, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
""")
GRPC = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: grpc, namespace: prod}
spec:
  parentRefs: [{name: public}]
  hostnames: [grpc.example.com]
  rules:
  - name: first
    matches:
    - method: {service: a.Chat, method: Say}
      headers: [{name: X-Team, value: a}]
    - {}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}
    backendRefs: [{name: chat, port: 9000, filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {}}]}]
    sessionPersistence: {cookie: {}}
""")
TLS = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls, namespace: prod}
spec:
  parentRefs: [{name: public, sectionName: tls}]
  hostnames: ["*.example.com"]
  rules: [{name: only, backendRefs: [{name: a, port: 443, weight: 9}, {name: b, port: 443, namespace: other}]}]
""")
TCP = yaml("""
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: tcp, namespace: prod}
spec:
  rules: [{backendRefs: [{name: first, port: 1}]}, {backendRefs: [{name: second, port: 2}]}]
""")
UDP = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: udp, namespace: prod}
spec: {parentRefs: [{name: public}], rules: [{backendRefs: [{name: dns, port: 53}]}]}
""")
TLS_POLICY = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls, namespace: prod}
spec:
  targetRefs: [{group: "", kind: Service, name: web, sectionName: https}]
  options: {a: b}
  validation:
    hostname: web.example.com
    caCertificateRefs:
    - {group: "", kind: ConfigMap, name: ca}
    - {group: certificates.k8s.io, kind: ClusterTrustBundle, name: all}
    subjectAltNames: [{type: Hostname, hostname: "*.example.com"}, {type: URI, uri: "spiffe://example.com/web"}]
""")
EXTERNAL = yaml("""
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {name: away, namespace: prod}
spec:
  type: ExternalHostname
  externalHostname: {hostname: api.example.com}
  port: {number: 443}
  protocol: HTTP2
  tls:
    mode: ClientAndServer
    validation: {hostname: api.example.com, wellKnownCACertificates: System}
    clientCertificateRef: {name: us}
""")
SELECTED = yaml("""
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackend
metadata: {name: pods, namespace: prod}
spec:
  type: EndpointSelector
  endpointSelector: {matchLabels: {app: web}}
  port: {number: 8080}
  sessionPersistence: {type: Header, header: {name: X-Session}, absoluteTimeout: 1h}
""")
TRAFFIC = yaml("""
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: traffic, namespace: prod}
spec:
  targetRefs: [{group: "", kind: Service, name: web}, {group: "", kind: Service, name: other}]
  retryConstraint: {budget: {percent: 5, interval: 30s}, minRetryRate: {count: 3, interval: 2s}}
  sessionPersistence: {cookie: {name: at, lifetimeType: Permanent, path: /a}, absoluteTimeout: 1h}
""")
TELEMETRY = yaml("""
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XTelemetryPolicy
metadata: {name: traces, namespace: prod}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}]
  tracing:
    mode: Enabled
    provider: {backendRef: {name: otel, port: 4317}, headers: [{name: X-Key, value: k}]}
    samplingRate: {numerator: 5}
    parentBasedSampling: {mode: Enabled, samplingRate: {numerator: 1, denominator: 2}}
    serviceName: edge
    spanName: one span
    attributes:
    - {name: team, sourceType: Header, headerName: x-team}
    - {name: env, sourceType: Literal, literalValue: prod}
    - {name: code, sourceType: Attribute, attributeKey: http.status}
""")
BUNDLE = yaml("""
apiVersion: certificates.k8s.io/v1beta1
kind: ClusterTrustBundle
metadata: {name: all}
spec: {signerName: example.com/signer, trustBundle: PEM}
""")
FILTERED = yaml("""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: filtered, namespace: prod}
spec:
  rules:
  - filters:
    - type: CORS
      cors:
        allowOrigins: [https://a.example.com, "https://*.example.org:8443"]
        allowMethods: [GET, POST]
        allowHeaders: [X-A]
        exposeHeaders: [X-B, "*"]
        allowCredentials: true
        maxAge: 60
    - type: ExternalAuth
      externalAuth:
        protocol: HTTP
        backendRef: {name: auth, port: 80}
        http: {path: /check, allowedHeaders: [X-A, x-a], allowedResponseHeaders: [X-User]}
    - {type: ExtensionRef, extensionRef: {group: example.com, kind: Limit, name: slow}}
    backendRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: away}]
    sessionPersistence: {cookie: {name: at}}
""")
ADDRESSED = {
    **SERVICE,
    "spec": {**SERVICE["spec"], "externalIPs": ["192.0.2.1"]},
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2", "ports": []}, {"hostname": "lb.example.com"}]}},
}
VALID = [
    FULL_GATEWAY, LISTENER_SET, GRPC, TLS, TCP, UDP, TLS_POLICY, EXTERNAL, SELECTED, TRAFFIC, TELEMETRY, BUNDLE, FILTERED,
    ADDRESSED,
]  # fmt: skip

# --- mistakes ----------------------------------------------------------------------------------------------------------

RULE = "spec.rules[0]"
AUTH = f"{RULE}.filters[1].externalAuth"
METHOD = f"{RULE}.matches[0].method"
FRONTEND = "spec.tls.frontend"
TRACING = "spec.tracing"
UNLABELLED: dict[str, Any] = {"matchLabels": {}}
BAD: list[tuple[dict[str, Any], str, Any, str, str]] = [  # as in parse_cases
    (FULL_GATEWAY, "spec.infrastructure.labels", {"a b": "c"}, "spec.infrastructure.labels[a b]", "of up to 63"),
    (FULL_GATEWAY, "spec.infrastructure.labels", {"a": "b c"}, "spec.infrastructure.labels[a]", "a label value"),
    (FULL_GATEWAY, "spec.infrastructure.labels", {f"a{n}": "" for n in range(9)}, "", "at most 8 keys, got 9"),
    (FULL_GATEWAY, "spec.infrastructure.parametersRef.group", ..., "", "must be set"),
    (FULL_GATEWAY, "spec.infrastructure.lables", {}, "", "did you mean labels?"),
    (FULL_GATEWAY, "spec.addresses[1].routability", "Public", "", "write Cluster"),
    (FULL_GATEWAY, "spec.addresses[1].routability", "a.k8s.io/x", "", "reserved"),
    (FULL_GATEWAY, "spec.addresses[2].value", "10.0.0.1", "", "unique"),
    (FULL_GATEWAY, "spec.allowedListeners.namespaces.from", "none", "", "did you mean None?"),
    (FULL_GATEWAY, "spec.tls.backend.clientCertificateRef.name", ..., "", "must be set"),
    (FULL_GATEWAY, f"{FRONTEND}.default", ..., "", "must be set"),
    (FULL_GATEWAY, f"{FRONTEND}.default.validation.caCertificateRefs", [], "", "at least 1"),
    (FULL_GATEWAY, f"{FRONTEND}.default.validation.mode", "AllowAll", "", "one of AllowValidOnly, AllowInsecureFallback"),
    (FULL_GATEWAY, f"{FRONTEND}.default.validation.caCertificateRefs[1].namespace", "x", "", "ClusterTrustBundle; remove it"),
    (FULL_GATEWAY, f"{FRONTEND}.default.validation.caCertificateRefs[0].kind", ..., "", "must be set"),
    (FULL_GATEWAY, f"{FRONTEND}.perPort[1].port", 8443, "", "unique"),
    (FULL_GATEWAY, f"{FRONTEND}.perPort[1].tls", ..., "", "must be set"),
    (FULL_GATEWAY, "spec.listeners[0].filters.requests[0].type", "CORS", "", "one of ExternalAuth, ExtensionRef"),
    (FULL_GATEWAY, "spec.listeners[0].protocol", "TCP", "spec.listeners[0].filters", "must not be set with protocol TCP"),
    (FULL_GATEWAY, "spec.listeners[1].tls.mode", "Passthru", "", "did you mean Passthrough?"),
    (GATEWAY_DOCUMENT, "spec.infrastructure", [], "", "must be an object"),
    (LISTENER_SET, "spec.parentRef", ..., "", "must be set"),
    (LISTENER_SET, "spec.listeners", [], "", "at least 1"),
    (LISTENER_SET, "spec.listeners[1].name", "http", "", "unique"),
    (LISTENER_SET, "spec.parentRef.sectionName", "x", "", "unknown field"),
    (GRPC, f"{METHOD}.service", "a/b", "", "such as package.Service"),
    (GRPC, f"{METHOD}.method", "a.b", "", "such as GetThing"),
    (GRPC, f"{METHOD}.service", "", "", "the name of a gRPC service"),
    (GRPC, f"{METHOD}.type", "Prefix", "", "one of Exact, RegularExpression"),
    (GRPC, f"{RULE}.matches[0].path", {}, "", "unknown field"),
    (GRPC, f"{RULE}.matches[0].headers[0].value", "", "", "at least one character"),
    (GRPC, "spec.rules", [{"matches": [{}] * 64}] * 3, "", "at most 128 matches"),
    (GRPC, f"{RULE}.filters[0]", {"type": "CORS", "cors": {}}, f"{RULE}.filters[0].type", "one of RequestHeaderModifier"),
    (GRPC, f"{RULE}.timeouts", {}, "", "unknown field"),
    (GRPC, "apiVersion", f"{GATEWAY}/v1alpha2", "", f"write {GATEWAY}/v1"),
    (TLS, "spec.hostnames", [], "", "at least 1"),
    (TLS, "spec.hostnames[0]", "10.0.0.1", "", "must be a name"),
    (TLS, "spec.rules", [{"backendRefs": [{"name": "a", "port": 1}]}] * 2, "", "at most 1"),
    (TLS, f"{RULE}.backendRefs", [], "", "at least 1"),
    (TLS, f"{RULE}.backendRefs[0].filters", [], "", "unknown field"),
    (TLS, f"{RULE}.backendRefs[0].port", ..., "", "must be set for a Service"),
    (UDP, "spec.hostnames", ["a"], "", "unknown field"),
    (UDP, "spec", ..., "", "must be set"),
    (TCP, "spec.rules", [], "", "at least 1"),
    (TLS_POLICY, "spec.validation.wellKnownCACertificates", "System", "", "together with caCertificateRefs"),
    (TLS_POLICY, "spec.validation.caCertificateRefs", ..., "", "wellKnownCACertificates: System"),
    (TLS_POLICY, "spec.validation.caCertificateRefs", [], "", "at least 1"),
    (TLS_POLICY, "spec.validation.caCertificateRefs[1].namespace", "a", "", "unknown field"),
    (TLS_POLICY, "spec.validation", {"hostname": "a", "wellKnownCACertificates": "Mine"},
     "spec.validation.wellKnownCACertificates", "write System"),
    (TLS_POLICY, "spec.validation.hostname", "*.a", "", "without '*'"),
    (TLS_POLICY, "spec.validation.subjectAltNames[0].uri", "a://b", "", "write type: URI"),
    (TLS_POLICY, "spec.validation.subjectAltNames[1].uri", "b", "", "such as spiffe://"),
    (TLS_POLICY, "spec.validation.subjectAltNames[1].uri", ..., "", "must be set"),
    (TLS_POLICY, "spec.targetRefs", [], "", "at least 1"),
    (TLS_POLICY, "spec.targetRefs[0].namespace", "x", "", "unknown field"),
    (EXTERNAL, "spec.externalHostname", ..., "", "must be set"),
    (EXTERNAL, "spec.externalHostname.hostname", "a.default.svc.cluster.local", "", "use a Service"),
    (EXTERNAL, "spec.endpointSelector", {"matchLabels": {"a": "b"}}, "", "write type: EndpointSelector"),
    (EXTERNAL, "spec.sessionPersistence", {"cookie": {}}, "", "must not be set when type is ExternalHostname"),
    (EXTERNAL, "spec.port", {}, "spec.port.number", "must be set"),
    (EXTERNAL, "spec.tls", ..., "", "must be set with protocol HTTP2"),
    (EXTERNAL, "spec.tls.validation", ..., "", "must be set when mode is ClientAndServer"),
    (EXTERNAL, "spec.tls.mode", "ServerOnly", "spec.tls.clientCertificateRef", "must not be set when mode is ServerOnly"),
    (EXTERNAL, "spec.protocol", "H2C", "spec.tls.mode", "None with protocol H2C"),
    (SELECTED, "spec.endpointSelector", {}, "spec.endpointSelector.matchLabels", "must be set"),
    (SELECTED, "spec.endpointSelector", UNLABELLED, "spec.endpointSelector.matchLabels", "at least 1 label"),
    (SELECTED, "spec.protocol", "http", "", "did you mean HTTP?"),
    (SELECTED, "spec.sessionPersistence.cookie", {}, "", "write type: Cookie"),
    (SELECTED, "spec.sessionPersistence.header.name", ..., "", "must be set"),
    (SELECTED, "spec.sessionPersistence.type", ..., "spec.sessionPersistence.header", "when type is Cookie"),
    (TRAFFIC, "spec.targetRefs[1].name", "web", "", "unique"),
    (TRAFFIC, "spec.retryConstraint.budget.interval", "500ms", "", "from 1s to 1h"),
    (TRAFFIC, "spec.retryConstraint.budget.percent", 101, "", "from 0 to 100"),
    (TRAFFIC, "spec.retryConstraint.minRetryRate.interval", "0s", "", "above 0s"),
    (TRAFFIC, "spec.retryConstraint.minRetryRate.count", 0, "", "from 1 to"),
    (TRAFFIC, "spec.sessionPersistence.absoluteTimeout", ..., "", "when lifetimeType is Permanent"),
    (TRAFFIC, "spec.sessionPersistence.cookie.path", "/; Domain=a", "", "without ';'"),
    (TRAFFIC, "spec.sessionPersistence.cookie", ..., "", "must be set"),
    (TELEMETRY, TRACING, ..., "", "must be set"),
    (TELEMETRY, f"{TRACING}.provider", ..., "", "must be set"),
    (TELEMETRY, f"{TRACING}.mode", "Disabled", f"{TRACING}.provider", "write mode: Enabled"),
    (TELEMETRY, f"{TRACING}.parentBasedSampling.mode", "Disabled", f"{TRACING}.parentBasedSampling.samplingRate", "Enabled"),
    (TELEMETRY, f"{TRACING}.samplingRate.numerator", 101, "", "from 0 to 100"),
    (TELEMETRY, f"{TRACING}.attributes[1].name", "team", "", "unique"),
    (TELEMETRY, f"{TRACING}.attributes[0].literalValue", "x", "", "write sourceType: Literal"),
    (TELEMETRY, f"{TRACING}.attributes[0].headerName", ..., "", "must be set"),
    (TELEMETRY, f"{TRACING}.spanName", "a  b", "", "single spaces"),
    (TELEMETRY, f"{TRACING}.provider.backendRef.port", ..., "", "must be set for a Service"),
    (BUNDLE, "spec.trustBundle", ..., "", "must be set"),
    (FILTERED, f"{RULE}.filters[0].cors.allowOrigins[0]", "https://a/b", "", "without a path"),
    (FILTERED, f"{RULE}.filters[0].cors.allowOrigins[0]", "*", f"{RULE}.filters[0].cors.allowOrigins", "beside '*'"),
    (FILTERED, f"{RULE}.filters[0].cors.allowMethods[0]", "get", "", "in capitals"),
    (FILTERED, f"{RULE}.filters[0].cors.allowMethods[0]", "POST", f"{RULE}.filters[0].cors.allowMethods[1]", "unique"),
    (FILTERED, f"{RULE}.filters[0].cors.maxAge", 0, "", "from 1 to"),
    (FILTERED, f"{RULE}.filters[0].cors.allowCredentials", "yes", "", "true or false"),
    (FILTERED, f"{AUTH}.protocol", ..., "", "must be set"),
    (FILTERED, f"{AUTH}.protocol", "GRPC", f"{AUTH}.http", "write protocol: HTTP"),
    (FILTERED, f"{AUTH}.http", ..., "", "must be set"),
    (FILTERED, f"{AUTH}.http.path", "/a b", "", "percent-encode"),
    (FILTERED, f"{AUTH}.backendRef.port", ..., "", "must be set for a Service"),
    (FILTERED, f"{AUTH}.forwardBody", {"maxSize": -1}, f"{AUTH}.forwardBody.maxSize", "from 0 to"),
    (FILTERED, f"{RULE}.filters[2].extensionRef.kind", ..., "", "must be set"),
    (FILTERED, f"{RULE}.backendRefs[0].port", 80, "", "must not be set for an XBackend"),
    (FILTERED, f"{RULE}.sessionPersistence.absoluteTimeout", "1d", "", "a duration"),
    (FILTERED, f"{RULE}.sessionPersistence.cookie.name", "a b", "", "HTTP token"),
    (ROUTE, "apiVersion", f"{GATEWAY_X}/v1alpha1", "", f"must be {GATEWAY}/v1 for kind HTTPRoute"),
    (EXTERNAL, "kind", "Xbackend", "", "did you mean XBackend?"),
    (ADDRESSED, "spec.externalIPs[0]", "here", "", "IPv4 or IPv6"),
    (ADDRESSED, "spec.clusterIP", "here", "", "IPv4 or IPv6"),
    (ADDRESSED, "status.loadBalancer.ingress[0].ip", "here", "", "IPv4 or IPv6"),
]  # fmt: skip
