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
    HealthCheckGrpcHealthCheck,
    HealthCheckTcpHealthCheck,
    Http2ProtocolOptions,
    KeepaliveSettings,
    Metadata,
    Pipe,
    SocketAddress,
)
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Struct

from xds_server.model.graph import Backend
from xds_server.model.names import PENSTOCK_NAMESPACE, PICKER_CLUSTER
from xds_server.translate import trust
from xds_server.translate.cluster import UPSTREAM_HTTP, locate, unlimited
from xds_server.translate.encode import pack
from xds_server.translate.settings import DataPlane


def co_located(plane: DataPlane) -> Cluster:
    """Our own: ext_proc and the access log, on one HTTP/2 connection a worker."""
    targets = [plane.picker, plane.picker_standby] if plane.picker_standby else [plane.picker]
    places = [_address(target) for target in targets]
    options = _http2(5 if plane.picker_standby else 30)
    if plane.trust:
        options.http_filters = trust.credential_filters(plane.trust)
    found = Cluster(
        name=PICKER_CLUSTER,
        transport_socket=trust.transport_socket(plane.trust) if plane.trust else None,
        type=places[-1][1],  # a cluster of names takes addresses too
        connect_timeout=timedelta(seconds=1),
        load_assignment=ClusterLoadAssignment(
            cluster_name=PICKER_CLUSTER,
            endpoints=[
                LocalityLbEndpoints(priority=priority, lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address))])
                for priority, (address, _) in enumerate(places)
            ],
        ),
        circuit_breakers=unlimited(),
        typed_extension_protocol_options={UPSTREAM_HTTP: pack(options)},
    )
    if plane.picker_standby:
        _watch(found, plane.instance)
    return found


def _watch(cluster: Cluster, instance: str) -> None:
    """Whom to ask is a matter of who answers. A replica that is gone is left at the first failure, one that hangs in seconds.

    An access log stream stays where it is as long as it lasts, so after a while on the standby it would go on telling the wrong
    process. With the instance, a replica that is back gives its Envoys another cluster, and all streams of the old one end.
    """
    cluster.health_checks = [_healthy()]
    cluster.outlier_detection = OutlierDetection(
        consecutive_gateway_failure=1,
        enforcing_consecutive_gateway_failure=100,
        enforcing_consecutive_5xx=0,  # one request that we cannot read says nothing about the next
        enforcing_success_rate=0,
        interval=timedelta(seconds=1),
        base_ejection_time=timedelta(seconds=10),  # a health check that succeeds ends it
        max_ejection_time=timedelta(seconds=10),
        max_ejection_percent=100,  # where all are left, all are asked: Envoy's panic
    )
    cluster.metadata = Metadata(filter_metadata={PENSTOCK_NAMESPACE: Struct.from_dict({"instance": instance})})


def _healthy() -> HealthCheck:
    """By asking: a process that hangs still accepts connections."""
    every = timedelta(seconds=3)
    return HealthCheck(
        timeout=timedelta(seconds=2),
        interval=every,
        interval_jitter_percent=20,
        no_traffic_interval=every,
        unhealthy_threshold=1,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(),
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


def _http2(interval: int = 30) -> HttpProtocolOptions:
    keepalive = KeepaliveSettings(interval=timedelta(seconds=interval), timeout=timedelta(seconds=min(interval, 5)))
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
