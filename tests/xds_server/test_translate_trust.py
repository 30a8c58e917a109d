"""Trust: what the bootstrap says as data, the picker's cluster says as messages."""

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from xds_server.bootstrap import Trust
from xds_server.translate import DataPlane
from xds_server.translate.picker import co_located

TRUST = Trust("-----BEGIN CERTIFICATE-----", "penstock.ns.svc", "/run/token", "/etc/token.json")


def test_the_picker_is_reached_over_tls_with_the_token() -> None:
    found = cluster_pb2.Cluster.FromString(bytes(co_located(DataPlane(picker="10.0.0.1:9002", trust=TRUST))))
    tls = tls_pb2.UpstreamTlsContext()
    assert found.transport_socket.typed_config.Unpack(tls)
    assert tls.sni == "penstock.ns.svc"
    assert tls.common_tls_context.validation_context.trusted_ca.inline_string == TRUST.authority
    options = http_protocol_options_pb2.HttpProtocolOptions()
    (packed,) = found.typed_extension_protocol_options.values()
    assert packed.Unpack(options)
    assert [each.name.rpartition(".")[2] for each in options.http_filters] == ["credential_injector", "upstream_codec"]


def test_on_a_unix_socket_nobody_has_to_show_anything() -> None:
    found = cluster_pb2.Cluster.FromString(bytes(co_located(DataPlane(picker="unix:/p"))))
    assert not found.HasField("transport_socket")


def test_who_does_not_answer_is_left_for_the_standby() -> None:
    plane = DataPlane(picker="10.0.0.1:9002", picker_standby="penstock-replicas.ns.svc:9002", instance="a")
    found = cluster_pb2.Cluster.FromString(bytes(co_located(plane)))
    assert found.type == cluster_pb2.Cluster.STRICT_DNS
    places = {
        each.priority: each.lb_endpoints[0].endpoint.address.socket_address.address
        for each in found.load_assignment.endpoints
    }
    assert places == {0: "10.0.0.1", 1: "penstock-replicas.ns.svc"}
    assert found.health_checks[0].HasField("grpc_health_check")
    assert found.outlier_detection.consecutive_gateway_failure.value == 1
    other = co_located(DataPlane(picker=plane.picker, picker_standby=plane.picker_standby, instance="b"))
    assert bytes(other) != found.SerializeToString()  # a replica that is back is another cluster


def test_without_a_standby_the_only_picker_is_asked_whatever_happened() -> None:
    found = cluster_pb2.Cluster.FromString(bytes(co_located(DataPlane(picker="unix:/p"))))
    assert not found.health_checks
    assert not found.HasField("outlier_detection")
