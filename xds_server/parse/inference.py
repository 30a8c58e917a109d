"""InferencePool, InferenceObjective, InferenceModelRewrite, EndpointPickerConfig.

Sources: Gateway API Inference Extension 1.6 (`inference.networking.k8s.io/v1`), its 0.x `v1alpha2` (selector is a map,
one targetPortNumber, extensionRef), and the kinds that moved to `llm-d.ai`.
"""

from xds_server.model.objects import (
    INFERENCE_GROUP,
    EndpointPickerConfig,
    InferenceModelRewrite,
    InferenceObjective,
    InferencePool,
    Meta,
    ObjectRef,
    PickerRef,
    RewriteRule,
)
from xds_server.parse.annotations import MODELS, check_pool, words
from xds_server.parse.common import Target, object_ref
from xds_server.parse.fields import Fields
from xds_server.parse.filters import MAX_WEIGHT, SERVICE
from xds_server.parse.forms import LABEL_VALUE, NAME

POOL = Target(group=INFERENCE_GROUP, kind="InferencePool")
FAILURE_MODES = ("FailOpen", "FailClose")
OLD_PICKER_PORT = 9002  # what v1alpha2 meant where extensionRef had no portNumber


def inference_pool(root: Fields, meta: Meta) -> InferencePool:
    check_pool(root, meta)
    old = root.get("apiVersion") == "inference.networking.x-k8s.io/v1alpha2"
    return root.child("spec", lambda f: old_pool(f, meta) if old else pool(f, meta))


def pool(f: Fields, meta: Meta) -> InferencePool:
    def selector(inner: Fields) -> dict[str, str]:
        return labels(inner, "matchLabels")

    return InferencePool(
        meta=meta,
        selector=f.child("selector", selector),
        target_ports=f.each("targetPorts", lambda item: item.port("number"), low=1, high=8, unique="number"),
        app_protocol=f.choice("appProtocol", ("http", "kubernetes.io/h2c"), "http"),
        picker=f.optional("endpointPickerRef", lambda ref: picker_ref(ref, meta.namespace), None),
    )


def labels(f: Fields, name: str) -> dict[str, str]:
    found = f.strings(name, form=LABEL_VALUE)
    if not f.has(name):
        f.missing(name)
    if not found:
        f.fail(name, "must have at least 1 label, got none; add one that the pods have")
    if len(found) > 64:
        f.fail(name, f"must have at most 64 labels, got {len(found)}; remove some")
    return found


def picker_ref(f: Fields, namespace: str) -> PickerRef:
    ref = object_ref(f, namespace, SERVICE, local=True)
    port = f.optional("port", lambda inner: inner.port("number"), None)
    if ref.kind == "Service" and port is None:
        f.fail("port", "must be set when kind is Service; add 'port: {number: 9002}'")
    return PickerRef(ref, port or 0, f.choice("failureMode", FAILURE_MODES, "FailClose"))


def old_pool(f: Fields, meta: Meta) -> InferencePool:
    """The v1alpha2 shape, as the new one."""

    def extension_ref(inner: Fields) -> PickerRef:
        ref = object_ref(inner, meta.namespace, SERVICE, local=True)
        mode = inner.choice("failureMode", FAILURE_MODES, "FailClose")
        return PickerRef(ref, inner.port("portNumber", OLD_PICKER_PORT), mode)

    return InferencePool(
        meta=meta,
        selector=labels(f, "selector"),
        target_ports=(f.port("targetPortNumber"),),
        picker=f.optional("extensionRef", extension_ref, None),
    )


def pool_ref(f: Fields, meta: Meta) -> ObjectRef:
    return f.child("poolRef", lambda ref: object_ref(ref, meta.namespace, POOL, local=True))


def inference_objective(root: Fields, meta: Meta) -> InferenceObjective:
    models = words(meta.annotations.get(MODELS, ""))

    def spec(f: Fields) -> InferenceObjective:
        return InferenceObjective(meta, pool_ref(f, meta), f.integer("priority", 0), models)

    return root.child("spec", spec)


def inference_model_rewrite(root: Fields, meta: Meta) -> InferenceModelRewrite:
    def spec(f: Fields) -> InferenceModelRewrite:
        if not f.has("rules"):
            f.missing("rules")
        return InferenceModelRewrite(meta, pool_ref(f, meta), f.each("rules", rewrite_rule))

    return root.child("spec", spec)


def rewrite_rule(f: Fields) -> RewriteRule:
    def model(inner: Fields) -> str:
        inner.choice("type", ("Exact",), "Exact")
        return inner.text("value", form=NAME)

    def target(item: Fields) -> tuple[str, int]:
        return item.text("modelRewrite", form=NAME), item.integer("weight", 1, low=1, high=MAX_WEIGHT)

    targets = f.each("targets", target, low=1) if f.has("targets") else ()
    return RewriteRule(f.each("matches", lambda item: item.child("model", model)), targets)


def endpoint_picker_config(root: Fields, meta: Meta) -> EndpointPickerConfig:
    """Unread: all of it but metadata and status; `picker.profile` knows what it means and what is misspelled."""
    root.open()
    content = {key: value for key, value in root.values.items() if key not in ("metadata", "status")}
    return EndpointPickerConfig(meta, content)
