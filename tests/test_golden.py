"""The control pipeline, feature by feature: manifests in, Envoy configuration and status out, as pairs of files.

`make golden` rewrites the outputs: read the difference before you commit it. Each output is also given to a real Envoy.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from penstock.envoy import EnvoyMissing, find_envoy
from penstock.offline import envoy, render
from xds_server.model.graph import EVERYTHING
from xds_server.resolve import resolve
from xds_server.sources import files
from xds_server.translate import DataPlane, translate

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*.in.yaml"))
PLANE = DataPlane(bind="127.0.0.1")


def read(case: Path, folder: Path) -> Any:
    (folder / "case.yaml").write_text(case.read_text())
    return resolve(files.read(folder).state)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_golden(case: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    graph = read(case, tmp_path)
    text = render(graph, translate(graph, PLANE)[EVERYTHING])
    expected = case.with_name(case.name.replace(".in.", ".out."))
    if request.config.getoption("--update-golden"):
        expected.write_text(text)
    assert text == expected.read_text()


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_envoy_accepts_what_is_golden(case: Path, tmp_path: Path) -> None:
    graph = read(case, tmp_path)
    validate(envoy(translate(graph, PLANE)[EVERYTHING]), tmp_path)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_same_manifests_give_the_same_bytes(case: Path, tmp_path: Path) -> None:
    graph = read(case, tmp_path)
    assert translate(graph, PLANE) == translate(read(case, tmp_path), PLANE)


def validate(resources: dict[str, Any], folder: Path) -> None:
    """`envoy --mode validate` on a static configuration with the same clusters, listeners and routes."""
    try:
        program = find_envoy()
    except EnvoyMissing as error:
        pytest.skip(str(error))
    # A static route table may not name an unknown cluster (the share of an invalid backend does); one from RDS may.
    routes = {found["name"]: found | {"validateClusters": False} for found in resources["routes"]}
    for listener in resources["listeners"]:
        for chain in listener.get("filterChains", ()):
            manager = chain["filters"][0]["typedConfig"]
            if "rds" in manager:  # not a stream
                manager["routeConfig"] = routes[manager.pop("rds")["routeConfigName"]]
    ads = {
        "apiType": "DELTA_GRPC",
        "transportApiVersion": "V3",
        "grpcServices": [{"envoyGrpc": {"clusterName": "xds"}}],
    }
    xds = {"name": "xds", "type": "STATIC", "http2ProtocolOptions": {}, "loadAssignment": {"clusterName": "xds"}}
    static = {"clusters": [xds, *resources["clusters"]], "listeners": resources["listeners"]}
    config = {"node": {"id": "n", "cluster": "c"}, "dynamicResources": {"adsConfig": ads}, "staticResources": static}
    file = folder / "envoy.json"
    file.write_text(json.dumps(config))
    done = subprocess.run(
        [program, "--mode", "validate", "-c", file, "-l", "error"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
