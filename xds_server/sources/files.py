"""A directory of manifests -> ClusterState: what stands in for an API server where there is none.

`read` is a function of the directory and the reading before it; `watch` is the shell that repeats it. A mistake in a file
never takes away what worked: the last good version of the objects concerned stays until they are right again, or gone.
Cases: tests/xds_server/test_files.py.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from xds_server.latest import Latest
from xds_server.model.objects import ClusterState, InvalidObject, Meta, Namespace, Object, ObjectRef, Problem
from xds_server.parse import parse
from xds_server.sources.yaml import BrokenText, Chunk, chunks, line_of, load_json, load_yaml

SUFFIXES = (".yaml", ".yml", ".json")
KEPT = "the last good version stays in effect"
SETTLE = 20  # scans for which a directory may go on changing before it is read as it is
Found = Object | Problem


class Stamp(NamedTuple):
    """Equal stamps: nobody has touched the file."""

    modified: int  # ns
    size: int
    inode: int
    error: str = ""  # why the file, or the directory of this name, cannot be read


@dataclass(frozen=True, slots=True)
class File:
    """What one file holds."""

    stamp: Stamp
    found: tuple[Found, ...] = ()
    loaded: Mapping[str, Any] = field(
        default_factory=dict
    )  # document text -> its value, so that an edit parses only itself


@dataclass(frozen=True, slots=True)
class Good:
    """An object in effect, and the file that it came from."""

    file: str
    object: Object


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of a directory, with what the next one needs."""

    state: ClusterState = ClusterState()
    files: Mapping[str, File] = field(default_factory=dict)
    good: Mapping[ObjectRef, Good] = field(default_factory=dict)

    @property
    def stamps(self) -> dict[str, Stamp]:
        return {name: file.stamp for name, file in self.files.items()}


def read(directory: Path, previous: Reading | None = None, stamps: Mapping[str, Stamp] | None = None) -> Reading:
    """Read what changed since `previous`. Raises OSError where the directory itself cannot be read."""
    before = previous or Reading()
    stamps = scan(directory) if stamps is None else stamps
    if previous and previous.stamps == stamps:
        return previous
    files = {name: read_file(directory, name, stamp, before.files.get(name)) for name, stamp in sorted(stamps.items())}
    return combine(files, before.good)


# --- one file ---------------------------------------------------------------------------------------------------------


def scan(directory: Path) -> dict[str, Stamp]:
    """Every manifest below `directory`, by its path relative to it.

    Hidden files and directories are left out: editors keep copies there, and a mounted ConfigMap its older versions.
    """
    found: dict[str, Stamp] = {}

    def visit(folder: Path, prefix: str) -> None:
        for entry in os.scandir(folder):
            name = prefix + entry.name
            try:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    visit(folder / entry.name, f"{name}/")
                elif entry.name.endswith(SUFFIXES) and entry.is_file():
                    status = entry.stat()
                    found[name] = Stamp(status.st_mtime_ns, status.st_size, status.st_ino)
            except FileNotFoundError:
                continue  # deleted while we looked
            except OSError as error:
                found[name] = Stamp(0, 0, 0, error.strerror or type(error).__name__)

    visit(directory, "")
    return found


def read_file(directory: Path, name: str, stamp: Stamp, before: File | None) -> File:
    if before and before.stamp == stamp:
        return before
    if stamp.error:
        return File(stamp, (unreadable(name, f"cannot be read ({stamp.error}); check its permissions"),))
    try:
        text = (directory / name).read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return File(stamp, (unreadable(name, f"must be UTF-8 text, but byte {error.start} is not; save it as UTF-8"),))
    except FileNotFoundError:
        return File(stamp)  # deleted since the scan; the next one says so
    except OSError as error:
        return File(stamp, (unreadable(name, f"cannot be read ({error.strerror}); check its permissions"),))
    old = before.loaded if before else {}
    loaded: dict[str, Any] = {}
    return File(stamp, tuple(objects(name, text, old, loaded)), loaded)


