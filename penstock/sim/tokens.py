"""The simulated tokenizer: four bytes are a token, wherever they come from; and the text that the server "generates".

Hashes are chained per block over the bytes of prompt and answer together, so the next turn of a conversation finds both.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

BYTES = 4  # of one token

_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_SYLLABLES = tuple(f"{first}{vowel}{last} " for first in _CONSONANTS for vowel in _VOWELS for last in _CONSONANTS)

_PLAIN = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}  # bytes that GPT-2's alphabet writes as they are
_WRITTEN = {byte: 0x100 + index for index, byte in enumerate(sorted(set(range(0x100)) - _PLAIN))}


def count(text: bytes) -> int:
    """Tokens of a text."""
    return -(-len(text) // BYTES)


def ids(text: bytes) -> list[int]:
    """The tokens of a text; the last one may be shorter."""
    return [int.from_bytes(text[at : at + BYTES], "little") for at in range(0, len(text), BYTES)]


def strings(text: bytes) -> list[str]:
    """The same as a byte-level BPE tokenizer writes them: a character for each byte."""
    written = text.decode("latin-1").translate(_WRITTEN)
    return [written[at : at + BYTES] for at in range(0, len(text), BYTES)]


def generate(seed: int, prompt: bytes, tokens: int) -> list[str]:
    """The answer to a prompt: equal for equal seeds and prompts, each token four ASCII bytes that JSON need not escape."""
    return random.Random(seed ^ xxhash.xxh3_64_intdigest(prompt)).choices(_SYLLABLES, k=tokens)  # noqa: S311


def chain(model: str, text: bytes, block_tokens: int) -> tuple[int, ...]:
    """One hash per full block, each over all blocks before it too; `model` is the adapter if there is one."""
    size = block_tokens * BYTES
    hashes: list[int] = []
    parent = xxhash.xxh3_64_intdigest(model.encode())
    view = memoryview(text)
    for start in range(0, len(text) - size + 1, size):
        parent = xxhash.xxh3_64_intdigest(view[start : start + size], seed=parent)
        hashes.append(parent)
    return tuple(hashes)


def render(messages: Iterable[Mapping[str, Any]]) -> bytes:
    """A chat template: the text of a conversation is a prefix of the text of its next turn."""
    turns = (f"<|{message['role']}|>{_text(message.get('content'))}\n" for message in messages)
    return ("".join(turns) + "<|assistant|>").encode()


def _text(content: Any) -> str:
    """A string, or a list of parts of which the text counts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)
