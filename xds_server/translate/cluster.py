"""CDS: a cluster per backend, named by the backend's identity.

Source: Envoy `config.cluster.v3`; pools after Gateway API Inference Extension proposal 004: the picker's ordered list is
taken from dynamic metadata by `override_host`, which skips hosts outside the EDS set (an answer cannot reach anywhere else).
Cases: tests/golden.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    CircuitBreakersThresholdsRetryBudget as Budget,
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DnsResolverOptions,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions as CommonHttpProtocolOptions,
    SocketAddress,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.load_balancing_policies.common.v3 import (
    LocalityLbConfig,
    LocalityLbConfigLocalityWeightedLbConfig as ByLocalityWeight,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import LeastRequest
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 import RoundRobin
from envoy_data_plane.envoy.extensions.network.dns_resolver.cares.v3 import CaresDnsResolverConfig
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.metadata.v3 import MetadataKey, MetadataKeyPathSegment
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any as AnyMessage

from xds_server.model.graph import Backend, RetryBudget
from xds_server.model.names import DESTINATION, LB_NAMESPACE, SERVED
from xds_server.translate import tls
from xds_server.translate.config import ads
from xds_server.translate.encode import pack
from xds_server.translate.settings import DataPlane

UPSTREAM_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MOST = 1_000_000
# uvicorn, and so vLLM, closes a connection that was idle for 5 s. Envoy lets go first, or a request would meet the close.
_SERVER_KEEPALIVE = timedelta(seconds=4)


def cluster(backend: Backend, plane: DataPlane) -> Cluster:
    """The cluster of one backend; its endpoints travel apart, by EDS, or are a name that Envoy resolves."""
    found = Cluster(
        name=backend.cluster,
        connect_timeout=timedelta(seconds=plane.connect_timeout),
        load_balancing_policy=_picked() if backend.pool else LoadBalancingPolicy(policies=[_least_request()]),
        circuit_breakers=unlimited(backend.budget),
        typed_extension_protocol_options={UPSTREAM_HTTP: pack(_protocol(backend))},
    )
    locate(found, backend)
    return found


def locate(found: Cluster, backend: Backend) -> None:
    """Where the backend is, and the TLS that is spoken there."""
    if backend.hostname:
        _by_name(found, backend)
    else:
        found.type = ClusterDiscoveryType.EDS
        found.eds_cluster_config = ClusterEdsClusterConfig(eds_config=ads())
    if backend.tls:
        found.transport_socket = tls.upstream(backend.tls, http2=backend.protocol == "h2c")


def split_cluster(name: str, plane: DataPlane) -> Cluster:
    """Several backends of a UDP port as one cluster: a locality each, chosen by weight."""
    by_weight = LocalityLbConfig(locality_weighted_lb_config=ByLocalityWeight())
    balanced = _policy("round_robin", pack(RoundRobin(locality_lb_config=by_weight)))
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.EDS,
        eds_cluster_config=ClusterEdsClusterConfig(eds_config=ads()),
        connect_timeout=timedelta(seconds=plane.connect_timeout),
        load_balancing_policy=LoadBalancingPolicy(policies=[balanced]),
        circuit_breakers=unlimited(),
    )


def unlimited(budget: RetryBudget | None = None) -> CircuitBreakers:
    """Envoy's defaults (1024) would fail requests that only stream for long: the picker decides what is too much."""
    limits = CircuitBreakersThresholds(
        max_connections=_MOST, max_pending_requests=_MOST, max_requests=_MOST, max_retries=None if budget else _MOST
    )
    if budget:
        limits.retry_budget = Budget(
            budget_percent=Percent(value=float(budget.percent)),
            budget_interval=timedelta(seconds=budget.interval),
            min_retry_concurrency=budget.minimum,
        )
    return CircuitBreakers(thresholds=[limits])


def _by_name(found: Cluster, backend: Backend) -> None:
    """A name outside of the cluster. The first address is used until the answer lacks it, as large services want; a name
    that does not resolve holds up nothing else.
    """
    address = Address(socket_address=SocketAddress(address=backend.hostname, port_value=backend.port))
    hosts = [LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])]
    # As written: with the search domains of a pod, "api.other.svc" would be a Service of a namespace that nobody asked.
    cares = CaresDnsResolverConfig(dns_resolver_options=DnsResolverOptions(no_default_search_domain=True))
    dns = DnsCluster(
        respect_dns_ttl=True,
        dns_lookup_family=DnsLookupFamily.ALL,
        all_addresses_in_single_endpoint=True,
        typed_dns_resolver_config=TypedExtensionConfig(
            name="envoy.network.dns_resolver.cares", typed_config=pack(cares)
        ),
    )
    found.cluster_type = ClusterCustomClusterType(name="envoy.clusters.dns", typed_config=pack(dns))
    found.load_assignment = ClusterLoadAssignment(cluster_name=backend.cluster, endpoints=hosts)
    found.wait_for_warm_on_init = False


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
