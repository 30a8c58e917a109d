"""Conditions: what status says about an object, in the words of Gateway API 1.7 and the Inference Extension 1.6.

Source: `apis/v1/{gateway,httproute,shared}_types.go` condition types and reasons. Cases: tests/xds_server/test_resolve_gateways.py.
"""

from collections.abc import Iterable

from xds_server.model.graph import Condition

ACCEPTED = "Accepted"
CONFLICTED = "Conflicted"
INSECURE_FRONTEND_VALIDATION_MODE = "InsecureFrontendValidationMode"
PARTIALLY_INVALID = "PartiallyInvalid"
PROGRAMMED = "Programmed"
PROGRAMMED_ROUTE = "penstock.dev/Programmed"  # of a route, and only where proxies refuse what it became
RESOLVED_REFS = "ResolvedRefs"
SUPPORTED_VERSION = "SupportedVersion"

# The types that we write. Any other condition found on an object belongs to someone else and is kept.
OURS = frozenset(
    {
        ACCEPTED,
        CONFLICTED,
        INSECURE_FRONTEND_VALIDATION_MODE,
        PARTIALLY_INVALID,
        PROGRAMMED,
        PROGRAMMED_ROUTE,
        RESOLVED_REFS,
        SUPPORTED_VERSION,
    }
)

# Routes
BACKEND_NOT_FOUND = "BackendNotFound"
INCOMPATIBLE_FILTERS = "IncompatibleFilters"
INVALID_KIND = "InvalidKind"
NOT_ALLOWED_BY_LISTENERS = "NotAllowedByListeners"
NO_MATCHING_LISTENER_HOSTNAME = "NoMatchingListenerHostname"
NO_MATCHING_PARENT = "NoMatchingParent"
REF_NOT_PERMITTED = "RefNotPermitted"
UNSUPPORTED_PROTOCOL = "UnsupportedProtocol"
UNSUPPORTED_VALUE = "UnsupportedValue"

# Gateways, their listeners and classes, ListenerSets
ADDRESS_NOT_ASSIGNED = "AddressNotAssigned"
ADDRESS_NOT_USABLE = "AddressNotUsable"
CONFIGURATION_CHANGED = "ConfigurationChanged"
HOSTNAME_CONFLICT = "HostnameConflict"
INVALID = "Invalid"
INVALID_CERTIFICATE_REF = "InvalidCertificateRef"
INVALID_PARAMETERS = "InvalidParameters"
INVALID_ROUTE_KINDS = "InvalidRouteKinds"
LISTENERS_NOT_RESOLVED = "ListenersNotResolved"
LISTENERS_NOT_VALID = "ListenersNotValid"
NOT_ALLOWED = "NotAllowed"
NO_CONFLICTS = "NoConflicts"
PARENT_NOT_ACCEPTED = "ParentNotAccepted"
PARENT_NOT_PROGRAMMED = "ParentNotProgrammed"
PROTOCOL_CONFLICT = "ProtocolConflict"
UNSUPPORTED_ADDRESS = "UnsupportedAddress"

# Inference Extension
ENDPOINT_PICKER_REF_MISSING = "EndpointPickerRefMissing"
HTTP_ROUTE_NOT_ACCEPTED = "HTTPRouteNotAccepted"
INVALID_EXTENSION_REF = "InvalidExtensionRef"
TARGET_NOT_FOUND = "TargetNotFound"

# TLS: certificates of clients, certificates shown to backends, BackendTLSPolicy and other policies
CONFLICTED_POLICY = "Conflicted"
INVALID_CA_CERTIFICATE_KIND = "InvalidCACertificateKind"
INVALID_CA_CERTIFICATE_REF = "InvalidCACertificateRef"
INVALID_CLIENT_CERTIFICATE_REF = "InvalidClientCertificateRef"
NO_VALID_CA_CERTIFICATE = "NoValidCACertificate"

MESSAGE_LIMIT = 4096  # metav1.Condition.message allows 32768 characters; nobody reads more than this


def condition(kind: str, ok: bool, reason: str, message: str, generation: int) -> Condition:
    """One condition; a reason equal to the type is how Gateway API says "fine"."""
    return Condition(kind, "True" if ok else "False", reason, message[:MESSAGE_LIMIT], generation)


def passed(kind: str, generation: int, message: str = "") -> Condition:
    return condition(kind, ok=True, reason=kind, message=message, generation=generation)


def failed(kind: str, reason: str, message: str, generation: int) -> Condition:
    return condition(kind, ok=False, reason=reason, message=message, generation=generation)


def sentence(messages: Iterable[str], limit: int = 8) -> str:
    """Several messages as one, without repeats; the rest is counted, so that a status stays readable."""
    found = list(dict.fromkeys(messages))
    more = f" (and {len(found) - limit} more)" if len(found) > limit else ""
    return "; ".join(found[:limit]) + more
