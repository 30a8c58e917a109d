"""A headless Chromium: PENSTOCK_CHROMIUM, or chromium on PATH; tests skip where there is none."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def browser() -> str:
    found = os.environ.get("PENSTOCK_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("needs a browser: PENSTOCK_CHROMIUM, or chromium on PATH")
    return found


def rendered(
    url: str, *, budget: int = 8000, picture: Path | None = None, size: str = "1500,1500", dark: bool = False
) -> str:
    """The page's document after `budget` ms of its own time; blocking. With `picture`, a screenshot instead."""
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    with tempfile.TemporaryDirectory() as profile:
        what = f"--screenshot={picture}" if picture else "--dump-dom"
        command = [
            *(
                browser(),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ),
            *(
                f"--user-data-dir={profile}",
                f"--virtual-time-budget={budget}",
                f"--window-size={size}",
                *scheme,
                what,
                url,
            ),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
