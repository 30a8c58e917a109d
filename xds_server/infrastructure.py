"""What a Gateway needs in the cluster: an Envoy Deployment, its Service, its identity, its bootstrap. Pure: values in, manifests out.

Source: Gateway API 1.7, `Gateway.spec.infrastructure`, `spec.addresses`; GEP-1762 (names and labels of what is made). Equal inputs
give equal manifests, each with a hash of itself, so that nothing is written that is there already.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import orjson

from xds_server.bootstrap import Status, Trust, bootstrap, token_secret
from xds_server.identity import AUDIENCE, Account
from xds_server.model.objects import GATEWAY_GROUP, Gateway
from xds_server.overlay import Overlays

Ports = Sequence[tuple[int, Literal["TCP", "UDP"]]]
NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
MANAGED_BY = {"app.kubernetes.io/managed-by": "penstock"}
HASH = "penstock.dev/hash"
STATUS_PORT = 19003  # or the next one that no listener wants

_CONFIG, _RUN, _TOKEN = "/etc/envoy", "/run/envoy", "/run/secrets/penstock.dev"  # folders in the pod
_DOCUMENTATION = tuple(  # RFC 5737, RFC 3849
    map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"))
)
_USER = 65532  # "nonroot" of the distroless images


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """What the operator of Penstock decides for every Gateway; a Gateway's own overlays come on top."""

    xds: str  # where Envoys reach us: "penstock.penstock-system.svc:18000"
    server_name: str  # a DNS name in our certificate
    authority: str  # PEM of our CA
    image: str = "docker.io/envoyproxy/envoy:distroless-v1.40.0"
    service_type: Literal["LoadBalancer", "NodePort", "ClusterIP"] = "LoadBalancer"
    external_ips: bool = (
        False  # whether spec.addresses may become externalIPs, which can take anybody's traffic (CVE-2020-8554)
    )
    replicas: int = 2  # a node may go without the gateway going
    workers: int = 4  # threads of an Envoy, which would else take one per processor of a large node
    requests: Mapping[str, str] = field(default_factory=lambda: {"cpu": "100m", "memory": "256Mi"})
    limits: Mapping[str, str] = field(default_factory=dict)  # none: an Envoy that is killed takes every stream along
    max_connections: int = 50_000  # of one Envoy
    drain: int = 30  # seconds that a pod goes on after it is told to end; see _lifecycle
    token_lifetime: int = 3600  # seconds; kubelet renews the token at 80 %


def fleet(gateway: Gateway) -> str:
    """The key of a Gateway's Envoys among the snapshots."""
    return f"{gateway.meta.namespace}/{gateway.meta.ref.name}"


def resource_name(gateway: Gateway) -> str:
    """`<gateway>-<class>`, as GEP-1762 has it; a DNS label, since a Service is named so; with a hash where it had to be changed."""
    return _shortened(f"{gateway.meta.ref.name}-{gateway.gateway_class}", r"[^a-z0-9-]", "gw-")


def label_value(name: str) -> str:
    return _shortened(name, r"[^A-Za-z0-9._-]", "")


def _shortened(name: str, unfit: str, start: str) -> str:
    made = re.sub(unfit, "-", name)
    made = made if not start or made[:1].isalpha() else start + made
    if made == name and len(name) <= 63:
        return name
    return f"{made[:54].rstrip('-._')}-{sha256(name.encode()).hexdigest()[:8]}"


def owners(gateways: Iterable[Gateway]) -> dict[tuple[str, str], Gateway]:
    """(namespace, name of what is made for it) -> Gateway. Of two Gateways with one such name, the older has it.

    Gateway `a` of class `b-c` and Gateway `a-b` of class `c` are such: the younger one gets no infrastructure, never the other's.
    """
    found: dict[tuple[str, str], Gateway] = {}
    for gateway in sorted(gateways, key=lambda each: each.meta.age_key):
        found.setdefault((gateway.meta.namespace, resource_name(gateway)), gateway)
    return found


def fleet_of(owned: Mapping[tuple[str, str], Gateway]) -> Callable[[Account], str | None]:
    """For `Admission`: an Envoy's fleet by its ServiceAccount, which has the name of everything else that is made for a Gateway."""

    def find(account: Account) -> str | None:
        gateway = owned.get((account.namespace, account.name))
        return fleet(gateway) if gateway else None

    return find


def ours(existing: Mapping[str, Any], uid: str) -> bool:
    """Whether an object of the cluster belongs to the Gateway with this uid: another one is not ours to overwrite or delete."""
    references = (existing.get("metadata") or {}).get("ownerReferences") or ()
    return bool(uid) and any(each.get("uid") == uid and each.get("kind") == "Gateway" for each in references)


