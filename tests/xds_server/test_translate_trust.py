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
