"""One Kubernetes object, as JSON or YAML has it -> one frozen value, or InvalidObject: parse at the edge.

What the API server would refuse (CRD schemas, CEL rules, unknown fields) is refused here too, because nobody else does so
for a directory of manifests. Sources: `xds_server.model.objects` names them. Cases: tests/xds_server/test_parse.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from xds_server.model.objects import (
    GATEWAY_GROUP,
    GATEWAY_X_GROUP,
    INFERENCE_GROUP,
    INFERENCE_X_GROUP,
    LLM_D_GROUP,
    Meta,
    Object,
)
from xds_server.parse import backend, core, gateway, grpc_route, inference, policy, route, stream_route
from xds_server.parse.common import CERTIFICATES_GROUP, identity, metadata
from xds_server.parse.fields import Document, Fields, nearest

__all__ = ["KINDS", "Reader", "parse"]


class Reader(NamedTuple):
    """How one kind is read, and in which versions of its group."""

    read: Callable[[Fields, Meta], Object]
    versions: tuple[str, ...] = ("v1",)
    namespaced: bool = True


KINDS: Mapping[tuple[str, str], Reader] = {
    (GATEWAY_GROUP, "GatewayClass"): Reader(gateway.gateway_class, ("v1", "v1beta1"), namespaced=False),
    (GATEWAY_GROUP, "Gateway"): Reader(gateway.gateway, ("v1", "v1beta1")),
    (GATEWAY_GROUP, "ListenerSet"): Reader(gateway.listener_set),
    (GATEWAY_GROUP, "HTTPRoute"): Reader(route.http_route, ("v1", "v1beta1")),
    (GATEWAY_GROUP, "GRPCRoute"): Reader(grpc_route.grpc_route),
    (GATEWAY_GROUP, "TLSRoute"): Reader(stream_route.tls_route, ("v1", "v1alpha3", "v1alpha2")),
    (GATEWAY_GROUP, "TCPRoute"): Reader(stream_route.tcp_route, ("v1", "v1alpha2")),
    (GATEWAY_GROUP, "UDPRoute"): Reader(stream_route.udp_route, ("v1", "v1alpha2")),
    (GATEWAY_GROUP, "BackendTLSPolicy"): Reader(policy.backend_tls_policy, ("v1", "v1alpha3")),
    (GATEWAY_GROUP, "ReferenceGrant"): Reader(gateway.reference_grant, ("v1", "v1beta1")),
    (GATEWAY_X_GROUP, "XBackend"): Reader(backend.backend, ("v1alpha1",)),
    (GATEWAY_X_GROUP, "XBackendTrafficPolicy"): Reader(policy.backend_traffic_policy, ("v1alpha1",)),
    (GATEWAY_X_GROUP, "XTelemetryPolicy"): Reader(policy.telemetry_policy, ("v1alpha1",)),
    (INFERENCE_GROUP, "InferencePool"): Reader(inference.inference_pool),
    (INFERENCE_X_GROUP, "InferencePool"): Reader(inference.inference_pool, ("v1alpha2",)),
    (LLM_D_GROUP, "InferenceObjective"): Reader(inference.inference_objective, ("v1alpha2",)),
    (INFERENCE_X_GROUP, "InferenceObjective"): Reader(inference.inference_objective, ("v1alpha2",)),
    (LLM_D_GROUP, "InferenceModelRewrite"): Reader(inference.inference_model_rewrite, ("v1alpha2",)),
    (INFERENCE_X_GROUP, "InferenceModelRewrite"): Reader(inference.inference_model_rewrite, ("v1alpha2",)),
    (LLM_D_GROUP, "EndpointPickerConfig"): Reader(inference.endpoint_picker_config, ("v1alpha1",)),
    (INFERENCE_X_GROUP, "EndpointPickerConfig"): Reader(inference.endpoint_picker_config, ("v1alpha1",)),
    ("", "Namespace"): Reader(core.namespace, namespaced=False),
    ("", "Service"): Reader(core.service),
    ("", "Pod"): Reader(core.pod),
    ("", "Secret"): Reader(core.secret),
    ("", "ConfigMap"): Reader(core.config_map),
    ("discovery.k8s.io", "EndpointSlice"): Reader(core.endpoint_slice),
    (CERTIFICATES_GROUP, "ClusterTrustBundle"): Reader(
        core.cluster_trust_bundle, ("v1beta1", "v1alpha1"), namespaced=False
    ),
}


def parse(
    document: Mapping[str, Any],
    source: str = "",
    line_of: Callable[[str], str] | None = None,
    *,
    strict: bool = True,
) -> Object | None:
    """The frozen value of one object; None for a kind that we do not read. Raises InvalidObject.

    `source` is where the document starts ("file.yaml:12"); `line_of` gives the source of a field by its path and is only
    asked when that field is wrong. `strict` refuses unknown fields; an API server has already refused or dropped those of
    its own schema, which may be newer than this release, so its source passes False.
    """
    about = Document(source=source, line_of=line_of, strict=strict)
    root = Fields(document, "", about)
    api_version, kind = root.text("apiVersion"), root.text("kind")
    group, _, version = api_version.rpartition("/")
    reader = KINDS.get((group, kind))
    if reader is None:
        check_kind(root, group, kind)
        return None
    about.ref = ref = identity(root, group, kind, namespaced=reader.namespaced)
    about.private = kind == "Secret"
    if version not in reader.versions:
        best = f"{group}/{reader.versions[0]}".removeprefix("/")
        root.fail("apiVersion", f"version {about.shown(version)} of {kind} is not served; write {best}")
    root.ignore("status")
    meta = root.optional("metadata", lambda f: metadata(f, ref, source), Meta(ref, source=source))
    found = reader.read(root, meta)
    root.done()
    return found


def check_kind(root: Fields, group: str, kind: str) -> None:
    """Refuse what is most likely one of our kinds, misspelled: it would be left out without a word."""
    if not root.document.strict or not any(group == known for known, _ in KINDS):
        return
    for (home, known), reader in KINDS.items():
        if known == kind:
            best = f"{home}/{reader.versions[0]}".removeprefix("/")
            root.fail(
                "apiVersion", f"must be {best} for kind {kind}, got group {root.document.shown(group)}; correct it"
            )
    meant = nearest(kind, [known for home, known in KINDS if home == group], cutoff=0.85)
    if meant:
        root.fail("kind", f"is unknown, got {root.document.shown(kind)}; did you mean {meant}?")
