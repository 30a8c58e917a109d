"""Resource and Snapshot: versions are the content."""

import hypothesis.strategies as st
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from hypothesis import given

from xds_server.snapshot import CDS, EDS, Resource, Snapshot, empty_assignment

BODIES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([b"1", b"2"]))


def collection(bodies: dict[str, bytes]) -> dict[str, Resource]:
    return {name: Resource.of(name, body) for name, body in bodies.items()}


def test_a_message_and_its_bytes_are_the_same_resource() -> None:
    message = ClusterLoadAssignment(cluster_name="a")
    assert Resource.of("a", message) == Resource.of("a", message.SerializeToString()) == empty_assignment("a")


@given(BODIES)
def test_the_version_of_a_collection_ignores_the_order(bodies: dict[str, bytes]) -> None:
    resources = list(collection(bodies).values())
    there, back = Snapshot.of(clusters=resources), Snapshot.of(clusters=resources[::-1])
    assert there == back
    assert there.version(CDS) == back.version(CDS)
    assert there.of_type(EDS) == {}


@given(BODIES, BODIES)
def test_versions_differ_as_contents_do(old: dict[str, bytes], new: dict[str, bytes]) -> None:
    before, after = (Snapshot.of(clusters=collection(bodies).values()) for bodies in (old, new))
    assert (before.version(CDS) == after.version(CDS)) == (old == new)
