"""The faster encoder gives the same bytes and the same errors as the library's own, in a process that does not have it."""

import subprocess
import sys

import pytest
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteMatch

from xds_server.protobuf import embed

_BUILD = """
from datetime import timedelta
from envoy_data_plane.envoy.config.route.v3 import Route, RouteAction, RouteMatch, WeightedCluster, WeightedClusterClusterWeight
from envoy_data_plane.google.protobuf import Any
clusters = [WeightedClusterClusterWeight(name=f"c{i}", weight=i) for i in range(3)]
action = RouteAction(timeout=timedelta(0), idle_timeout=timedelta(seconds=1.5), weighted_clusters=WeightedCluster(clusters=clusters))
route = Route(name="r", match=RouteMatch(path_separated_prefix="/v1"), route=action, typed_per_filter_config={"f": Any.pack(RouteMatch(prefix="/"))})
print(bytes(route).hex())
"""


def run(prefix: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", prefix + _BUILD], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_bytes_are_those_of_the_library() -> None:
    assert run("import xds_server.translate.encode\n") == run()


def test_a_wrong_type_is_still_an_error() -> None:
    route = Route(name="r", match=RouteMatch(prefix="/"), route=RouteAction(cluster="c"))
    route.route.cluster = 17  # type: ignore[union-attr,assignment]
    with pytest.raises(ValueError, match="valid string"):
        bytes(route)


def test_an_embedded_message_is_what_the_library_would_write() -> None:
    body = bytes(RouteMatch(prefix="/" + "x" * 300))
    assert embed(1, body) == bytes(Route(match=RouteMatch(prefix="/" + "x" * 300)))
