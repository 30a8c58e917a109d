"""Prompts: English words of our own docs, which the model's tokenizer was trained on, in an order that a seed gives."""

import random
import re
from functools import cache
from pathlib import Path

CORPUS = Path(__file__).parents[2] / "docs"


@cache
def words() -> tuple[str, ...]:
    """Those of usual length: with the space about seven bytes, which this tokenizer makes one and a half tokens of."""
    found = " ".join(file.read_text(encoding="utf-8") for file in sorted(CORPUS.rglob("*.md")))
    return tuple(sorted(set(re.findall(r"\b[a-z]{4,8}\b", found))))


def text(seed: object, length: int) -> str:
    """So many words; equal seeds give equal texts, others share nothing but chance."""
    return " ".join(random.Random(str(seed)).choices(words(), k=length))
