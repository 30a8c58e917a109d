"""Who an Envoy is: a ServiceAccount that the API server vouches for, never what the Envoy says of itself (node.id, node.cluster).

Pure: tokens, TokenReviews and the memory of those that were answered; `admission.py` asks. Source: Kubernetes
`authentication.k8s.io/v1` TokenReview, service account tokens bound to an audience.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson

AUDIENCE = (
    "penstock.dev"  # of the tokens that kubelet mounts for Envoys: they open nothing else, and others do not open us
)
_USER = "system:serviceaccount:"
_POD = "authentication.kubernetes.io/pod-name"

RECHECK_S = 300.0  # a ServiceAccount that was deleted loses its access to new streams in this time
REFUSED_S = 10.0  # how long a refusal holds: a broken Envoy tries again and again
RETRY_S = 5.0  # after the API server did not answer
SIZE = 4096  # tokens in memory


@dataclass(frozen=True, slots=True)
class Account:
    """A ServiceAccount, and the pod that its token is bound to ("" if none)."""

    namespace: str
    name: str
    pod: str = ""

    def __str__(self) -> str:
        return f"ServiceAccount {self.namespace}/{self.name}"


def bearer(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The token in a stream's metadata, "" if there is none. The scheme may be missing: older Envoys cannot write it."""
    for key, value in metadata or ():
        if key == "authorization" and isinstance(value, str):
            return value[7:] if value[:7].lower() == "bearer " else value
    return ""


def claims(token: str) -> Mapping[str, Any]:
    """What a JWT says, unverified: enough to refuse, never enough to let in. Empty where it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return found if isinstance(found, dict) else {}


def expiry(found: Mapping[str, Any]) -> float:
    """Seconds since 1970; 0 where a token does not say, which no token from kubelet does."""
    until = found.get("exp")
    return float(until) if isinstance(until, int | float) else 0.0


def plausible(found: Mapping[str, Any], now: float, audience: str = AUDIENCE) -> bool:
    """Whether a token with these claims is worth asking the API server about: garbage must not become its load."""
    audiences = found.get("aud")
    audiences = audiences if isinstance(audiences, list) else [audiences]
    return audience in audiences and expiry(found) > now and str(found.get("sub", "")).startswith(_USER)


def token_review(token: str, audience: str = AUDIENCE) -> dict[str, Any]:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }


def reviewed(answer: Mapping[str, Any], audience: str = AUDIENCE) -> Account | None:
    """Whom a TokenReview vouches for; None for nobody.

    The audience is checked here too: an API server that does not know audiences answers without, and vouches for any token.
    """
    status = answer.get("status") or {}
    if status.get("authenticated") is not True or audience not in (status.get("audiences") or ()):
        return None
    user = status.get("user") or {}
    namespace, colon, name = str(user.get("username", "")).removeprefix(_USER).partition(":")
    if not str(user.get("username", "")).startswith(_USER) or not (namespace and colon and name) or ":" in name:
        return None
    pods = (user.get("extra") or {}).get(_POD) or [""]
    return Account(namespace, name, str(pods[0]))


@dataclass(frozen=True, slots=True)
class Verdict:
    account: Account | None  # None: refused
    recheck: float  # until then the verdict holds
    expires: float  # then it is forgotten, whatever happens


class Verdicts:
    """The tokens that were asked about, by hash: a memory dump shows none."""

    def __init__(self, size: int = SIZE) -> None:
        self._found: dict[bytes, Verdict] = {}
        self._size = size

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: bytes, now: float) -> Verdict | None:
        """The verdict, due for another check or not; None where there is none, or the token has expired."""
        verdict = self._found.get(key)
        return verdict if verdict and now < verdict.expires else None

    def put(self, key: bytes, account: Account | None, now: float, expires: float) -> None:
        hold = REFUSED_S if account is None else RECHECK_S
        self._set(key, Verdict(account, now + hold, now + hold if account is None else expires), now)

    def postpone(self, key: bytes, verdict: Verdict, now: float) -> None:
        """The API server did not answer: what was verified holds until the token expires, so that its outage is not ours."""
        self._set(key, Verdict(verdict.account, now + RETRY_S, verdict.expires), now)

    def _set(self, key: bytes, verdict: Verdict, now: float) -> None:
        self._found.pop(key, None)  # the newest stands last
        if len(self._found) >= self._size:
            self._found = {each: found for each, found in self._found.items() if now < found.expires}
        while len(self._found) >= self._size:
            refused = (each for each, found in self._found.items() if found.account is None)
            del self._found[next(refused, next(iter(self._found)))]  # a flood of bad tokens pushes out no good one
        self._found[key] = verdict


def key_of(token: str) -> bytes:
    return sha256(token.encode()).digest()  # processors have it built in
