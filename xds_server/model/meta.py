"""What every object has: an identity, labels, a generation; and how labels are selected."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xds_server.model.problem import ObjectRef

GATEWAY_GROUP = "gateway.networking.k8s.io"
GATEWAY_X_GROUP = "gateway.networking.x-k8s.io"
INFERENCE_GROUP = "inference.networking.k8s.io"
INFERENCE_X_GROUP = "inference.networking.x-k8s.io"
LLM_D_GROUP = "llm-d.ai"


@dataclass(frozen=True, slots=True)
class Meta:
    ref: ObjectRef
    generation: int = 0
    created: str = ""  # RFC 3339; orders conflicts ("oldest wins"); "" in manifests sorts by ref alone
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # "file.yaml:12"; never part of what is compared by translate

    @property
    def namespace(self) -> str:
        return self.ref.namespace

    @property
    def age_key(self) -> tuple[str, str, str]:
        """Sorts the oldest first, then by namespace and name (Gateway API conflict resolution)."""
        return (self.created, self.ref.namespace, self.ref.name)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """metav1.LabelSelector; an empty one matches everything."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[tuple[str, str, tuple[str, ...]], ...] = ()  # (key, In|NotIn|Exists|DoesNotExist, values)

    def matches(self, labels: Mapping[str, str]) -> bool:
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        for key, operator, values in self.match_expressions:
            match operator:
                case "In" if labels.get(key) not in values:
                    return False
                case "NotIn" if key in labels and labels[key] in values:
                    return False
                case "Exists" if key not in labels:
                    return False
                case "DoesNotExist" if key in labels:
                    return False
        return True
