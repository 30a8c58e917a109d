"""The clusters of pickers: the co-located one, and foreign ones that an InferencePool names.

Source: Gateway API Inference Extension proposal 004; docs/decisions/0006-foreign-pickers.md. Cases: tests/golden.
"""

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    OutlierDetection,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    HealthCheck,
    HealthCheckTcpHealthCheck,
    Http2ProtocolOptions,
    KeepaliveSettings,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent

from xds_server.model.graph import Backend
from xds_server.model.names import PICKER_CLUSTER
from xds_server.translate import trust
from xds_server.translate.cluster import UPSTREAM_HTTP, locate, unlimited
from xds_server.translate.encode import pack
from xds_server.translate.settings import DataPlane


def co_located(plane: DataPlane) -> Cluster:
    """Our own: ext_proc and the access log, on one HTTP/2 connection a worker."""
    address, kind = _address(plane.picker)
    found = [LbEndpoint(endpoint=Endpoint(address=address))]
    options = _http2()
    if plane.trust:
        options.http_filters = trust.credential_filters(plane.trust)
    return Cluster(
        name=PICKER_CLUSTER,
        transport_socket=trust.transport_socket(plane.trust) if plane.trust else None,
        type=kind,
        connect_timeout=timedelta(seconds=1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=PICKER_CLUSTER, endpoints=[LocalityLbEndpoints(lb_endpoints=found)]
        ),
        circuit_breakers=unlimited(),
        typed_extension_protocol_options={UPSTREAM_HTTP: pack(options)},
    )


def foreign(picker: Backend) -> Cluster:
    """A picker that is not ours: what is known to be gone is not asked, so that FailOpen does not wait for it."""
    found = Cluster(
        name=picker.cluster,
        connect_timeout=timedelta(seconds=1),
        circuit_breakers=unlimited(),
        health_checks=[_alive()],
        outlier_detection=_outliers(),
        ignore_health_on_host_removal=True,  # else Envoy asks a pod that left its Service for as long as it accepts connections
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0.0)),
        typed_extension_protocol_options={UPSTREAM_HTTP: pack(_http2())},
    )
    locate(found, picker)
    return found


def _alive() -> HealthCheck:
    """By connecting: the protocol's gRPC health service is on another port, or nowhere."""
    second = timedelta(seconds=1)
    return HealthCheck(
        timeout=second,
        interval=second,
        no_traffic_interval=second,
        unhealthy_threshold=1,
        healthy_threshold=1,
        tcp_health_check=HealthCheckTcpHealthCheck(),
    )


def _outliers() -> OutlierDetection:
    """One that aborts its streams is left alone for a while, if there is another."""
    return OutlierDetection(
        consecutive_5xx=5,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=5),
        max_ejection_percent=50,
    )


def _http2() -> HttpProtocolOptions:
    keepalive = KeepaliveSettings(interval=timedelta(seconds=30), timeout=timedelta(seconds=5))
    options = Http2ProtocolOptions(connection_keepalive=keepalive)
    return HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=options)
    )


def _address(target: str) -> tuple[Address, ClusterDiscoveryType]:
    if target.startswith("unix:"):
        return Address(pipe=Pipe(path=target.removeprefix("unix:"))), ClusterDiscoveryType.STATIC
    host, _, port = target.rpartition(":")
    host = host.strip("[]")
    numeric = host.replace(".", "").isdigit() or ":" in host
    kind = ClusterDiscoveryType.STATIC if numeric else ClusterDiscoveryType.STRICT_DNS
    return Address(socket_address=SocketAddress(address=host, port_value=int(port))), kind
