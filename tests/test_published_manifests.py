"""The manifests of the public conformance suites resolve and translate, and a real Envoy accepts what they become.

They are read from where PENSTOCK_SHARED says (by default `shared` beside this checkout), never copied.
"""

import os
from pathlib import Path

import pytest

from penstock.offline import envoy
from tests.test_golden import PLANE, validate
from xds_server.model.graph import EVERYTHING
from xds_server.resolve import resolve
from xds_server.sources import files
from xds_server.translate import translate

SHARED = Path(os.environ.get("PENSTOCK_SHARED", Path(__file__).parents[2] / "shared"))
FOLDERS = [SHARED / "cluster" / name for name in ("gateway-api-conformance", "gie-conformance")]
CASES = [
    path
    for folder in FOLDERS
    for path in sorted(folder.glob("*.yaml"))
    if path.name not in {"base.yaml", "mesh-base.yaml"}
]
GATEWAY_CLASS = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: penstock}
spec: {controllerName: penstock.dev/gateway-controller}
"""
PLACEHOLDERS = {"{GATEWAY_CLASS_NAME}": "penstock", "{GATEWAY_CONTROLLER_NAME}": "penstock.dev/gateway-controller"}

if not CASES:
    pytest.skip("no published manifests; set PENSTOCK_SHARED", allow_module_level=True)


def filled(path: Path) -> str:
    text = path.read_text()
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    return text


@pytest.mark.envoy
@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_envoy_accepts_what_published_manifests_become(case: Path, tmp_path: Path) -> None:
    for path in (case.with_name("base.yaml"), case):
        (tmp_path / path.name).write_text(filled(path))
    (tmp_path / "class.yaml").write_text(GATEWAY_CLASS)
    graph = resolve(files.read(tmp_path).state)
    assert graph.statuses
    validate(envoy(translate(graph, PLANE)[EVERYTHING]), tmp_path)