def unreadable(source: str, message: str) -> Problem:
    return Problem(None, "", "InvalidObject", message, source)


def objects(name: str, text: str, old: Mapping[str, Any], loaded: dict[str, Any]) -> Iterator[Found]:
    """Every object of a file that we read, or what is wrong with it; fills `loaded`."""
    is_json = name.endswith(".json")
    for chunk in [Chunk(1, text)] if is_json else chunks(text):
        try:
            value = old[chunk.text] if chunk.text in old else (load_json if is_json else load_yaml)(chunk.text)
        except BrokenText as error:
            place = f"{name}:{chunk.line + error.line - 1}"
            yield unreadable(place, f"not {'JSON' if is_json else 'YAML'}: {error.message}; correct it")
            continue
        loaded[chunk.text] = value
        yield from document(name, chunk, value)


def document(name: str, chunk: Chunk, value: Any) -> Iterator[Found]:
    """The objects of one document: one, or each item of a List."""

    def place(prefix: str, path: str) -> str:
        return f"{name}:{chunk.line + line_of(chunk.text, prefix + path) - 1}"

    start = f"{name}:{chunk.line}"
    if value is None:
        return
    if not isinstance(value, dict):
        yield unreadable(start, "must be an object; write 'apiVersion:' and 'kind:' lines")
    elif isinstance(value.get("items"), list) and isinstance(kind := value.get("kind"), str) and kind.endswith("List"):
        for index, item in enumerate(value["items"]):
            prefix = f"items[{index}]"
            if isinstance(item, dict):
                yield from one(item, place(prefix, ""), partial(place, f"{prefix}."))
            else:
                yield unreadable(place(prefix, ""), "each item of a List must be an object; write its kind and fields")
    else:
        yield from one(value, start, partial(place, ""))


def one(value: Mapping[str, Any], source: str, place: Callable[[str], str]) -> Iterator[Found]:
    try:
        found = parse(value, source, place)
    except InvalidObject as invalid:
        yield invalid.problem
    else:
        if found is not None:
            yield found


# --- all files --------------------------------------------------------------------------------------------------------


def combine(files: Mapping[str, File], before: Mapping[ObjectRef, Good]) -> Reading:
    """Decide between files that name the same object, and keep the last good version of what is broken."""
    claims: dict[ObjectRef, list[tuple[str, Found]]] = {}
    nameless: list[tuple[str, Problem]] = []
    for name, file in sorted(files.items()):
        for found in file.found:
            ref = found.ref if isinstance(found, Problem) else found.meta.ref
            if ref is not None:
                claims.setdefault(ref, []).append((name, found))
            elif isinstance(found, Problem):
                nameless.append((name, found))
    good: dict[ObjectRef, Good] = {}
    problems: list[Problem] = []
    for ref, named in claims.items():
        chosen = choose(named, before.get(ref))
        if chosen:
            good[ref] = chosen
        problems += complaints(named, kept=chosen is not None and chosen is before.get(ref))
    for (
        name,
        problem,
    ) in nameless:  # which objects it held, nobody can say: all that its file had and that are nowhere now
        lost = {ref: was for ref, was in before.items() if ref not in good and holds(name, was.file)}
        good |= lost
        problems.append(replace(problem, message=f"{problem.message}; {KEPT}") if lost else problem)
    state = ClusterState.of(with_namespaces(good), sorted(dict.fromkeys(problems), key=position))
    return Reading(state, files, good)


def holds(name: str, file: str) -> bool:
    """Whether `name` is the file or a directory around it."""
    return file == name or file.startswith(f"{name}/")


def choose(named: list[tuple[str, Found]], last: Good | None) -> Good | None:
    """The first file that has the object wins, in the version that is good there now or was good there last."""
    for name, found in named:
        if not isinstance(found, Problem):
            return Good(name, found)
        if last and last.file == name:
            return last
    return last