def trust(settings: Infrastructure) -> Trust:
    """How the Envoys that we make know us, and we them."""
    return Trust(settings.authority, settings.server_name, f"{_TOKEN}/token", f"{_CONFIG}/token.json")


def manifests(
    gateway: Gateway, ports: Ports, settings: Infrastructure, *, uid: str = "", overlays: Overlays | None = None
) -> list[dict[str, Any]]:
    """In the order in which to apply them. Without ports there is no Service, for there is none without: leave one that exists.

    `ports` are those that Envoy listens on. Raises InvalidObject for an overlay that does not fit: keep what is there, and say it.
    """
    made = _Maker(gateway, sorted(set(ports)), settings, uid, overlays or Overlays())
    config = made.config_map()
    found = [made.object("v1", "ServiceAccount", {"automountServiceAccountToken": False}), config]
    if ports:
        found.append(made.object("v1", "Service", {"spec": made.service()}))
    found.append(made.object("apps/v1", "Deployment", {"spec": made.deployment(digest(config))}))
    if made.scaled:
        found.append(made.object("autoscaling/v2", "HorizontalPodAutoscaler", {"spec": made.autoscaler()}))
    if made.scaled or settings.replicas > 1 or "PodDisruptionBudget" in made.overlays.parts:
        budget = {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": made.selector},
        }
        found.append(made.object("policy/v1", "PodDisruptionBudget", {"spec": budget}))
    return [made.finished(each) for each in found]


def digest(manifest: Mapping[str, Any]) -> str:
    return sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


