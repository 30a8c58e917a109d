"""`make test-vllm`: installs vLLM into build/vllm if PENSTOCK_VLLM names none, and runs the tests of this folder with it."""

import os
import sys

import pytest

from tests.vllm.conftest import ROOT, VARIABLE
from tests.vllm.install import install

if __name__ == "__main__":
    os.environ[VARIABLE] = os.environ.get(VARIABLE) or str(install(ROOT / "build" / "vllm"))
    sys.exit(pytest.main([str(ROOT / "tests" / "vllm"), *sys.argv[1:]]))
