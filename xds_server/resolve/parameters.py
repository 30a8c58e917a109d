"""Parameters: a Gateway's infrastructure.parametersRef, a ConfigMap of its namespace with overlays for what is made for it.

Source: Gateway API 1.7 GatewayInfrastructure.parametersRef. Cases: tests/xds_server/test_resolve_gateways.py.
"""

import functools

from xds_server.model.objects import ConfigMap, Gateway, InvalidObject, Meta, ObjectRef
from xds_server.overlay import read_overlays
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied
from xds_server.resolve.tls import CONFIG_MAP


def parameters_denied(gateway: Gateway, context: Context) -> Denied | None:
    """Why a Gateway cannot be made as its parameters say; where Gateways share a fleet nothing is made, and nothing read."""
    ref = gateway.parameters
    if ref is None:
        return None
    if (ref.group, ref.kind) != CONFIG_MAP:
        kind = f"{ref.group}/{ref.kind}" if ref.group else ref.kind
        return Denied(c.INVALID_PARAMETERS, f"parametersRef of kind {kind} is not supported; use a core ConfigMap")
    found = context.state.get(ConfigMap, ref)
    if found is None:
        return Denied(c.INVALID_PARAMETERS, f"{ref} does not exist; create it or remove infrastructure.parametersRef")
    wrong = _complaint(ref, tuple(sorted(found.data.items()))) if context.setting.per_gateway else ""
    return Denied(c.INVALID_PARAMETERS, wrong) if wrong else None


@functools.lru_cache(maxsize=256)  # YAML takes milliseconds, and this rarely changes
def _complaint(ref: ObjectRef, data: tuple[tuple[str, str], ...]) -> str:
    try:
        read_overlays(ConfigMap(Meta(ref), dict(data)))
    except InvalidObject as error:
        return str(error.problem)
    return ""
