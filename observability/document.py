"""docs/metrics.md, written: `python -m observability.document`. Every metric and every alias, as the catalogue has them."""

import sys
from pathlib import Path

from observability import aliases, metric
from observability.catalogue import METRICS


def markdown() -> str:
    """docs/metrics.md."""
    return metric.markdown(METRICS.values()) + aliases.markdown()


if __name__ == "__main__":
    Path(*(sys.argv[1:] or ["docs/metrics.md"])).write_text(markdown(), encoding="utf-8")
