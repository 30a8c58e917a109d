"""Hostnames: "*", "example.com" and "*.example.com", and how they cover each other.

A wildcard stands for one label or more and never for none: `*.example.com` covers `a.b.example.com`, not `example.com`
(Gateway API 1.7, Listener.hostname; Envoy's suffix domains mean the same).
"""

from collections.abc import Container, Iterable

ANY = "*"


def normal(hostname: str) -> str:
    return hostname.lower() or ANY


def covering(hostname: str) -> list[str]:
    """Every pattern that covers all of `hostname`, the most specific first: itself, its wildcard parents, "*"."""
    if hostname == ANY:
        return [ANY]
    labels = hostname.split(".")
    parents = ["*." + ".".join(labels[at:]) for at in range(1, len(labels))]
    # "*.example.com" is its own first parent: one name, not two.
    return [*dict.fromkeys([hostname, *parents]), ANY]


def covers(pattern: str, hostname: str) -> bool:
    """Whether every name that `hostname` stands for is one that `pattern` stands for."""
    if pattern in (ANY, hostname):
        return True
    return pattern.startswith("*.") and hostname != ANY and hostname.endswith(pattern[1:])


def intersect(one: str, other: str) -> str:
    """The narrower of two patterns when one covers the other, else "" (two patterns never overlap only in part)."""
    if covers(one, other):
        return other
    return one if covers(other, one) else ""


def owner(hostname: str, owners: Container[str]) -> str:
    """The most specific of `owners` that covers `hostname`, or ""."""
    return next((pattern for pattern in covering(hostname) if pattern in owners), "")


def intersections(listener: str, own: Iterable[str]) -> list[str]:
    """What a route with these hostnames serves at a listener; a route without any serves what the listener does."""
    found = list(own)
    if not found:
        return [listener]
    return [both for hostname in found if (both := intersect(listener, hostname))]