def complaints(named: list[tuple[str, Found]], *, kept: bool) -> Iterator[Problem]:
    """What is wrong with each claim to one object; each after the first is a duplicate too."""
    first = named[0][1]
    first_source = first.source if isinstance(first, Problem) else first.meta.source
    for index, (_, found) in enumerate(named):
        if isinstance(found, Problem):
            yield replace(found, message=f"{found.message}; {KEPT}") if kept else found
        elif index:
            meta = found.meta
            message = f"is also in {first_source}, which wins by its place; remove or rename one of them"
            yield Problem(meta.ref, "metadata.name", "DuplicateObject", message, meta.source)


def with_namespaces(good: Mapping[ObjectRef, Good]) -> Iterator[Object]:
    """The objects, and the Namespaces that nobody wrote down: selectors match them by the name that each is labelled with."""
    for ref in sorted({ObjectRef("", "Namespace", "", ref.namespace) for ref in good if ref.namespace}):
        if ref not in good:
            yield Namespace(Meta(ref, labels={"kubernetes.io/metadata.name": ref.name}))
    for found in good.values():
        yield found.object


def position(problem: Problem) -> tuple[str, int]:
    name, _, line = problem.source.rpartition(":")
    return (name, int(line)) if name and line.isdigit() else (problem.source, 0)


def located(problem: Problem, directory: Path) -> Problem:
    """The problem with the line of its field, where only that of its object is known: what `resolve` finds names no lines.

    Reads the file again, for problems only; a file that has changed meanwhile may be a line off.
    """
    name, line = position(problem)
    if not line or not problem.field:
        return problem
    try:
        text = (directory / name).read_text()
    except (OSError, ValueError):
        return problem
    chunk = next((each for each in reversed(list(chunks(text))) if each.line <= line), None)
    if chunk is None or name.endswith(".json"):
        return problem
    prefixes = [""] if chunk.line == line else [f"items[{index}]." for index in range(chunk.text.count("\n- "))]
    for prefix in prefixes:
        if not prefix or chunk.line + line_of(chunk.text, prefix.rstrip(".")) - 1 == line:
            return replace(problem, source=f"{name}:{chunk.line + line_of(chunk.text, prefix + problem.field) - 1}")
    return problem


# --- the shell --------------------------------------------------------------------------------------------------------


async def watch(directory: Path, states: Latest[ClusterState], poll: float = 0.25) -> None:
    """Publish the directory's state, then each change to it, within about `poll` seconds. Never returns.

    Raises OSError, which names the directory, where it cannot be read at the start. Later that is a Problem.
    """
    reading = await asyncio.to_thread(read, directory, None, await settled(directory, {}, poll))
    state = reading.state
    if not reading.stamps:
        state = replace(state, problems=(unreadable(str(directory), f"holds no manifest ({', '.join(SUFFIXES)})"),))
    while True:
        states.set(state)  # an equal state wakes nobody
        await asyncio.sleep(poll)
        try:
            stamps = await settled(directory, reading.stamps, poll)
        except OSError as error:
            message = f"cannot be read ({error.strerror}); restore it; the last state stays in effect"
            gone = unreadable(str(directory), message)
            state = replace(reading.state, problems=(*reading.state.problems, gone))
            continue
        if reading.stamps and not stamps:  # more often a volume that went away than a wish to serve nothing
            message = "holds no manifest any more; restore them; the last state stays in effect"
            state = replace(reading.state, problems=(*reading.state.problems, unreadable(str(directory), message)))
            continue
        reading = await asyncio.to_thread(read, directory, reading, stamps)
        state = reading.state


async def settled(directory: Path, known: Mapping[str, Stamp], poll: float) -> dict[str, Stamp]:
    """The directory's stamps, once two scans agree: an editor that empties a file and then fills it deletes nothing."""
    stamps = await asyncio.to_thread(scan, directory)
    for _ in range(SETTLE):
        if stamps == known:
            break
        known = stamps
        await asyncio.sleep(poll / 5)
        stamps = await asyncio.to_thread(scan, directory)
    return stamps
