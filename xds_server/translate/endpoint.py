"""EDS: a backend's endpoints as one ClusterLoadAssignment, in protobuf/upb since it changes most often.

Source: Envoy `config.endpoint.v3`. Cases: tests/golden.
"""

from collections.abc import Iterable

from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from xds_server.model.graph import Endpoint


def load_assignment(cluster: str, endpoints: Iterable[Endpoint]) -> endpoint_pb2.ClusterLoadAssignment:
    """Every endpoint once, sorted, so equal sets encode to equal bytes.

    No endpoints give an empty assignment (Envoy answers 503), never none (Envoy would keep warming).
    """
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster)
    found = tuple(endpoints)
    if found:
        add_endpoints(assignment.endpoints.add(), found)
    return assignment


def add_endpoints(locality: endpoint_components_pb2.LocalityLbEndpoints, endpoints: Iterable[Endpoint]) -> None:
    """Every endpoint once, sorted."""
    for each in {(each.address, each.port): each for each in sorted(endpoints)}.values():
        host = locality.lb_endpoints.add()
        socket = host.endpoint.address.socket_address
        socket.address, socket.port_value = each.address, each.port
        if each.draining:
            host.health_status = health_check_pb2.DRAINING
