"""A directory of manifests: positions, the last good version, duplicates, namespaces, and the watch that repeats it."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from xds_server.latest import Latest
from xds_server.model.objects import ClusterState, ConfigMap, HTTPRoute, Namespace, ObjectRef
from xds_server.sources import files
from xds_server.sources.files import KEPT, Reading, read, scan, watch
from xds_server.sources.yaml import BrokenText, chunks, line_of, load_json, load_yaml

ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
spec:
  rules:
  - matches:
    - path:
        value: {path}
"""


def config(name: str, value: str = "1", namespace: str = "default") -> str:
    metadata = {"name": name, "namespace": namespace}
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}})


def values(state: ClusterState) -> dict[str, str]:
    return {found.meta.ref.name: found.data["value"] for found in state.all(ConfigMap)}


def complaints(state: ClusterState) -> list[str]:
    return [str(problem) for problem in state.problems]


class Directory:
    """A directory that is read again after every edit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reading: Reading | None = None
        self.edits = 0

    def write(self, **texts: str | None) -> ClusterState:
        """Files by name without suffix (".yaml"); None deletes."""
        for name, text in texts.items():
            path = self.path / f"{name}.yaml"
            if text is None:
                path.unlink()
                continue
            path.write_text(text)
            self.edits += 1
            os.utime(path, ns=(self.edits, self.edits))  # an edit within the clock's grain is still an edit
        self.reading = read(self.path, self.reading)
        return self.reading.state


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_files_below_the_directory_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.yaml", "b/c/d.yml", "e.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(config(Path(name).stem))
    for name in ("notes.txt", ".hidden.yaml", "..data/old.yaml", "dir.yaml/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{")
    state = read(tmp_path).state
    assert values(state) == {"a": "1", "d": "1", "e": "1"}
    assert {found.meta.source for found in state.all(ConfigMap)} == {"a.yaml:1", "b/c/d.yml:1", "e.json:1"}
    assert state.problems == ()


def test_documents_have_the_line_on_which_they_start(directory: Directory) -> None:
    text = (
        f"# head\n---\n# first\n{ROUTE.format(name='a', path='/a')}---\n---\n\n{ROUTE.format(name='b', path='/b')}...\n"
    )
    state = directory.write(routes=text)
    assert [found.meta.source for found in state.all(HTTPRoute)] == ["routes.yaml:4", "routes.yaml:16"]


def test_a_problem_has_the_line_of_its_field(directory: Directory) -> None:
    state = directory.write(routes=f"{config('a')}\n---\n{ROUTE.format(name='b', path='b')}")
    (problem,) = state.problems
    assert problem.source == "routes.yaml:11"
    assert problem.field == "spec.rules[0].matches[0].path.value"
    assert str(problem) == (
        "routes.yaml:11: HTTPRoute default/b: spec.rules[0].matches[0].path.value: "
        "must start with '/', got 'b'; write '/' before it"
    )
    assert values(state) == {"a": "1"}


def test_a_missing_field_has_the_line_of_what_should_hold_it(directory: Directory) -> None:
    state = directory.write(a="apiVersion: v1\nkind: ConfigMap\nmetadata:\n  labels: {a: b}\n")
    assert [(problem.field, problem.source, problem.ref) for problem in state.problems] == [
        ("metadata.name", "a.yaml:3", None)
    ]


def test_a_broken_document_harms_no_other(directory: Directory) -> None:
    state = directory.write(a=f"{config('a')}\n---\nx: [1\n---\n{config('b')}", b=config("c"))
    assert values(state) == {"a": "1", "b": "1", "c": "1"}
    (problem,) = state.problems
    assert problem.source in ("a.yaml:3", "a.yaml:4")
    assert problem.message.startswith("not YAML: ")


def test_broken_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"kind": }')
    (problem,) = read(tmp_path).state.problems
    assert problem.source == "a.json:2"


def test_text_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("just words\n---\n- 1\n---\nnull\n")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "c.yaml").write_bytes(b"")
    assert [problem.source for problem in read(tmp_path).state.problems] == ["a.yaml:1", "a.yaml:3", "b.yaml"]


def test_lists_are_unrolled(directory: Directory) -> None:
    broken = config("b").replace('"1"', "1")
    state = directory.write(
        a=f"apiVersion: v1\nkind: List\nitems:\n- {config('a')}\n- {broken}\n- 7\n- {config('c')}\n"
    )
    assert values(state) == {"a": "1", "c": "1"}
    assert [(problem.field, problem.source) for problem in state.problems] == [
        ("data[value]", "a.yaml:5"),
        ("", "a.yaml:6"),
    ]


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    text = f"\ufeff---\n{ROUTE.format(name='a', path='/a')}---\n\n---\n{config('b')}\n".replace("\n", "\r\n")
    (tmp_path / "a.yaml").write_bytes(text.encode())
    state = read(tmp_path).state
    assert state.problems == ()
    assert [found.meta.source for found in state.all(HTTPRoute)] == ["a.yaml:2"]
    assert values(state) == {"b": "1"}


def test_an_unreadable_file_keeps_what_it_held(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    directory.write(a=config("a"))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    state = directory.write(a=config("a", "2"))
    assert values(state) == {"a": "1"}
    assert complaints(state) == [f"a.yaml: cannot be read (Permission denied); check its permissions; {KEPT}"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere")


def test_an_unreadable_directory_keeps_what_it_held(directory: Directory) -> None:
    (directory.path / "sub").mkdir()
    directory.write(**{"sub/a": config("a"), "b": config("b")})
    stamps = {name: stamp for name, stamp in scan(directory.path).items() if name == "b.yaml"}
    stamps["sub"] = files.Stamp(0, 0, 0, "Permission denied")
    reading = read(directory.path, directory.reading, stamps)
    assert values(reading.state) == {"a": "1", "b": "1"}
    assert complaints(reading.state) == [f"sub: cannot be read (Permission denied); check its permissions; {KEPT}"]


# --- the last good version --------------------------------------------------------------------------------------------


def test_a_broken_field_keeps_the_last_good_object(directory: Directory) -> None:
    directory.write(a=f"{config('a')}\n---\n{config('b')}")
    broken = directory.write(a=f"{config('a', '2')}\n---\n" + config("b").replace('"1"', "1"))
    assert values(broken) == {"a": "2", "b": "1"}
    (problem,) = broken.problems
    assert problem.message == f"must be text, got 1; write it in quotes; {KEPT}"
    assert values(directory.write(c=config("c"))) == {"a": "2", "b": "1", "c": "1"}, "however often it is read"
    assert values(directory.write(a=config("b", "3"))) == {"b": "3", "c": "1"}
    assert directory.write(a=config("b", "3")).problems == ()


def test_broken_yaml_keeps_what_the_file_held(directory: Directory) -> None:
    directory.write(a=f"{config('a')}\n---\n{config('b')}", b=config("c"))
    state = directory.write(a=f"{config('a', '2')}\n---\n{{", b=config("d"))
    assert values(state) == {"a": "2", "b": "1", "d": "1"}
    assert state.problems[0].message.endswith(KEPT)


def test_without_a_last_good_version_nothing_is_kept(directory: Directory) -> None:
    state = directory.write(a=config("a").replace('"1"', "1"))
    assert values(state) == {}
    assert KEPT not in state.problems[0].message


def test_what_is_deleted_is_gone(directory: Directory) -> None:
    directory.write(a=f"{config('a')}\n---\n{config('b')}", b=config("c"))
    assert values(directory.write(a=config("a"))) == {"a": "1", "c": "1"}
    assert values(directory.write(b=None)) == {"a": "1"}
    directory.write(a="{")
    assert values(directory.write(a=None)) == {}


def test_the_first_file_wins(directory: Directory) -> None:
    state = directory.write(b=config("x", "b"), a=config("x", "a"), c=f"{config('x', 'c')}\n---\n{config('y')}")
    assert values(state) == {"x": "a", "y": "1"}
    assert [(problem.source, problem.reason) for problem in state.problems] == [
        ("b.yaml:1", "DuplicateObject"),
        ("c.yaml:1", "DuplicateObject"),
    ]
    assert "is also in a.yaml:1, which wins" in state.problems[0].message
    assert values(directory.write(a="{")) == {"x": "b", "y": "1"}, "nobody can say that the broken file still has it"
    assert values(directory.write(a=None)) == {"x": "b", "y": "1"}


def test_a_broken_first_file_keeps_its_own_last_version(directory: Directory) -> None:
    directory.write(a=config("x", "a"), b=config("x", "b"))
    broken = config("x").replace('"1"', "1")
    assert values(directory.write(a=broken)) == {"x": "a"}
    fresh = read(directory.path).state
    assert values(fresh) == {"x": "b"}, "with no last version, the next good one"


def test_only_what_changed_is_parsed_again(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(text: str) -> object:
        loaded.append(text.strip())
        return load_yaml(text)

    monkeypatch.setattr(files, "load_yaml", load)
    directory.write(a=f"{config('a')}\n---\n{config('b')}", b=config("c"))
    first = directory.reading
    loaded.clear()
    assert read(directory.path, first) is first
    assert loaded == []
    directory.write(a=f"{config('a')}\n---\n# moved down\n{config('d')}\n---\n{config('b')}\n")
    assert loaded == [config("d"), config("b")], "the last document got a line end"


# --- namespaces -------------------------------------------------------------------------------------------------------


def test_used_namespaces_exist(directory: Directory) -> None:
    prod = "apiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {tier: one}}\n"
    state = directory.write(a=f"{config('a', namespace='prod')}\n---\n{config('b', namespace='dev')}\n---\n{prod}")
    assert {found.meta.ref.name: found.meta.labels for found in state.all(Namespace)} == {
        "prod": {"kubernetes.io/metadata.name": "prod", "tier": "one"},
        "dev": {"kubernetes.io/metadata.name": "dev"},
    }
    assert [found.meta.ref.name for found in directory.write(a=prod).all(Namespace)] == ["prod"]


# --- text -------------------------------------------------------------------------------------------------------------


def test_yaml_holds_what_json_can() -> None:
    assert load_yaml("a: 2026-01-01T00:00:00Z\nb: on\nc: 0x10\nd: &x [1]\ne: *x\nf: =") == {
        "a": "2026-01-01T00:00:00Z", "b": "on", "c": 16, "d": [1], "e": [1], "f": "=",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "duplicate key"),
        ("1: a", "key 1 is not text"),
        ("a: .inf", "no JSON form"),
        ("a: !!set {x}", "no JSON form"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("&a [*a]", "aliases"),
        ("a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)), "aliases"),
        ("[" * 5000, "recursion"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_yaml_that_json_cannot_hold(text: str, words: str) -> None:
    with pytest.raises(BrokenText, match=words):
        load_yaml(text)


@given(st.text(st.sampled_from("ab:-.# \n\t[]{}&*!|>'\"%?,0\r")) | st.text())
def test_any_text_is_documents_or_broken(text: str) -> None:
    lines = text.count("\n") + 1
    for chunk in chunks(text):
        assert 1 <= chunk.line <= lines
        assert line_of(chunk.text, "spec.rules[0]") >= 1
        for load in (load_yaml, load_json):
            with suppress(BrokenText):
                load(chunk.text)


@given(st.lists(st.dictionaries(st.text("abc.", min_size=1), st.integers() | st.text("ab-\n"), min_size=1), max_size=5))
def test_documents_are_cut_where_they_were_joined(documents: list[dict[str, object]]) -> None:
    text = "".join(f"---\n{json.dumps(document, indent=1)}\n" for document in documents)
    assert [load_yaml(chunk.text) for chunk in chunks(text)] == documents


@pytest.mark.parametrize(
    ("path", "line"),
    [("", 1), ("a", 1), ("a.b", 2), ("a.b[1]", 4), ("a.b[1].c.d", 5), ("a.b[9]", 2), ("a[e.f/g]", 6), ("a.e.f/g", 6)],
)
def test_line_of(path: str, line: int) -> None:
    assert line_of("a:\n  b:\n  - 1\n  - x: 1\n    c.d: 2\n  e.f/g: 3\n", path) == line


# --- the shell --------------------------------------------------------------------------------------------------------


async def watching(directory: Path, steps: Callable[[Latest[ClusterState]], Awaitable[None]]) -> None:
    states: Latest[ClusterState] = Latest()
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(watch(directory, states, poll=0.001))
        await steps(states)
        task.cancel()


async def until(states: Latest[ClusterState], holds: Callable[[ClusterState], bool]) -> ClusterState:
    async for state in states.values():
        if holds(state):
            return state
    raise AssertionError


async def test_watch_publishes_every_change(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(config("a"))

    async def steps(states: Latest[ClusterState]) -> None:
        assert values(await states.get()) == {"a": "1"}
        (tmp_path / "b.yaml").write_text(config("b"))
        await until(states, lambda state: values(state) == {"a": "1", "b": "1"})
        (tmp_path / "a.yaml").unlink()
        await until(states, lambda state: values(state) == {"b": "1"})

    await watching(tmp_path, steps)


async def test_watch_survives_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    (directory / "a.yaml").write_text(config("a"))

    async def steps(states: Latest[ClusterState]) -> None:
        await states.get()
        directory.rename(tmp_path / "away")
        state = await until(states, lambda state: bool(state.problems))
        assert values(state) == {"a": "1"}
        assert f"{directory}: cannot be read" in str(state.problems[0])
        (tmp_path / "away").rename(directory)
        await until(states, lambda state: not state.problems)

    await watching(directory, steps)


async def test_watch_needs_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        await watch(tmp_path / "nowhere", Latest())


async def test_a_directory_that_never_settles_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(config("a"))
    scans = 0

    def restless(directory: Path) -> dict[str, files.Stamp]:
        nonlocal scans
        scans += 1
        return {name: stamp._replace(modified=scans) for name, stamp in scan(directory).items()}

    monkeypatch.setattr(files, "scan", restless)
    assert list(await files.settled(tmp_path, {}, 0)) == ["a.yaml"]
    assert scans == files.SETTLE + 1


def test_refs_of_synthesised_namespaces_are_plain(directory: Directory) -> None:
    assert ObjectRef("", "Namespace", "", "default") in directory.write(a=config("a")).objects
