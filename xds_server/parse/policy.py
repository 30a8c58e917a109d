"""BackendTLSPolicy, XBackendTrafficPolicy, XTelemetryPolicy. Source: Gateway API 1.7, schemas and CEL rules."""

from typing import Literal

from xds_server.model.objects import (
    BackendTLSPolicy,
    Meta,
    PolicyTarget,
    RetryConstraint,
    TLSValidation,
    TraceAttribute,
    XBackendTrafficPolicy,
    XTelemetryPolicy,
)
from xds_server.parse.common import authority, object_ref
from xds_server.parse.fields import Fields
from xds_server.parse.filters import backend, fraction, headers
from xds_server.parse.forms import (
    ATTRIBUTE_KEY,
    DNS_NAME,
    HEADER_NAME,
    HOSTNAME,
    LITERAL,
    PRECISE_HOSTNAME,
    SPAN_NAME,
    TELEMETRY_NAME,
    TELEMETRY_SERVICE,
    URI,
    WELL_KNOWN,
    Form,
)
from xds_server.parse.session import session_persistence

Mode = Literal["Enabled", "Disabled", "ImplementationDefault"]
HOUR = 3600.0


def targets(f: Fields, namespace: str, *, sections: bool = False) -> tuple[PolicyTarget, ...]:
    def target(item: Fields) -> PolicyTarget:
        ref = object_ref(item, namespace, local=True)
        return PolicyTarget(ref, item.text("sectionName", "", form=DNS_NAME) if sections else "")

    return f.each("targetRefs", target, low=1, high=16)


# --- BackendTLSPolicy -------------------------------------------------------------------------------------------------


def backend_tls_policy(root: Fields, meta: Meta) -> BackendTLSPolicy:
    def spec(f: Fields) -> BackendTLSPolicy:
        f.ignore("options")
        found, well_known = f.child("validation", lambda inner: tls_validation(inner, meta.namespace))
        return BackendTLSPolicy(meta, targets(f, meta.namespace, sections=True), found, well_known)

    return root.child("spec", spec)


def tls_validation(f: Fields, namespace: str) -> tuple[TLSValidation, str]:
    """How a backend's certificate is checked, and the well known set of authorities as written."""
    listed, named = f.has("caCertificateRefs"), f.has("wellKnownCACertificates")
    if listed and named:
        f.fail("wellKnownCACertificates", "must not be set together with caCertificateRefs; remove one")
    if not listed and not named:
        f.fail("caCertificateRefs", "must be set; add a ConfigMap, or write wellKnownCACertificates: System")
    well_known = f.text("wellKnownCACertificates", "", form=WELL_KNOWN)
    found = TLSValidation(
        hostname=f.text("hostname", form=PRECISE_HOSTNAME),
        authorities=f.each(
            "caCertificateRefs", lambda ref: authority(ref, namespace, local=True), low=int(listed), high=8
        ),
        system=well_known == "System",
        names=f.each("subjectAltNames", subject_alt_name, high=5),
    )
    return found, well_known


def subject_alt_name(f: Fields) -> tuple[Literal["Hostname", "URI"], str]:
    """(type, value)."""
    fields: dict[str, tuple[str, Form]] = {"Hostname": ("hostname", HOSTNAME), "URI": ("uri", URI)}
    kind: Literal["Hostname", "URI"] = f.choice("type", tuple(fields))
    for other, (name, _) in fields.items():
        if other != kind and f.has(name):
            f.fail(name, f"must not be set when type is {kind}; remove it, or write type: {other}")
    name, form = fields[kind]
    return kind, f.text(name, form=form)


# --- XBackendTrafficPolicy --------------------------------------------------------------------------------------------


def backend_traffic_policy(root: Fields, meta: Meta) -> XBackendTrafficPolicy:
    def spec(f: Fields) -> XBackendTrafficPolicy:
        found = targets(f, meta.namespace)
        f.distinct([f"targetRefs[{index}].name" for index in range(len(found))], [target.ref for target in found])
        retries = f.optional("retryConstraint", retry_constraint, None)
        return XBackendTrafficPolicy(meta, found, retries, f.optional("sessionPersistence", session_persistence, None))

    return root.child("spec", spec)


