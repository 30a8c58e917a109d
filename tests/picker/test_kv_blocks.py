"""HeldBlocks against a model that is written for reading: sets of prefixes."""

from array import array

from hypothesis import given, strategies as st

import picker.kv_blocks as module
from picker.kv_blocks import ROOT, HeldBlocks, chain
from tests.picker._kv import stored

Path = tuple[tuple[int, ...], ...]  # blocks of tokens, from the beginning of a prompt


def key(path: Path) -> int:
    return (
        chain(ROOT, array("I", [token for block in path for token in block]).tobytes(), len(path[0]))[-1]
        if path
        else ROOT
    )


class Model:
    """One endpoint."""

    def __init__(self) -> None:
        self.path_of: dict[int, Path] = {}  # engine's hash -> what it stands for
        self.times: dict[int, int] = {}
        self.held: set[Path] = {()}

    def stored(self, hashes: list[int], parent: int | None, blocks: list[tuple[int, ...]]) -> None:
        if parent is not None and parent not in self.path_of:
            return
        path = () if parent is None else self.path_of[parent]
        for engine_hash, block in zip(hashes, blocks, strict=True):
            before, path = path, (*path, block)
            known = self.path_of.get(engine_hash)
            if known == path:
                self.times[engine_hash] += 1
            else:
                if known is not None:
                    self.lose(known)
                self.path_of[engine_hash], self.times[engine_hash] = path, 1
            if before in self.held:
                self.held.add(path)

    def removed(self, engine_hash: int) -> None:
        if engine_hash not in self.path_of:
            return
        self.times[engine_hash] -= 1
        if not self.times[engine_hash]:
            self.lose(self.path_of.pop(engine_hash))

    def lose(self, path: Path) -> None:
        self.held = {one for one in self.held if one[: len(path)] != path}


HASHES = st.integers(0, 5)
BLOCKS = st.tuples(st.integers(0, 1), st.integers(0, 1))
NAMES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(
        st.just("stored"),
        NAMES,
        st.tuples(st.lists(st.tuples(HASHES, BLOCKS), min_size=1, max_size=3), st.none() | HASHES),
    ),
    st.tuples(st.just("removed"), NAMES, st.lists(HASHES, max_size=3)),
    st.tuples(st.just("clear"), NAMES, st.none()),
    st.tuples(st.just("retain"), st.sets(NAMES), st.none()),
)


@given(st.lists(STEPS, max_size=40))
def test_the_index_agrees_with_the_model(steps: list) -> None:
    index, models = HeldBlocks(), {}
    for step, who, what in steps:
        match step:
            case "stored":
                pairs, parent = what
                hashes, blocks = [one for one, _ in pairs], [block for _, block in pairs]
                index.stored(who, stored(hashes, parent, [token for block in blocks for token in block], 2))
                models.setdefault(who, Model()).stored(hashes, parent, blocks)
            case "removed":
                index.removed(who, what)
                for one in what:
                    models.get(who, Model()).removed(one)
            case "clear":
                index.clear(who)
                if who in models:
                    models[who] = Model()
            case "retain":
                index.retain(who)
                models = {name: model for name, model in models.items() if name in who}
    held = {name: {key(path) for path in model.held} for name, model in models.items()}
    found = {name: {one for one, mask in index.masks.items() if mask & index.bit(name)} for name in models}
    assert found == held
    assert set(index.masks) == {ROOT}.union(*held.values())  # nothing is left of what nobody holds
    assert set(index._parents) == set(index.masks) - {ROOT}
    children = [set(one) if isinstance(one, dict) else {one} for one in index._children.values()]
    assert set().union(*children) == {one for one, parent in index._parents.items() if parent != ROOT}
    assert all(index.count(name) == sum(model.times[one] for one in model.path_of) for name, model in models.items())


def test_equal_prefixes_have_equal_keys_whatever_the_engines_call_them() -> None:
    index = HeldBlocks()
    index.stored("a", stored([1, 2], None, [5, 6, 7, 8], 2))
    index.stored("b", stored([91], None, [5, 6], 2))
    index.stored("b", stored([92], 91, [7, 8], 2))
    assert index.masks[key(((5, 6), (7, 8)))] == index.bit("a") | index.bit("b")


def test_adapters_and_salts_share_nothing() -> None:
    tokens = array("I", [1, 2, 3, 4]).tobytes()
    seen = [
        chain(ROOT, tokens, 2, extra)[-1]
        for extra in ([], [b"sql", b"sql"], [b"sql\0salt", b"sql"], [b"chat", b"chat"])
    ]
    assert len(set(seen)) == 4


def test_a_block_that_is_held_twice_goes_when_both_are_gone() -> None:
    index = HeldBlocks()
    for _ in range(2):
        index.stored("a", stored([1], None, [5, 6], 2))
    index.removed("a", [1])
    assert key(((5, 6),)) in index.masks
    index.removed("a", [1])
    assert index.masks == {ROOT: index.bit("a")}


def test_memory_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_POOL_BLOCKS", 8)
    index = HeldBlocks()
    for name in "ab":
        for number in range(9):
            index.stored(name, stored([number], None, [number], 1))
    assert (index.count("a"), index.count("b")) == (8, 4)  # the second came when there was half of the room for each
    index.removed("b", [0])
    assert index.stored("b", stored([77], None, [77], 1))  # what goes makes room
