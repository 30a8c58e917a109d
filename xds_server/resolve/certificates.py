"""Certificates: Secrets of type kubernetes.io/tls, checked before Envoy sees them.

Envoy refuses a whole listener for one key that does not match; here the mistake stays with the listener that names it.
Expiry is not checked: this is a function without a clock.
"""

import functools

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from xds_server.model.graph import Certificate
from xds_server.model.objects import ObjectRef, Secret
from xds_server.resolve import conditions as c
from xds_server.resolve.references import Denied, Ok, References

TLS_SECRET = "kubernetes.io/tls"  # noqa: S105 (a type, not a secret)


def resolve_certificate(gateway: ObjectRef, target: ObjectRef, references: References) -> Ok[Certificate] | Denied:
    """The certificate that a listener's certificateRef names."""
    match references.secret(gateway, target):
        case Denied() as denied:
            return denied
        case Ok(secret):
            return _certificate(secret)


def _certificate(secret: Secret) -> Ok[Certificate] | Denied:
    if secret.type != TLS_SECRET:
        return _denied(secret, f"is of type {secret.type or 'Opaque'}; it must be {TLS_SECRET}")
    chain, key = secret.data.get("tls.crt", b""), secret.data.get("tls.key", b"")
    if not chain or not key:
        return _denied(secret, "needs both tls.crt and tls.key")
    if problem := complaint(chain, key):
        return _denied(secret, problem)
    return Ok(Certificate(f"{secret.meta.namespace}/{secret.meta.ref.name}", chain, key))


@functools.lru_cache(maxsize=1024)  # an RSA key takes a millisecond to check, and rarely changes
def complaint(chain: bytes, key: bytes) -> str:
    """What is wrong with a PEM chain and its PEM key, without a word of their content; "" if nothing is."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0].public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "has a tls.crt that is not a PEM certificate"
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        return "has an encrypted tls.key; store it without a passphrase"
    except (ValueError, UnsupportedAlgorithm):
        return "has a tls.key that is not a PEM private key"
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_bytes(*form) != private.public_key().public_bytes(*form):
        return "has a tls.key that does not belong to its tls.crt"
    return "" if _taken(leaf) else "has a key that Envoy refuses; use RSA of 2048 bits or more, or EC on P-256 or P-384"


def _taken(key: object) -> bool:
    """Whether BoringSSL serves with a key of this kind."""
    match key:
        case rsa.RSAPublicKey():
            return key.key_size >= 2048
        case ec.EllipticCurvePublicKey():
            return key.curve.name in ("secp256r1", "secp384r1", "secp521r1")
    return isinstance(key, ed25519.Ed25519PublicKey)


def _denied(secret: Secret, message: str) -> Denied:
    return Denied(c.INVALID_CERTIFICATE_REF, f"{secret.meta.ref} {message}")
