"""The bootstrap in Kubernetes: what Envoy trusts, what it sends, what it shows. A real Envoy runs it in test_authority.py."""

import json
import subprocess
from pathlib import Path

import pytest

from penstock.envoy import find_envoy
from tests.xds_server.test_authority import NAME, NOW
from xds_server.authority import new_authority
from xds_server.bootstrap import Status, Trust, bootstrap, token_secret

TRUST = Trust(new_authority(NOW).certificate.decode(), NAME, "/run/token/token", "/run/envoy/token.json")


def test_without_a_node_the_command_line_says_who_it_is() -> None:
    assert "node" not in bootstrap("xds:1", trust=TRUST)
    assert bootstrap("xds:1", node_id="n")["node"]["id"] == "n"


def test_no_private_thing_is_in_it() -> None:
    text = json.dumps([bootstrap("xds:1", trust=TRUST), token_secret(TRUST)])
    assert "PRIVATE" not in text and "BEGIN CERTIFICATE" in text
    assert token_secret(TRUST)["resources"][0]["generic_secret"]["secret"]["watched_directory"] == {
        "path": "/run/token"
    }


def test_the_codec_is_the_last_upstream_filter() -> None:
    (xds,) = bootstrap("xds:1", trust=TRUST)["static_resources"]["clusters"]
    (options,) = xds["typed_extension_protocol_options"].values()
    assert [each["name"].rpartition(".")[2] for each in options["http_filters"]] == [
        "credential_injector",
        "upstream_codec",
    ]
    assert xds["transport_socket"]["typed_config"]["sni"] == NAME


@pytest.mark.envoy
def test_envoy_accepts_it(tmp_path: Path) -> None:
    trust = Trust(TRUST.authority, NAME, str(tmp_path / "token"), str(tmp_path / "sds.json"))
    (tmp_path / "token").write_text("x")
    (tmp_path / "sds.json").write_text(json.dumps(token_secret(trust)))
    config = bootstrap("penstock.sys.svc:18000", admin=f"unix:{tmp_path}/a", trust=trust, status=Status(19003))
    (tmp_path / "envoy.json").write_text(json.dumps(config))
    command = [str(find_envoy()), "--mode", "validate", "-c", str(tmp_path / "envoy.json"), "--log-level", "error"]
    command += ["--service-node", "web-1.prod", "--service-cluster", "prod/web"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_control_plane_that_is_back_is_found_soon() -> None:
    (service,) = bootstrap("127.0.0.1:18000", node_id="a")["dynamic_resources"]["ads_config"]["grpc_services"]
    assert service["envoy_grpc"]["retry_policy"]["retry_back_off"] == {"base_interval": "0.5s", "max_interval": "5s"}
