"""Pictures of the boards for docs/: the mix of traffic for a while, a real Prometheus, `penstock verify --draw`, a headless Chromium.

    python -m tests.e2e.pictures [FOLDER] [--seconds 240]

Writes boards.html and one PNG per board into FOLDER (default: docs/boards without the page, which is large).
"""

import argparse
import asyncio
import shutil
import tempfile
from pathlib import Path

from observability.dashboards.files import boards
from penstock.cli import main as penstock
from tests.e2e.mix import mix, narrow, stream, traffic
from tests.e2e.prometheus import prometheus
from tests.e2e.world import World
from tests.observability.console.browser import rendered

DOCS = Path(__file__).parents[2] / "docs" / "boards"
WIDTH, HEIGHT, SHORTER = 1200, 1500, 100  # pixels
HEIGHTS = {"endpoints": 1220, "safety": 870, "slo": 1130}  # of those that are not as high
LARGEST = 300_000  # bytes: what would be larger is cut at the bottom
WARM = 15.0  # seconds until rates are rates
WAVE = 30.0  # seconds
PRICES = "0.15,0.03,0.6"  # of a million tokens, in no currency
DARK = "flow-control"  # one is shown as it is at night


async def draw(page: Path, seconds: float) -> int:
    """What `penstock verify` ends with."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prometheus").mkdir()
        async with (
            mix(folder / "manifests") as (gateway, _servers, acts),
            prometheus(folder / "prometheus", gateway.gateway.settings.telemetry) as found,
            traffic(gateway, *acts),
        ):
            await asyncio.sleep(WARM)
            await waves(gateway, seconds)
            since = f"{int(seconds)}s"
            arguments = ["verify", "--prometheus", found.url, "--window", "10s", "--strict", "--prices", PRICES]
            return await asyncio.to_thread(penstock, [*arguments, "--draw", str(page), "--since", since])


async def waves(gateway: World, seconds: float) -> None:
    """More on top of the mix, and less again."""
    for number in range(round(seconds / WAVE)):
        more = number % 4
        async with traffic(gateway, *[stream] * more, *[narrow] * (more > 1)):
            await asyncio.sleep(WAVE)
        gateway.outcomes.clear()
        gateway.decisions.clear()


def shoot(url: str, picture: Path, board: str) -> None:
    height = HEIGHTS.get(board, HEIGHT)
    rendered(url, picture=picture, size=f"{WIDTH},{height}", dark=board == DARK)
    while picture.stat().st_size > LARGEST:
        height -= SHORTER
        rendered(url, picture=picture, size=f"{WIDTH},{height}", dark=board == DARK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DOCS)
    parser.add_argument("--seconds", type=float, default=240.0)
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        page = Path(name) / "boards.html"
        status = asyncio.run(draw(page, given.seconds))
        for board in boards():
            shoot(f"file://{page}#{board.name}", given.folder / f"{board.name}.png", board.name)
        if given.folder != DOCS:
            shutil.copy(page, given.folder)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
