"""Pools: every InferencePool as the picker sees it: endpoints, objectives, rewrites, and the picker's configuration.

Sources: Inference Extension 1.6 InferencePool, llm-d 0.10 InferenceObjective and InferenceModelRewrite. Cases:
tests/xds_server/test_resolve_pools.py.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xds_server.model.graph import Objective, ObjectStatus, Pool
from xds_server.model.objects import (
    ConfigMap,
    EndpointPickerConfig,
    InferenceObjective,
    InferencePool,
    ObjectRef,
    Problem,
)
from xds_server.parse.annotations import (
    ENDPOINTS,
    FAILOVER,
    PICKER_CONFIG,
    pool_exporter,
    pool_kv_events,
    pool_model_lists,
    pool_waiting,
)
from xds_server.resolve import conditions as c
from xds_server.resolve.context import Context
from xds_server.resolve.endpoints import listed, own_host, pool_candidates, unready_pods
from xds_server.resolve.members import member_statuses
from xds_server.resolve.pickers import lost_failover, pool_backend
from xds_server.sources.yaml import BrokenText, load_settings

DEFAULT_CONFIG = "default"


@dataclass(frozen=True, slots=True)
class ResolvedPools:
    pools: Mapping[str, Pool]  # by "ns/name"
    statuses: Mapping[ObjectRef, ObjectStatus]  # of objectives and rewrites; a pool's own depends on routes
    problems: tuple[Problem, ...]


def resolve_pools(context: Context) -> ResolvedPools:
    """Every pool, routed to or not: the picker may be asked before the route is there."""
    state = context.state
    held = {pool.meta.ref: pool for pool in state.all(InferencePool)}
    objectives: dict[ObjectRef, list[Objective]] = defaultdict(list)
    statuses, problems = member_statuses(context)
    for objective in state.all(InferenceObjective):
        objectives[objective.pool].append(Objective(objective.meta.ref.name, objective.priority, objective.models))
    pools = {}
    for ref in sorted(held):
        pool = held[ref]
        document, found = picker_config(pool, context)
        problems += found
        problems += _lost_failover(pool, context)
        problems += _forbidden_endpoints(pool, context)
        pools[f"{ref.namespace}/{ref.name}"] = Pool(
            ref,
            pool_backend(pool, context),
            pool_candidates(pool, context),
            tuple(sorted(objectives.get(ref, ()), key=lambda each: each.name)),
            tuple(context.rewrites.get(ref, ())),
            document.content if document else None,
            (document.meta.ref, document.meta.source) if document else None,
            *pool_waiting(pool.meta),
            pool_exporter(pool.meta),
            unready_pods(pool, context),
            pool_kv_events(pool.meta),
            pool_model_lists(pool.meta),
        )
    return ResolvedPools(pools, statuses, tuple(problems))


def _lost_failover(pool: InferencePool, context: Context) -> Iterable[Problem]:
    where, meta = f"metadata.annotations[{FAILOVER}]", pool.meta
    for message in lost_failover(pool, context):
        yield Problem(meta.ref, where, c.TARGET_NOT_FOUND, message, meta.source)


def _forbidden_endpoints(pool: InferencePool, context: Context) -> Iterable[Problem]:
    where, meta = f"metadata.annotations[{ENDPOINTS}]", pool.meta
    if refused := sorted({address for address, _ in listed(pool) if context.setting.per_gateway and own_host(address)}):
        message = f"{', '.join(refused)} would be the gateway's own host, and is not used; write addresses of servers"
        yield Problem(meta.ref, where, c.UNSUPPORTED_ADDRESS, message, meta.source)


def picker_config(pool: InferencePool, context: Context) -> tuple[EndpointPickerConfig | None, list[Problem]]:
    """What configures the picker for this pool; None for the built-in default.

    The annotation names an EndpointPickerConfig, else a ConfigMap in the pool's namespace. Without the annotation it is the
    EndpointPickerConfig called "default", if there is one. A name that leads nowhere is a problem, not an outage.
    """
    name = pool.meta.annotations.get(PICKER_CONFIG, "")
    order = (pool.meta.namespace, "") if context.setting.per_gateway else (pool.meta.namespace, "", "default")
    document = _document(name or DEFAULT_CONFIG, order, context.state.all(EndpointPickerConfig))
    if document is not None:
        return document, []
    if not name:
        return None, []
    config_map = context.state.get(ConfigMap, ObjectRef("", "ConfigMap", pool.meta.namespace, name))
    found: EndpointPickerConfig | str
    if config_map is None:
        found = f"there is no EndpointPickerConfig {name} and no ConfigMap {pool.meta.namespace}/{name}; create one"
    else:
        found = _yaml_of(config_map)
    if not isinstance(found, str):
        return found, []
    where = f"metadata.annotations[{PICKER_CONFIG}]"
    message = f"{found}. The default picker configuration is used until then"
    return None, [Problem(pool.meta.ref, where, "InvalidObject", message, pool.meta.source)]


def _document(name: str, order: tuple[str, ...], held: Iterable[EndpointPickerConfig]) -> EndpointPickerConfig | None:
    """The one in the pool's namespace, else, of manifests in files, one that says no namespace or the default one."""
    named = [each for each in held if each.meta.ref.name == name and each.meta.namespace in order]
    return min(named, key=lambda each: order.index(each.meta.namespace), default=None)


def _yaml_of(found: ConfigMap) -> EndpointPickerConfig | str:
    """The first data key that ends in .yaml, as if it were a document; or what is wrong with it."""
    key = min((key for key in found.data if key.endswith(".yaml")), default="")
    if not key:
        return f"{found.meta.ref} has no data key that ends in .yaml; add one"
    try:
        content = load_settings(found.data[key])
    except BrokenText as error:
        return f"{found.meta.ref}: line {error.line} of {key} is not YAML: {error.message}"
    if not isinstance(content, dict):
        return f"{found.meta.ref}: {key} must be a mapping"
    return EndpointPickerConfig(found.meta, content)
