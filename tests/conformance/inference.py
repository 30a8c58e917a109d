"""The Gateway API Inference Extension's conformance checks against Penstock: `python -m tests.conformance.inference`.

The extension's suite is no module that can be had; tests/conformance/test_inference.py checks what it checks, with its manifests
and a picker of ours (`endpoint_picker.py`) in the place of its own. Further arguments go to pytest: `-k weighted`.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.conformance.bench import CLUSTER, ROOT, Bench, accepted, bench

HERE = Path(__file__).resolve().parent
PICKER_IMAGES = "*/gateway-api-inference-extension/lwepp:*"


def run(made: Bench, gateway_class: str, *arguments: str, keep: bool = False) -> int:
    """0 if all passed. On a cluster that is not of `bench`, PENSTOCK_TEST_PICKER_IMAGE is an image of endpoint_picker.py."""
    if made.prefix:
        picker = (sys.executable, "-B", HERE / "endpoint_picker.py")
        subprocess.run([CLUSTER, "image", PICKER_IMAGES, *picker], check=True)
    told = {"PENSTOCK_CONFORMANCE": "1", "PENSTOCK_GATEWAY_CLASS": gateway_class}
    told |= {"PENSTOCK_CONFORMANCE_KEEP": "1"} if keep else {}
    command = [*made.prefix, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", str(HERE), *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **told}, check=False).returncode


def main() -> int:
    with bench() as made:
        accepted(made, "penstock")
        return run(made, "penstock", *sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
