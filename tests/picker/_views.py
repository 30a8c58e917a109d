"""Views for tests of plugins: a few endpoints, and what is known of them."""

from collections.abc import Sequence
from typing import Any

from picker import schedule
from picker.load import Load
from picker.profile import read
from picker.request import InferenceRequest
from picker.scorers import View
from picker.stage import Profile
from xds_server.model.graph import Backend, Endpoint, Pool
from xds_server.model.objects import ObjectRef

NOW = 100.0


def fresh(**what: Any) -> Load:
    return Load(scraped=NOW, **what)


def endpoint(number: int, role: str = "", node: str = "", zone: str = "", **labels: str) -> Endpoint:
    found = {name.replace("__", "/"): value for name, value in labels.items()}
    if role:
        found["llm-d.ai/role"] = role
    return Endpoint(f"10.0.0.{number}", 8000, node=node, zone=zone, labels=tuple(sorted(found.items())))


def candidates(endpoints: Sequence[Endpoint], hint: tuple[str, ...] | None) -> list[Endpoint]:
    """Those of a hint, of whatever model."""
    return schedule.fresh(schedule.hinted(endpoints, hint))


def pool_of(*endpoints: Endpoint, **more: Any) -> Pool:
    ref = ObjectRef("inference.networking.k8s.io", "InferencePool", "ns", "pool")
    return Pool(ref, Backend("pool/ns/pool", ref, pool=True), endpoints, **more)


def view(
    *endpoints: Endpoint,
    loads: tuple[Load, ...] = (),
    matched: tuple[int, ...] = (),
    cacheable: int = 0,
    prompt: bytes = b"",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> View:
    given = headers or {}
    request = InferenceRequest("/x", prompt=prompt, headers=given, request_id=given.get("x-request-id", ""), **more)
    names = [str(one) for one in endpoints]
    known = loads or (fresh(),) * len(names)
    return View(request, "m", endpoints, names, known, matched or (0,) * len(names), cacheable, NOW)


def profile(*plugins: dict[str, Any] | str, **sections: Any) -> Profile:
    """Of plugins alone, or with sections."""
    entries = [{"type": one} if isinstance(one, str) else one for one in plugins]
    return read({"plugins": entries, **sections})


def plugin(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"type": kind, "parameters": parameters}
