"""Our own certificate authority: Envoys know the control plane by it. Kept in a Secret, made once by the replica that comes first.

Certificates of servers are signed in memory, one per replica, and renewed while the server runs: nothing to mount, nothing to
restart. The clock is an argument. Source: RFC 5280; gRPC's dynamic_ssl_server_credentials. Seen at work in
tests/xds_server/test_authority.py, with a real Envoy.
"""

import base64
import binascii
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from xds_server.model.objects import InvalidObject, ObjectRef, Problem

AUTHORITY_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=30)
SKEW = timedelta(hours=1)  # clocks of nodes differ
CERTIFICATE_KEY, PRIVATE_KEY = "tls.crt", "tls.key"

Manifest = Mapping[str, Any]
Read = Callable[[], Awaitable[Manifest | None]]  # the Secret, or None where there is none
Create = Callable[[Manifest], Awaitable[bool]]  # False: somebody else was first (409)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM; `repr` shows no key, for a key must never reach a log."""

    certificate: bytes
    key: bytes = field(repr=False)
    renew: datetime = datetime.max.replace(tzinfo=UTC)  # when a third of its life is left


def new_authority(now: datetime, name: str = "penstock") -> KeyPair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} xDS authority")])
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    made = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return KeyPair(_pem(made.sign(key, hashes.SHA256())), _key_pem(key), now + AUTHORITY_LIFETIME * 2 / 3)


def issue(authority: KeyPair, names: Sequence[str], now: datetime, lifetime: timedelta = SERVER_LIFETIME) -> KeyPair:
    """A server's certificate for these DNS names; the first is its subject. It ends no later than the authority's."""
    signer = x509.load_pem_x509_certificate(authority.certificate)
    signing_key = serialization.load_pem_private_key(authority.key, password=None)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])  # RFC 5280: ub-common-name
    lifetime = min(lifetime, signer.not_valid_after_utc - now)
    made = (
        _builder(subject, signer.subject, key.public_key(), now, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    signed = made.sign(signing_key, hashes.SHA256())  # type: ignore[arg-type]  # read_secret allows EC keys only
    return KeyPair(_pem(signed), _key_pem(key), now + lifetime * 2 / 3)


def service_names(service: str, namespace: str, domain: str = "cluster.local") -> tuple[str, ...]:
    """The DNS names of a Service. The second is what Envoys ask for."""
    return service, f"{service}.{namespace}.svc", f"{service}.{namespace}", f"{service}.{namespace}.svc.{domain}"


# --- The Secret -------------------------------------------------------------------------------------------------------


def secret(authority: KeyPair, namespace: str, name: str) -> dict[str, Any]:
    data = {CERTIFICATE_KEY: authority.certificate, PRIVATE_KEY: authority.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "penstock"},
        },
        "type": "kubernetes.io/tls",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def read_secret(manifest: Manifest, now: datetime) -> KeyPair:
    """Raises InvalidObject where it holds no authority that can still sign."""
    meta = manifest.get("metadata") or {}
    ref = ObjectRef("", "Secret", str(meta.get("namespace", "")), str(meta.get("name", "")))
    remedy = "delete the Secret and restart Penstock: it makes a new one, and the Envoys are rolled out with it"

    def wrong(what: str) -> InvalidObject:
        return InvalidObject(Problem(ref, f"data[{CERTIFICATE_KEY}]", "InvalidAuthority", f"{what}; {remedy}"))

    try:
        data = manifest.get("data") or {}
        pem = [base64.b64decode(data[key], validate=True) for key in (CERTIFICATE_KEY, PRIVATE_KEY)]
        found = KeyPair(pem[0], pem[1])
        certificate = x509.load_pem_x509_certificate(found.certificate)
        key = serialization.load_pem_private_key(found.key, password=None)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise wrong("holds no certificate and key in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise wrong("the key does not belong to the certificate, or is no EC key")
    if certificate.not_valid_after_utc <= now:
        raise wrong(f"the certificate ended on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return found


async def obtain(read: Read, create: Create, now: datetime, namespace: str, name: str) -> KeyPair:
    """The authority in the Secret `namespace`/`name`; made if there is none. Of several replicas, the API server lets one win."""
    found = await read()
    if found is None:
        made = new_authority(now)
        if await create(secret(made, namespace, name)):
            return made
        found = await read()
    if found is None:
        raise RuntimeError(
            f"Secret {namespace}/{name} exists and cannot be read: allow `get` on it to this ServiceAccount"
        )
    return read_secret(found, now)


# --- gRPC -------------------------------------------------------------------------------------------------------------


class ServerCertificate:
    """The certificate of this replica's servers; a new one is signed when the old one is due, by whoever asks first."""

    def __init__(self, authority: KeyPair, names: Sequence[str], clock: Callable[[], datetime]) -> None:
        self._authority = authority
        self._names = tuple(names)
        self._clock = clock
        self._lock = threading.Lock()  # gRPC asks from its own threads, at each handshake
        self._current = issue(authority, names, clock())

    @property
    def current(self) -> KeyPair:
        with self._lock:
            self._renewed()
            return self._current

    def credentials(self) -> Any:
        """grpc.ServerCredentials, for any number of ports."""
        return grpc.dynamic_ssl_server_credentials(_configuration(self.current), self._fetch)

    def _fetch(self) -> Any:
        """What gRPC asks at each handshake; None is "as before"."""
        with self._lock:
            return _configuration(self._current) if self._renewed() else None

    def _renewed(self) -> bool:
        now = self._clock()
        if now < self._current.renew:
            return False
        self._current = issue(self._authority, self._names, now)
        return True


def _configuration(pair: KeyPair) -> Any:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(now - SKEW).not_valid_after(now + lifetime)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