class _Maker:
    """One Gateway's names, labels and parts."""

    def __init__(self, gateway: Gateway, ports: Ports, settings: Infrastructure, uid: str, overlays: Overlays) -> None:
        self.gateway, self.ports, self.settings, self.uid, self.overlays = gateway, ports, settings, uid, overlays
        self.name = resource_name(gateway)
        self.selector = {NAME_LABEL: label_value(gateway.meta.ref.name), **MANAGED_BY}
        own = {**self.selector, CLASS_LABEL: label_value(gateway.gateway_class)}
        self.labels = {**gateway.infrastructure_labels, **own}
        self.scaled = "HorizontalPodAutoscaler" in overlays.parts
        taken = {port for port, protocol in ports if protocol == "TCP"}
        self.status_port = next(port for port in range(STATUS_PORT, 65536) if port not in taken)

    def object(self, version: str, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "name": self.name,
            "namespace": self.gateway.meta.namespace,
            "labels": self.labels,
            "annotations": dict(self.gateway.infrastructure_annotations),
        }
        if self.uid:
            owner = {"apiVersion": f"{GATEWAY_GROUP}/v1", "kind": "Gateway", "name": self.gateway.meta.ref.name}
            meta["ownerReferences"] = [{**owner, "uid": self.uid, "controller": True, "blockOwnerDeletion": True}]
        return {"apiVersion": version, "kind": kind, "metadata": meta, **body}

    def finished(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """With the overlay, our labels whatever it says, and the hash."""
        found = self.overlays.merged(manifest)
        meta = found["metadata"] = dict(found.get("metadata") or {})
        meta["labels"] = {**(meta.get("labels") or {}), **self.labels}
        if manifest["kind"] == "Deployment":
            template = found["spec"]["template"]
            inner = template.get("metadata") or {}
            template["metadata"] = {**inner, "labels": {**(inner.get("labels") or {}), **self.labels}}
        meta["annotations"] = {**(meta.get("annotations") or {}), HASH: digest(found)}
        return found

    def config_map(self) -> dict[str, Any]:
        settings = self.settings
        config = bootstrap(
            settings.xds,
            admin=f"unix:{_RUN}/admin.sock",  # no port: no route of a user can lead there
            max_connections=settings.max_connections,
            trust=trust(settings),
            status=Status(self.status_port),
        )
        files = {"bootstrap.json": config, "token.json": token_secret(trust(settings))}
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
        return self.object(
            "v1", "ConfigMap", {"data": {k: orjson.dumps(v, option=option).decode() for k, v in files.items()}}
        )

    def service(self) -> dict[str, Any]:
        """One port per listener port, as written."""
        kind = self.settings.service_type
        spec: dict[str, Any] = {
            "type": kind,
            "selector": self.selector,
            "ports": [
                {"name": f"{protocol.lower()}-{port}", "port": port, "targetPort": port, "protocol": protocol}
                for port, protocol in self.ports
            ],
        }
        wanted = [value for kind, value in self.gateway.addresses if kind == "IPAddress" and _routable(value)]
        if wanted and kind == "LoadBalancer":
            spec["loadBalancerIP"] = wanted[0]
            wanted = wanted[1:]
        if wanted and self.settings.external_ips:
            spec["externalIPs"] = wanted
        return spec

    def autoscaler(self) -> dict[str, Any]:
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.name}
        low = self.settings.replicas
        return {"scaleTargetRef": target, "minReplicas": low, "maxReplicas": max(10, low)}

    def deployment(self, config: str) -> dict[str, Any]:
        spread = [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": self.selector},
            }
            for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ]
        pod = {
            "serviceAccountName": self.name,
            "automountServiceAccountToken": False,  # no Envoy needs the API server
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER,
                "runAsGroup": _USER,
                "fsGroup": _USER,  # may read the token
                "seccompProfile": {"type": "RuntimeDefault"},
                "sysctls": [
                    {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
                ],  # 80 and 443 without a right
            },
            "terminationGracePeriodSeconds": self.settings.drain + 15,
            "topologySpreadConstraints": spread,
            "containers": [self.container()],
            "volumes": self.volumes(),
        }
        annotations = {
            **self.gateway.infrastructure_annotations,
            "penstock.dev/config": config,
        }  # Envoy reads it at its start
        replicas = {} if self.scaled else {"replicas": self.settings.replicas}  # one writer: the autoscaler
        return {
            **replicas,
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"}},
            "selector": {"matchLabels": self.selector},
            "template": {"metadata": {"labels": self.labels, "annotations": annotations}, "spec": pod},
        }

    def container(self) -> dict[str, Any]:
        settings = self.settings
        arguments = ["-c", f"{_CONFIG}/bootstrap.json", "--service-node", "$(POD_NAME).$(POD_NAMESPACE)"]
        arguments += ["--service-cluster", fleet(self.gateway), "--drain-time-s", str(max(settings.drain, 1))]
        arguments += ["--concurrency", str(settings.workers)] if settings.workers else []
        arguments += ["--disable-hot-restart", "--log-level", "warning", "--component-log-level", "misc:error"]
        arguments += ["--ignore-unknown-dynamic-fields"]  # to look for them took 14-25 % of a large update
        ready = {"path": "/ready", "port": "status"}
        return {
            "name": "envoy",
            "image": settings.image,
            "args": arguments,
            "env": [
                {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.{field}"}}}
                for name, field in (("POD_NAME", "name"), ("POD_NAMESPACE", "namespace"))
            ],
            "ports": [  # those of listeners are not named: a new listener must not roll the pods
                {"name": "status", "containerPort": self.status_port, "protocol": "TCP"}
            ],
            "resources": {
                "requests": dict(settings.requests),
                **({"limits": dict(settings.limits)} if settings.limits else {}),
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            # The listener opens once Envoy has its first configuration, even an empty one. No liveness probe: an Envoy that
            # waits for the control plane is not made better by a restart, and one that has configuration serves without it.
            "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 3},
            **_lifecycle(settings.drain),
            "volumeMounts": [
                {"name": "config", "mountPath": _CONFIG, "readOnly": True},
                {"name": "token", "mountPath": _TOKEN, "readOnly": True},
                {"name": "run", "mountPath": _RUN},
            ],
        }

    def volumes(self) -> list[dict[str, Any]]:
        token = {"audience": AUDIENCE, "expirationSeconds": self.settings.token_lifetime, "path": "token"}
        return [
            {"name": "config", "configMap": {"name": self.name}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "run", "emptyDir": {"sizeLimit": "16Mi"}},
        ]


def _routable(address: str) -> bool:
    """Not asked for are addresses that nobody can be reached at: a load balancer that is given one gives no other."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    documentation = any(found.version == net.version and found in net for net in _DOCUMENTATION)
    return not (documentation or found.is_loopback or found.is_multicast or found.is_unspecified or found.is_link_local)


def _lifecycle(drain: int) -> dict[str, Any]:
    """A pod that ends leaves the Service at once, but Envoy at SIGTERM ends at once too, with every stream in flight.

    So SIGTERM waits: kubelet's own `sleep` (Kubernetes 1.30) needs no shell, which distroless images have not, and no way to the
    admin's POST /drain_listeners, which would be one for everybody who reaches the pod. Requests that are longer than `drain`
    are cut: raise it to the longest answer of your models.
    """
    return {"lifecycle": {"preStop": {"sleep": {"seconds": drain}}}} if drain else {}
