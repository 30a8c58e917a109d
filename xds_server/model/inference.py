"""InferencePool and what belongs to it, parsed. Source: Inference Extension 1.6, llm-d 0.10."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xds_server.model.meta import Meta
from xds_server.model.problem import ObjectRef


@dataclass(frozen=True, slots=True)
class PickerRef:
    ref: ObjectRef  # a Service, in the pool's namespace
    port: int = 0
    failure_mode: Literal["FailOpen", "FailClose"] = "FailClose"


@dataclass(frozen=True, slots=True)
class InferencePool:
    meta: Meta
    selector: Mapping[str, str]
    target_ports: tuple[int, ...]
    app_protocol: Literal["http", "kubernetes.io/h2c"] = "http"
    picker: PickerRef | None = None


@dataclass(frozen=True, slots=True)
class InferenceObjective:
    meta: Meta
    pool: ObjectRef
    priority: int = 0
    models: tuple[str, ...] = ()  # annotation penstock.dev/models: applies to these without a header


@dataclass(frozen=True, slots=True)
class RewriteRule:
    models: tuple[str, ...]  # exact names, ORed; empty: every model
    targets: tuple[tuple[str, int], ...]  # (model name, weight)


@dataclass(frozen=True, slots=True)
class InferenceModelRewrite:
    meta: Meta
    pool: ObjectRef
    rules: tuple[RewriteRule, ...]


@dataclass(frozen=True, slots=True)
class EndpointPickerConfig:
    """A document of kind EndpointPickerConfig, unread: `picker.profile` knows what it means."""

    meta: Meta
    content: Mapping[str, Any]
