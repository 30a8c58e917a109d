"""Pools that are asked apart: behind internal listeners of their own, since a foreign picker asks for what no route can give.

A route goes to the cluster `via/<pool>`, or `over/<pool>` where the picker is ours, whose priorities are internal listeners, tried
in turn: `ask/<pool>` asks the pool's picker, `ask/<other>` those of pools that stand in, `open/<pool>` (FailOpen) asks nobody. So a
picker that is dead, aborts, hangs or is slow ends in one place, an answer with the header `x-penstock-picker`, which a route retries
at the next priority.
Why so: docs/decisions/0006-foreign-pickers.md. Cases: tests/xds_server/test_translate_pools.py.
"""

from collections.abc import Iterable
from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import Address, EnvoyInternalAddress, TransportSocket
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener, ListenerInternalListenerConfig
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerServerHeaderTransformation as ServerHeader,
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.transport_sockets.internal_upstream.v3 import InternalUpstreamTransport
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer

from xds_server.model.graph import Backend, Forward
from xds_server.model.names import DESTINATION, STAND_IN_PREFIX
from xds_server.translate import inference, replies
from xds_server.translate.chain import apart
from xds_server.translate.cluster import unlimited
from xds_server.translate.connection_manager import access_log
from xds_server.translate.encode import pack
from xds_server.translate.filters import router
from xds_server.translate.retry import retry_policy
from xds_server.translate.settings import DataPlane


def via(pool: Backend) -> Cluster:
    """The listeners of a pool, by priority; a retry goes to the next one."""
    raw = TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=pack(RawBuffer()))
    inner = TransportSocket(
        name="envoy.transport_sockets.internal_upstream",
        typed_config=pack(InternalUpstreamTransport(transport_socket=raw)),
    )
    name = entry(pool)
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        circuit_breakers=unlimited(),
        transport_socket=inner,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[_step(number, listener) for number, listener in enumerate(_steps(pool))],
        ),
    )


def entry(backend: Backend) -> str:
    """The cluster that routes to a backend name."""
    if not apart(backend):
        return backend.cluster
    return f"via/{backend.cluster}" if backend.picker else f"{STAND_IN_PREFIX}{backend.cluster}"


def asked(backends: Iterable[Backend]) -> list[Backend]:
    """Every pool that needs a listener: those asked apart, and those that stand in for them; each once."""
    found = [each for each in backends if apart(each)]
    return list({pool.cluster: pool for each in found for pool in (each, *each.failover)}.values())


def listeners(pool: Backend, plane: DataPlane) -> list[Listener]:
    ask = _listener(f"ask/{pool.cluster}", _asking(pool, plane), plane)
    if not _opens(pool):
        return [ask]
    return [ask, _listener(f"open/{pool.cluster}", _manager(pool, [_to_pool(pool, plane.stream_idle)], []), plane)]


def _steps(pool: Backend) -> list[str]:
    asking = [f"ask/{each.cluster}" for each in (pool, *pool.failover)]
    return [*asking, f"open/{pool.cluster}"] if _opens(pool) else asking


def _opens(pool: Backend) -> bool:
    """Where other pools stand in, a request is better off with one of them than with no choice at all."""
    return pool.fail_open and not pool.failover


def _step(priority: int, listener: str) -> LocalityLbEndpoints:
    address = Address(envoy_internal_address=EnvoyInternalAddress(server_listener_name=listener))
    return LocalityLbEndpoints(priority=priority, lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])


def _listener(name: str, manager: HttpConnectionManager, plane: DataPlane) -> Listener:
    found = Filter(name="envoy.filters.network.http_connection_manager", typed_config=pack(manager))
    return Listener(
        name=name,
        internal_listener=ListenerInternalListenerConfig(),
        filter_chains=[FilterChain(filters=[found])],
        per_connection_buffer_limit_bytes=plane.max_body,
    )


def _asking(pool: Backend, plane: DataPlane) -> HttpConnectionManager:
    """Envoy limits no full-duplex stream in time. But it chooses the route anew once the picker has answered, and a route has
    an idle timeout: short until then, since the whole request has been sent, and that of a model server's answer afterwards.
    """
    answered = _to_pool(pool, plane.stream_idle)
    answered.match = RouteMatch(prefix="/", headers=[HeaderMatcher(name=DESTINATION, present_match=True)])
    patience = plane.foreign_picker_timeout if pool.picker else plane.stream_idle
    found = _manager(pool, [answered, _to_pool(pool, patience)], inference.asking(pool, plane))
    found.access_log = [] if pool.picker else [access_log()]
    found.local_reply_config = replies.local(asking=True, last=len(_steps(pool)) == 1)
    return found


def _manager(pool: Backend, routes: list[Route], filters: list[HttpFilter]) -> HttpConnectionManager:
    return HttpConnectionManager(
        stat_prefix=pool.cluster,
        route_config=RouteConfiguration(
            name=pool.cluster, virtual_hosts=[VirtualHost(name="*", domains=["*"], routes=routes)]
        ),
        http_filters=[*filters, router()],
        local_reply_config=replies.local(),
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type="websocket")],
        server_header_transformation=ServerHeader.PASS_THROUGH,
    )


def _to_pool(pool: Backend, idle: float) -> Route:
    action = RouteAction(
        cluster=pool.cluster,
        timeout=timedelta(0),
        idle_timeout=timedelta(seconds=idle),
        retry_policy=retry_policy(Forward(()), pools=True),
    )
    return Route(match=RouteMatch(prefix="/"), route=action)
