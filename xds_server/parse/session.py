"""Session persistence, of a rule, an XBackend or an XBackendTrafficPolicy. Source: Gateway API 1.7, SessionPersistence."""

from xds_server.model.objects import SessionPersistence
from xds_server.parse.fields import Fields
from xds_server.parse.forms import COOKIE_PATH, HEADER_NAME

BODIES = {"Cookie": "cookie", "Header": "header"}


def session_persistence(f: Fields) -> SessionPersistence:
    kind = f.choice("type", tuple(BODIES), "Cookie")
    for other, body in BODIES.items():
        if other != kind and f.has(body):
            f.fail(body, f"must not be set when type is {kind}; remove it, or write type: {other}")
    lifetime = f.duration("absoluteTimeout")

    def cookie(inner: Fields) -> SessionPersistence:
        permanent = inner.choice("lifetimeType", ("Permanent", "Session"), "Session") == "Permanent"
        name, path = inner.text("name", "", form=HEADER_NAME), inner.text("path", "/", form=COOKIE_PATH)
        return SessionPersistence("Cookie", name, lifetime, permanent, path)

    def header(inner: Fields) -> SessionPersistence:
        return SessionPersistence("Header", inner.text("name", form=HEADER_NAME), lifetime)

    found = f.child(BODIES[kind], cookie if kind == "Cookie" else header)
    if found.permanent and lifetime is None:
        f.fail("absoluteTimeout", "must be set when lifetimeType is Permanent; add one such as 1h")
    return found
