"""The bootstrap is plain data that Envoy takes."""

import json
import subprocess
from pathlib import Path

import pytest

from penstock.envoy import find_envoy
from xds_server.bootstrap import address, bootstrap


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:80", {"socket_address": {"address": "127.0.0.1", "port_value": 80}}),
        ("[::1]:80", {"socket_address": {"address": "::1", "port_value": 80}}),
        ("xds.example:18000", {"socket_address": {"address": "xds.example", "port_value": 18000}}),
        ("unix:/run/x.sock", {"pipe": {"path": "/run/x.sock"}}),
    ],
)
def test_addresses(text: str, found: dict[str, object]) -> None:
    assert address(text) == found


@pytest.mark.parametrize("text", ["", "80", ":80", "host", "host:", "host:port", "host:65536", "host:-1"])
def test_what_is_no_address_is_said_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        address(text)


@pytest.mark.parametrize(
    ("xds", "kind"),
    [("10.0.0.1:1", "STATIC"), ("[fd00::1]:1", "STATIC"), ("unix:/x", "STATIC"), ("xds.svc:1", "STRICT_DNS")],
)
def test_only_a_name_is_looked_up(xds: str, kind: str) -> None:
    assert bootstrap(xds, node_id="n")["static_resources"]["clusters"][0]["type"] == kind


def test_everything_else_comes_by_delta_ads() -> None:
    found = bootstrap("127.0.0.1:1", node_id="n", fleet="f")
    assert found["node"] == {"id": "n", "cluster": "f"}
    resources = found["dynamic_resources"]
    assert resources["ads_config"]["api_type"] == "DELTA_GRPC"
    assert "ads" in resources["cds_config"] and "ads" in resources["lds_config"]
    assert "listeners" not in found["static_resources"]


@pytest.mark.envoy
@pytest.mark.parametrize("xds", ["127.0.0.1:18000", "unix:/run/xds.sock", "xds.example:18000"])
def test_envoy_accepts_it(tmp_path: Path, xds: str) -> None:
    config = bootstrap(xds, node_id="n", admin=f"unix:{tmp_path}/admin.sock")
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(tmp_path / "envoy.json"), "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
