"""The forms that text fields take: the patterns of the CRD schemas, and how to say them to a person.

Sources: Gateway API 1.7 and Inference Extension 1.6 CRDs, RFC 1123, GEP-2257.
"""

import re
from typing import NamedTuple


class Form(NamedTuple):
    """A pattern that the whole text must match, `must be <must>`, the remedy, and the greatest length."""

    pattern: re.Pattern[str]
    must: str
    remedy: str
    longest: int


LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(?:\.{LABEL})*"

DNS_LABEL = Form(
    re.compile(LABEL), "a DNS label", "use lower-case letters, digits and '-', and begin and end with no '-'", 63
)
DNS_NAME = Form(
    re.compile(SUBDOMAIN), "a DNS name", "use lower-case letters, digits, '-' and '.', such as my-name.example", 253
)
NAME = Form(re.compile(r"(?s).+"), "a name", "write at least one character", 253)
GROUP = Form(re.compile(rf"(?:{SUBDOMAIN})?"), "an API group", 'write a DNS name, or "" for the core group', 253)
KIND = Form(re.compile(r"[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?"), "a kind", "write one such as Service", 63)
HOSTNAME = Form(
    re.compile(rf"(?:\*\.)?{SUBDOMAIN}"),
    "a lower-case DNS name, or one after '*.'",
    "write one such as api.example.com or *.example.com, without scheme, port or path",
    253,
)
PRECISE_HOSTNAME = Form(
    re.compile(SUBDOMAIN), "a lower-case DNS name", "write one such as api.example.com, without '*'", 253
)
CONTROLLER = Form(
    re.compile(rf"{SUBDOMAIN}/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"),
    "a domain and a path",
    "write one such as penstock.dev/gateway",
    253,
)
PROTOCOL = Form(
    re.compile(rf"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?|{SUBDOMAIN}/[A-Za-z0-9]+"),
    "a protocol",
    "write HTTP, HTTPS, TLS, TCP, UDP or one such as example.com/bar",
    255,
)
ADDRESS_TYPE = Form(
    re.compile(rf"Hostname|IPAddress|NamedAddress|{SUBDOMAIN}/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"),
    "a type of address",
    "write IPAddress, Hostname or one such as example.com/bar",
    253,
)
HEADER_NAME = Form(
    re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]+"), "an HTTP token (RFC 9110)", "use letters, digits and '-'", 256
)
HEADER_VALUE = Form(
    # The schema writes ([\t ]?[!-~]+)*: the same texts, but exponential time where the text does not match.
    re.compile(r"[!-~]+(?:[\t ][!-~]+)*"),
    "visible ASCII with single spaces between words",
    "remove line breaks, double spaces, and spaces at the ends",
    4096,
)
QUERY_VALUE = Form(re.compile(r"(?s).+"), "a value", "write at least one character", 1024)
PATH = Form(re.compile(r"(?s).*"), "a path", "write one such as /v1", 1024)
URL_PATH = Form(
    re.compile(r"(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+"),
    "a URL path",
    "percent-encode other characters",
    1024,
)
COOKIE_PATH = Form(
    # The schema takes anything; what RFC 6265 forbids would end the attribute or the header.
    re.compile(r"[ -:<-~]*"),
    "the path of a cookie (RFC 6265)",
    "use visible ASCII without ';'",
    1024,
)
ORIGIN = Form(
    re.compile(r"\*|https?://(?:(?:\*\.)?(?:[a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+|\*)(?::[0-9]{1,5})?"),
    "an origin",
    "write '*' or one such as https://example.com or https://*.example.com:8443, without a path",
    253,
)
CORS_METHOD = Form(
    re.compile(r"GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|\*"),
    "an HTTP method or '*'",
    "write it in capitals, such as GET",
    7,
)
PATTERN = Form(re.compile(r"(?s).*"), "a regular expression", "write one such as [a-z]+", 1024)
GRPC_SERVICE = Form(
    re.compile(r"\.?[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_][A-Za-z_0-9]*)*"),
    "the name of a gRPC service",
    "write one such as package.Service, or write type: RegularExpression",
    1024,
)
GRPC_METHOD = Form(
    re.compile(r"[A-Za-z_][A-Za-z_0-9]*"),
    "the name of a gRPC method",
    "write one such as GetThing, or write type: RegularExpression",
    1024,
)
GRPC_HEADER_VALUE = Form(re.compile(r"(?s).+"), "a value", "write at least one character", 4096)
WELL_KNOWN = Form(
    re.compile(rf"System|{SUBDOMAIN}/(?:[A-Za-z0-9][-A-Za-z0-9_.]{{0,61}})?[A-Za-z0-9]"),
    "System or a domain and a name",
    "write System",
    253,
)
URI = Form(re.compile(r"(?s)[^:/?#]+://.*"), "a URI", "write one such as spiffe://example.com/name", 253)
ROUTABILITY = Form(
    re.compile(rf"(?:Cluster|(?!(?:{LABEL}\.)*k8s\.io/){SUBDOMAIN}/.+)?"),
    "empty, Cluster, or a domain and a word",
    "write Cluster, or one such as example.com/public; k8s.io is reserved",
    253,
)
QUALIFIED_NAME = Form(
    re.compile(rf"(?:{SUBDOMAIN}/)?(?:[A-Za-z0-9][-A-Za-z0-9_.]{{0,61}})?[A-Za-z0-9]"),
    "a name of up to 63 characters, with or without a domain before it",
    "write one such as example.com/my-name",
    253 + 1 + 63,
)
ANNOTATION_VALUE = Form(re.compile(r"(?s).*"), "text", "write text", 4096)
ATTRIBUTE_KEY = Form(
    re.compile(r"[a-z0-9_.-]+"), "the key of an attribute", "use lower-case letters, digits, '_', '.' and '-'", 256
)
TELEMETRY_NAME = Form(
    re.compile(r"[a-zA-Z0-9_.:/-]+"), "a telemetry name", "use letters, digits, '_', '.', ':', '/' and '-'", 256
)
TELEMETRY_SERVICE = TELEMETRY_NAME._replace(longest=253)
SPAN_NAME = Form(
    re.compile(r"[a-zA-Z0-9_.:/-]+(?: [a-zA-Z0-9_.:/-]+)*"),
    "the name of a span",
    "use letters, digits, '_', '.', ':', '/' and '-', with single spaces between words",
    256,
)
LITERAL = Form(re.compile(r"(?s).+"), "a value", "write at least one character", 1024)
LABEL_VALUE = Form(
    re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"),
    "a label value",
    "use letters, digits, '-', '_' and '.', and begin and end with a letter or digit",
    63,
)
DURATION = Form(
    re.compile(r"(?:[0-9]{1,5}(?:h|m|s|ms)){1,4}"),
    "a duration (GEP-2257)",
    "write whole numbers with units h, m, s or ms, such as 10s or 1m30s",
    64,
)
