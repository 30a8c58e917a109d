"""Pickers: who picks for an InferencePool, and the pool as a Backend that knows it.

The co-located picker, or with `Setting.foreign_pickers` the Service that endpointPickerRef names. Sources: Inference
Extension 1.6 InferencePool, endpoint-picker protocol 004. Cases: tests/xds_server/test_resolve_pickers.py.
"""

from collections.abc import Iterator

from xds_server.model.graph import Backend, Condition, UpstreamTLS
from xds_server.model.objects import InferencePool, ObjectRef, PickerRef, Service
from xds_server.parse import annotations
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.references import Denied, Ok
from xds_server.resolve.services import H2C, port_of, port_tls, retry_budget
from xds_server.resolve.tls import shaped

OURS = ("penstock.dev", "EndpointPicker")  # group and kind by which an endpointPickerRef names the co-located picker
COLOCATED = "the co-located picker serves this pool"
SELF_SIGNED = UpstreamTLS("", None, verify=False)  # what a picker serves unless it is told otherwise (llm-d, GIE)


def picker_conditions(pool: InferencePool, context: Context) -> tuple[Condition, Condition]:
    """Accepted and ResolvedRefs: can anything pick for this pool? The only place that knows who picks."""
    generation = pool.meta.generation
    accepted, resolved = c.passed(c.ACCEPTED, generation), c.passed(c.RESOLVED_REFS, generation)
    match honoured(pool, context):
        case None if context.setting.colocated_picker:
            unused = f"; {pool.picker.ref} is not used" if pool.picker and not ours(pool.picker) else ""
            return accepted, c.passed(c.RESOLVED_REFS, generation, COLOCATED + unused)
        case None:
            message = "no endpointPickerRef, and no picker runs with the gateway; set spec.endpointPickerRef"
            return c.failed(c.ACCEPTED, c.ENDPOINT_PICKER_REF_MISSING, message, generation), resolved
        case picker:
            found = foreign_picker(picker, context)
            if isinstance(found, Denied):
                resolved = c.failed(c.RESOLVED_REFS, found.reason, found.message, generation)
            return accepted, resolved


def honoured(pool: InferencePool, context: Context) -> PickerRef | None:
    """The picker that the pool names, where it is asked; None where the co-located one is."""
    setting = context.setting
    if pool.picker is None or (setting.colocated_picker and ours(pool.picker)):
        return None
    return pool.picker if setting.foreign_pickers or not setting.colocated_picker else None


def ours(picker: PickerRef) -> bool:
    """Whether it is the co-located one by name: the API has failureMode in the reference and nowhere else."""
    return (picker.ref.group, picker.ref.kind) == OURS


def foreign_picker(picker: PickerRef, context: Context) -> Ok[Backend] | Denied:
    """The Service of an endpointPickerRef: gRPC, over TLS whose certificate nobody vouches for unless a policy says more."""
    where = "spec.endpointPickerRef"
    service = context.state.get(Service, picker.ref)
    if service is None or service.type == "ExternalName":
        what = "does not exist" if service is None else "is of type ExternalName, which a picker must not be"
        return Denied(c.INVALID_EXTENSION_REF, f"{where}: {picker.ref} {what}")
    port = port_of(service, picker.port)
    if port is None:
        held = ", ".join(str(each.port) for each in service.ports if each.protocol == "TCP") or "none"
        message = f"{where}.port: {picker.ref} has no TCP port {picker.port}; its ports are {held}"
        return Denied(c.INVALID_EXTENSION_REF, message)
    tls = port_tls(service, port, context)
    if isinstance(tls, Denied):
        return Denied(c.INVALID_EXTENSION_REF, f"{where}: {tls.message}")
    if tls is None and port.app_protocol != H2C:
        tls = SELF_SIGNED
    cluster = f"picker/{picker.ref.namespace}/{picker.ref.name}/{picker.port}"
    return Ok(shaped(Backend(cluster, picker.ref, protocol="h2c", tls=tls)))


def pool_backend(pool: InferencePool, context: Context) -> Backend:
    """A pool with its picker and the pools that stand in for it. What cannot pick is left out: `picker_conditions` says why."""
    stand_ins = tuple(_alone(each, context) for each in failover(pool, context) if _picks(each, context))
    return _alone(pool, context, stand_ins)


def failover(pool: InferencePool, context: Context) -> Iterator[InferencePool]:
    """The pools of the same namespace that the annotation `penstock.dev/failover` names, in its order."""
    for name in annotations.words(pool.meta.annotations.get(annotations.FAILOVER, "")):
        found = context.state.get(InferencePool, _sibling(pool, name))
        if found is not None and found is not pool:
            yield found


def lost_failover(pool: InferencePool, context: Context) -> Iterator[str]:
    """What is wrong with the annotation: each name that is no other pool, or one that nothing picks for."""
    for name in annotations.words(pool.meta.annotations.get(annotations.FAILOVER, "")):
        found = context.state.get(InferencePool, _sibling(pool, name))
        if found is None:
            yield f"{_sibling(pool, name)} does not exist; create it or remove its name"
        elif found is pool:
            yield "the pool cannot stand in for itself; remove its name"
        elif not _picks(found, context):
            yield f"nothing picks for {found.meta.ref}; see its status"


def _alone(pool: InferencePool, context: Context, stand_ins: tuple[Backend, ...] = ()) -> Backend:
    asked = honoured(pool, context)
    found = foreign_picker(asked, context) if asked else None
    return Backend(
        cluster=f"pool/{pool.meta.namespace}/{pool.meta.ref.name}",
        ref=pool.meta.ref,
        protocol="h2c" if pool.app_protocol == H2C else "http",
        pool=True,
        fail_open=pool.picker is not None and pool.picker.failure_mode == "FailOpen",
        picker=found.target if isinstance(found, Ok) else None,
        budget=retry_budget(pool.meta.ref, context),
        usage=asked is None and annotations.pool_usage(pool.meta),
        failover=stand_ins,
    )


def _picks(pool: InferencePool, context: Context) -> bool:
    return all(each.status == "True" for each in picker_conditions(pool, context))


def _sibling(pool: InferencePool, name: str) -> ObjectRef:
    ref = pool.meta.ref
    return ObjectRef(ref.group, ref.kind, ref.namespace, name)