def retry_constraint(f: Fields) -> RetryConstraint:
    def budget(inner: Fields) -> tuple[int, float]:
        interval = inner.duration("interval")
        if interval is not None and not 1 <= interval <= HOUR:
            inner.fail("interval", "must be from 1s to 1h; choose one in that range")
        return inner.integer("percent", 20, low=0, high=100), 10.0 if interval is None else interval

    def rate(inner: Fields) -> float:
        """Retries a second."""
        interval = inner.duration("interval")
        if interval is not None and not 0 < interval <= HOUR:
            inner.fail("interval", "must be above 0s and at most 1h; choose one in that range")
        return inner.integer("count", 10, low=1, high=1_000_000) / (interval or 1.0)

    percent, interval = f.optional("budget", budget, (20, 10.0))
    return RetryConstraint(percent, interval, f.optional("minRetryRate", rate, 10.0))


# --- XTelemetryPolicy -------------------------------------------------------------------------------------------------


def telemetry_policy(root: Fields, meta: Meta) -> XTelemetryPolicy:
    def spec(f: Fields) -> XTelemetryPolicy:
        found = targets(f, meta.namespace)
        return f.child("tracing", lambda inner: tracing(inner, meta, found))

    return root.child("spec", spec)


def tracing(f: Fields, meta: Meta, found: tuple[PolicyTarget, ...]) -> XTelemetryPolicy:
    mode = tracing_mode(f, "provider", "samplingRate", "parentBasedSampling", "serviceName", "spanName", "attributes")
    if mode != "Enabled":
        return XTelemetryPolicy(meta, found, mode)

    def provider(inner: Fields) -> XTelemetryPolicy:
        parent_based, parent_sampling = f.optional("parentBasedSampling", parent_based_sampling, (True, None))
        return XTelemetryPolicy(
            meta=meta,
            targets=found,
            mode=mode,
            provider=inner.child("backendRef", lambda ref: backend(ref, meta.namespace)),
            headers=headers(inner, "headers"),
            sampling=f.optional("samplingRate", fraction, None),
            parent_based=parent_based,
            parent_sampling=parent_sampling,
            service_name=f.text("serviceName", "", form=TELEMETRY_SERVICE),
            span_name=f.text("spanName", "", form=SPAN_NAME),
            attributes=f.each("attributes", trace_attribute, unique="name"),
        )

    return f.child("provider", provider)


def tracing_mode(f: Fields, *names: str) -> Mode:
    """The mode; with any but Enabled, the fields that say how must be absent."""
    mode: Mode = f.choice("mode", ("Enabled", "Disabled", "ImplementationDefault"), "ImplementationDefault")
    for name in names:
        if f.has(name) and mode != "Enabled":
            f.fail(name, f"must not be set when mode is {mode}; remove it, or write mode: Enabled")
    return mode


def parent_based_sampling(f: Fields) -> tuple[bool, tuple[int, int] | None]:
    mode = tracing_mode(f, "samplingRate")
    return mode != "Disabled", f.optional("samplingRate", fraction, None)


def trace_attribute(f: Fields) -> TraceAttribute:
    fields: dict[str, tuple[str, Form]] = {
        "Header": ("headerName", HEADER_NAME),
        "Literal": ("literalValue", LITERAL),
        "Attribute": ("attributeKey", ATTRIBUTE_KEY),
    }
    kind = f.choice("sourceType", tuple(fields))
    for other, (name, _) in fields.items():
        if other != kind and f.has(name):
            f.fail(name, f"must not be set when sourceType is {kind}; remove it, or write sourceType: {other}")
    name, form = fields[kind]
    return TraceAttribute(f.text("name", form=TELEMETRY_NAME), kind, f.text(name, form=form))
