"""What every API family shares: metadata, references, label selectors."""

import ipaddress
from dataclasses import dataclass

from xds_server.model.objects import (
    GATEWAY_GROUP,
    INFERENCE_GROUP,
    INFERENCE_X_GROUP,
    LLM_D_GROUP,
    LabelSelector,
    Meta,
    ObjectRef,
)
from xds_server.parse.fields import Fields
from xds_server.parse.forms import DNS_LABEL, GROUP, KIND, NAME, QUALIFIED_NAME, Form

DEFAULT_NAMESPACE = "default"
CERTIFICATES_GROUP = "certificates.k8s.io"

# Kinds that moved, or that two groups serve: one identity whichever was written.
MOVED = {
    (INFERENCE_X_GROUP, "InferencePool"): INFERENCE_GROUP,
    (INFERENCE_X_GROUP, "InferenceObjective"): LLM_D_GROUP,
    (INFERENCE_X_GROUP, "InferenceModelRewrite"): LLM_D_GROUP,
    (INFERENCE_X_GROUP, "EndpointPickerConfig"): LLM_D_GROUP,
}


@dataclass(frozen=True, slots=True)
class Target:
    """The defaults of a reference: which group and kind are meant where it does not say."""

    group: str | None = None  # None: required
    kind: str | None = None


GATEWAY = Target(group=GATEWAY_GROUP, kind="Gateway")
SECRET = Target(group="", kind="Secret")


def object_ref(f: Fields, namespace: str, target: Target = Target(), *, local: bool = False) -> ObjectRef:
    """A reference with its defaults filled in; a `local` one has no namespace of its own."""
    group = f.text("group", target.group, form=GROUP)
    kind = f.text("kind", target.kind, form=KIND)
    name = f.text("name", form=NAME)
    if not local:
        namespace = f.text("namespace", namespace, form=DNS_LABEL)
    return ObjectRef(MOVED.get((group, kind), group), kind, namespace, name)


def is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def authority(f: Fields, namespace: str, *, local: bool = False) -> ObjectRef:
    """Who vouches for certificates: a ConfigMap, say, or a ClusterTrustBundle, which has no namespace."""
    ref = object_ref(f, namespace, local=local)
    if (ref.group, ref.kind) != (CERTIFICATES_GROUP, "ClusterTrustBundle"):
        return ref
    if not local and f.has("namespace"):
        f.fail("namespace", "must not be set for a ClusterTrustBundle; remove it")
    return ObjectRef(ref.group, ref.kind, "", ref.name)


def identity(root: Fields, group: str, kind: str, *, namespaced: bool) -> ObjectRef:
    """Which object this is; a file may leave out the namespace, an EndpointPickerConfig also its name."""
    group = MOVED.get((group, kind), group)

    def read(f: Fields) -> ObjectRef:
        f.open()
        name = f.text("name", "default" if kind == "EndpointPickerConfig" else None, form=NAME)
        return ObjectRef(
            group, kind, f.text("namespace", DEFAULT_NAMESPACE, form=DNS_LABEL) if namespaced else "", name
        )

    if kind == "EndpointPickerConfig" and not root.has("metadata"):
        return ObjectRef(group, kind, "", "default")
    return root.child("metadata", read)


def metadata(f: Fields, ref: ObjectRef, source: str) -> Meta:
    f.open()
    labels = f.strings("labels")
    if ref.kind == "Namespace" and not ref.group:  # as the API server does, so that selectors can name a namespace
        labels["kubernetes.io/metadata.name"] = ref.name
    return Meta(
        ref=ref,
        generation=f.integer("generation", 0, low=0, high=2**63 - 1),
        created=f.text("creationTimestamp", ""),
        labels=labels,
        annotations=f.strings("annotations"),
        source=source,
    )


def qualified(f: Fields, name: str, form: Form, *, high: int) -> dict[str, str]:
    """A map of labels or annotations for others: its keys are checked too."""
    found = f.strings(name, form=form)
    if len(found) > high:
        f.fail(name, f"must have at most {high} keys, got {len(found)}; remove some")
    for key in found:
        f.checked_text(f"{name}[{key}]", key, QUALIFIED_NAME)
    return found


def label_selector(f: Fields) -> LabelSelector:
    return LabelSelector(f.strings("matchLabels"), f.each("matchExpressions", label_expression))


def label_expression(f: Fields) -> tuple[str, str, tuple[str, ...]]:
    operator: str = f.choice("operator", ("In", "NotIn", "Exists", "DoesNotExist"))
    values = f.texts("values")
    if (operator in ("In", "NotIn")) != bool(values):
        must = "must have at least one value" if not values else "must be empty"
        f.fail("values", f"{must} with operator {operator}; {'add one' if not values else 'remove it'}")
    return f.text("key", form=NAME), operator, values
