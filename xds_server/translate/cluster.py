"""CDS: a cluster per backend, named by the backend's identity.

Source: Envoy `config.cluster.v3`; pools after Gateway API Inference Extension proposal 004: the picker's ordered list is
taken from dynamic metadata by `override_host`, which skips hosts outside the EDS set (an answer cannot reach anywhere else).
Cases: tests/golden.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions as CommonHttpProtocolOptions,
    KeepaliveSettings,
    Pipe,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import LeastRequest
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.google.protobuf import Any as AnyMessage

from xds_server.model.graph import Backend
from xds_server.model.names import DESTINATION, LB_NAMESPACE, PICKER_CLUSTER, SERVED
from xds_server.translate.encode import pack
from xds_server.translate.settings import DataPlane

UPSTREAM_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# uvicorn, and so vLLM, closes a connection that was idle for 5 s. Envoy lets go first, or a request would meet the close.
_SERVER_KEEPALIVE = timedelta(seconds=4)


def ads() -> ConfigSource:
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def cluster(backend: Backend, plane: DataPlane) -> Cluster:
    """The cluster of one backend; its endpoints travel apart, by EDS."""
    return Cluster(
        name=backend.cluster,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ads()),
        connect_timeout=timedelta(seconds=plane.connect_timeout),
        load_balancing_policy=_picked() if backend.pool else LoadBalancingPolicy(policies=[_least_request()]),
        circuit_breakers=_unlimited(),
        typed_extension_protocol_options={UPSTREAM_HTTP: pack(_protocol(backend))},
    )


def picker_cluster(plane: DataPlane) -> Cluster:
    """The co-located picker: ext_proc and the access log, on one HTTP/2 connection a worker."""
    address, kind = _address(plane.picker)
    options = HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=_http2())
    )
    found = [LbEndpoint(endpoint=Endpoint(address=address))]
    return Cluster(
        name=PICKER_CLUSTER,
        type=kind,
        connect_timeout=timedelta(seconds=1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=PICKER_CLUSTER, endpoints=[LocalityLbEndpoints(lb_endpoints=found)]
        ),
        circuit_breakers=_unlimited(),
        typed_extension_protocol_options={UPSTREAM_HTTP: pack(options)},
    )


def _address(target: str) -> tuple[Address, ClusterDiscoveryType]:
    if target.startswith("unix:"):
        return Address(pipe=Pipe(path=target.removeprefix("unix:"))), ClusterDiscoveryType.STATIC
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    numeric = host.replace(".", "").isdigit() or ":" in host
    kind = ClusterDiscoveryType.STATIC if numeric else ClusterDiscoveryType.STRICT_DNS
    return Address(socket_address=SocketAddress(address=host, port_value=int(port))), kind


def _http2() -> Http2ProtocolOptions:
    keepalive = KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=5))
    return Http2ProtocolOptions(connection_keepalive=keepalive)


def _protocol(backend: Backend) -> HttpProtocolOptions:
    if backend.protocol == "h2c":
        explicit = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=Http2ProtocolOptions())
        return HttpProtocolOptions(explicit_http_config=explicit)
    explicit = HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions())
    idle = CommonHttpProtocolOptions(idle_timeout=_SERVER_KEEPALIVE) if backend.pool else None
    return HttpProtocolOptions(explicit_http_config=explicit, common_http_protocol_options=idle)


def _picked() -> LoadBalancingPolicy:
    """The picker's list, in its order, an entry an attempt; without one (FailOpen) the least loaded host."""
    override = OverrideHost(
        override_host_sources=[OverrideHostOverrideHostSource(metadata=_lb_key(DESTINATION))],
        selected_host_key=_lb_key(SERVED),
        fallback_policy=LoadBalancingPolicy(policies=[_least_request()]),
    )
    return LoadBalancingPolicy(policies=[_policy("override_host", pack(override))])


def _lb_key(name: str) -> MetadataKey:
    return MetadataKey(key=LB_NAMESPACE, path=[MetadataKeyPathSegment(key=name)])


def _least_request() -> LoadBalancingPolicyPolicy:
    return _policy("least_request", pack(LeastRequest()))


def _policy(name: str, config: AnyMessage) -> LoadBalancingPolicyPolicy:
    full = f"envoy.load_balancing_policies.{name}"
    return LoadBalancingPolicyPolicy(typed_extension_config=TypedExtensionConfig(name=full, typed_config=config))


def _unlimited() -> CircuitBreakers:
    """Envoy's defaults (1024) would fail requests that only stream for long: the picker decides what is too much."""
    most = 1_000_000
    limits = CircuitBreakersThresholds(
        max_connections=most, max_pending_requests=most, max_requests=most, max_retries=most
    )
    return CircuitBreakers(thresholds=[limits])
