"""Bytes, not requests: TCP connections and UDP datagrams to weighted backends.

Source: Gateway API 1.7 TLSRoute, TCPRoute, UDPRoute; Envoy `TcpProxy`, `UdpProxyConfig`. udp_proxy knows one cluster: several
backends become one cluster whose localities are the backends, and locality weights are theirs. Cases: tests/golden.
"""

from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy_data_plane.envoy.config.listener.v3 import Filter, ListenerFilter
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import (
    TcpProxy,
    TcpProxyWeightedCluster,
    TcpProxyWeightedClusterClusterWeight,
)
from envoy_data_plane.envoy.extensions.filters.udp.udp_proxy.v3 import Route as UdpRoute, UdpProxyConfig
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import Matcher, MatcherOnMatch

from xds_server.model.graph import Endpoint, Port, Stream, WeightedBackend
from xds_server.model.names import INVALID_CLUSTER
from xds_server.translate.encode import pack
from xds_server.translate.endpoint import add_endpoints

_NOWHERE = Endpoint(
    "127.0.0.1", 9
)  # the discard service: the share of a backend that has no endpoint is lost, as it must


def tcp_proxy(stream: Stream | None, stat_prefix: str) -> Filter:
    """Connections by weight; a share without a backend closes them, since its cluster does not exist."""
    shares = _shares(stream)
    proxy = TcpProxy(stat_prefix=stat_prefix)
    if len(shares) > 1:
        proxy.weighted_clusters = TcpProxyWeightedCluster(
            clusters=[
                TcpProxyWeightedClusterClusterWeight(name=_cluster(share), weight=share.weight) for share in shares
            ]
        )
    else:
        proxy.cluster = _cluster(shares[0]) if shares else INVALID_CLUSTER
    return Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy))


def udp_proxy(stream: Stream | None, stat_prefix: str) -> ListenerFilter:
    """Datagrams of one client and port stay together: a session, of which the first chooses the backend."""
    shares = _shares(stream)
    cluster = _cluster(shares[0]) if shares else INVALID_CLUSTER
    if stream and len(shares) > 1:
        cluster = split_name(stream)
    action = TypedExtensionConfig(name="route", typed_config=pack(UdpRoute(cluster=cluster)))
    proxy = UdpProxyConfig(stat_prefix=stat_prefix, matcher=Matcher(on_no_match=MatcherOnMatch(action=action)))
    return ListenerFilter(name="envoy.filters.udp_listener.udp_proxy", typed_config=pack(proxy))


def splits(ports: Iterable[Port]) -> dict[str, Stream]:
    """The streams that need a cluster of their own, by its name."""
    streams = [chain.stream for port in ports if port.transport == "UDP" for chain in port.chains if chain.stream]
    return {split_name(each): each for each in streams if len(_shares(each)) > 1}


def split_name(stream: Stream) -> str:
    return f"split/{stream.name}"


def split_assignment(
    stream: Stream, endpoints: Mapping[str, tuple[Endpoint, ...]]
) -> endpoint_pb2.ClusterLoadAssignment:
    """A locality a backend, weighted as the backend is. What has no endpoint keeps its share: it goes nowhere."""
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=split_name(stream))
    weights: dict[str, int] = {}
    for share in _shares(stream):
        held = share.backend and serving(endpoints.get(share.backend.cluster, ()))
        name = share.backend.cluster if share.backend and held else INVALID_CLUSTER
        weights[name] = weights.get(name, 0) + share.weight
    for name, weight in weights.items():
        locality = assignment.endpoints.add()
        locality.locality.CopyFrom(base_pb2.Locality(sub_zone=name))
        locality.load_balancing_weight.value = weight
        add_endpoints(locality, serving(endpoints.get(name, ())) or (_NOWHERE,))
    return assignment


def serving(found: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Those that are not about to go: the weight of a locality would shrink with the rest."""
    return tuple(each for each in found if not each.draining)


def _shares(stream: Stream | None) -> list[WeightedBackend]:
    return [each for each in stream.backends if each.weight > 0] if stream else []


def _cluster(share: WeightedBackend) -> str:
    return share.backend.cluster if share.backend else INVALID_CLUSTER
