"""From bytes of a prompt to blocks of tokens: templates, tokenizers, and what is in doubt."""

import json
import random
from contextlib import suppress

import orjson
from hypothesis import given, strategies as st

import picker.kv_links as module
from penstock.sim import tokens
from picker.kv_blocks import ROOT
from picker.kv_links import Links, links, of_pieces, of_strings, text_ends, token_ends
from picker.prefix import BLOCK_TOKENS, TOKEN_BYTES
from picker.request import parse

WORDS = ("\\u0000 ", "alpha ", "beta ", "gamma\n", "δέλτα ", "🙂", "{x: 1}", '"\\n', "\n \t")


def text(seed: int, count: int) -> str:
    return "".join(random.Random(seed).choices(WORDS, k=count))


def prompt(*contents: str, plain: bool = False) -> bytes:
    """`plain`: every character that is not ASCII is an escape, as some clients write it."""
    body = {"model": "m", "messages": [{"role": "user", "content": one} for one in contents]}
    raw = json.dumps(body).encode() if plain else orjson.dumps(body)
    return parse({":path": "/v1/chat/completions"}, raw).prompt


def written(text: str) -> bytes:
    return orjson.dumps(text)[1:-1]


def rendered(*contents: str, trim: bool = False) -> str:
    return (
        "<s>"
        + "".join(f"<|im_start|>user\n{one.strip() if trim else one}<|im_end|>\n" for one in contents)
        + "<|assistant|>"
    )


def readable(raw: bytes) -> str:
    """As far as the last character is whole."""
    for end in range(len(raw), len(raw) - 12, -1):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(b'"%b"' % raw[:end])
    raise AssertionError(raw)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.booleans(), st.sampled_from([60, 1500]), st.booleans())
def test_tokens_are_found_where_they_stand_in_the_prompt(seeds: list[int], trim: bool, size: int, plain: bool) -> None:
    contents = [text(seed, size) for seed in seeds]
    whole = rendered(*contents, trim=trim).encode()
    given_ = prompt(*contents, plain=plain)
    ends = text_ends(given_, of_strings(tokens.strings(whole)), 4)  # 16 bytes a block
    pieces = [whole[at : at + 8].decode(errors="replace") for at in range(0, len(whole) - 7, 8)]  # as SGLang tells it
    again = text_ends(given_, of_pieces(whole.decode(), pieces, 2), 4)
    assert len(again) == len(ends)
    assert all(
        abs(one - other) <= 12 for one, other in zip(again, ends, strict=True)
    )  # half a character, or its escape
    assert ends == sorted(ends)
    assert ends[-1] >= len(given_) - 250
    parts = given_.split(b"\\u0000user\\u0000")[1:]
    starts = [len(b"\\u0000user\\u0000".join((b"", *parts[:index], b""))) for index in range(len(parts))]
    for index, end in enumerate(ends):
        before = whole[: (index + 1) * 16].decode(errors="ignore")
        part = max(i for i, start in enumerate(starts) if start <= end)
        begun = readable(given_[starts[part] : end]).lstrip()
        # Inside a part just what was tokenized; between two parts all that is needed is that the next one has begun.
        assert before.endswith(begun)


def test_sentencepiece_writes_spaces_and_bytes_in_its_own_way() -> None:
    strings = ["<s>", "\u2581Hello", "\u2581world", "<0x0A>", "ma\u00f1ana", "\u2581x" * 4]
    whole = written("Hello world\nma\u00f1ana x x x x")
    assert text_ends(whole, of_strings(strings), 3) == [len(b"Hello world"), len(whole)]


def test_pieces_may_lack_a_space_or_half_a_character() -> None:
    whole = "Hello world, ma\u00f1ana \U0001f642!"
    found = of_pieces(whole, ["Hello", "world,", " ma\ufffd", "\ufffdana ", "\ufffd", "\ufffd!", "lost", "!"], 16)
    assert (found.text, found.step) == (whole.encode(), 16)
    assert [found.text[:end].decode(errors="ignore") for end in found.ends] == [
        *("Hello", "Hello world,", "Hello world, ma", "Hello world, mañana ", "Hello world, mañana ", whole),
    ]


def test_a_template_that_changes_a_part_leaves_only_that_in_doubt() -> None:
    first, lost, last = text(1, 60), text(2, 60), text(3, 60)
    whole = f"<|u|>{first}<|u|>something else<|u|>{last}<|a|>".encode()
    given_ = prompt(first, lost, last)
    ends = text_ends(given_, of_strings(tokens.strings(whole)), 4)
    inside = [end for end in ends if given_.index(written(lost)) < end < given_.index(written(last))]
    assert not inside
    assert ends[-1] > given_.index(written(last))


def test_nothing_is_claimed_that_is_not_whole() -> None:
    keys = list(range(1, 100))
    found = links(4, keys, [(i + 1) * 64 for i in range(16)])  # 16 tokens of 4 bytes
    assert found == [(3, 1), (7, 2), (11, 3), (15, 4)]
    assert links(4, keys, [512, 1024]) == [(ROOT, 0), (ROOT, 0), (1, 2), (1, 2)]  # blocks of tokens that are larger
    assert links(4, [], []) == []
    assert links(9, keys, [300]) == [(ROOT, 0), (1, 1)]  # nothing is known of the rest


@given(st.integers(1, 700), st.integers(0, 30), st.integers(0, 12))
def test_a_link_needs_no_bytes_that_come_later(size: int, count: int, blocks: int) -> None:
    ends = [(i + 1) * size for i in range(count)]
    for index, (key, covered) in enumerate(links(blocks, list(range(count)), ends)):
        assert covered <= index + 1
        if key != ROOT:
            assert ends[key] < (index + 1) * BLOCK_TOKENS * TOKEN_BYTES
            assert abs(ends[key] - covered * BLOCK_TOKENS * TOKEN_BYTES) <= BLOCK_TOKENS * TOKEN_BYTES / 2


def test_prompts_of_token_ids_need_no_tokenizer() -> None:
    assert token_ends(10, 4) == [16, 32]


def test_linked_blocks_begin_at_the_head_and_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_LINKS", 5)
    table = Links()
    table.add([1, 2, 3, 4], [(9, 1)] * 4)
    assert [table.count(one) for one in ([1, 2, 3, 4], [1, 2, 7], [7], [])] == [4, 2, 0, 0]
    table.add([5, 6, 7], [(9, 1)] * 2)
    assert (len(table), table.count([1, 2, 3, 4]), table.count([5, 6, 7])) == (5, 3, 2)
