"""Text of manifests -> plain JSON values, one document at a time, and the line of each field for those that are wrong.

A file is cut at its document markers first: they can stand nowhere else at the start of a line (YAML 1.2, 9.1.2), so that
one broken document harms no other and an edit to a large file parses only the documents that changed.
Values are what JSON can hold: no dates, no bytes, no keys but text. Positions are computed only on demand.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import orjson
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

MARKER = re.compile(r"^(?:---|\.\.\.)(?=\s|$)", re.MULTILINE)
MAX_DEPTH = 64  # etcd would refuse long before
MAX_SETTINGS = 64 * 1024  # characters of settings in a ConfigMap: a quarter of a second
MAX_NODES = 1_000_000  # after aliases are written out: a few lines of them can stand for billions


class BrokenText(Exception):
    """Not YAML or JSON, or more than JSON can hold; `line` counts from 1 in the document's text."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message


class Chunk(NamedTuple):
    """One document's text, and the line of the file (from 1) on which it starts."""

    line: int
    text: str


class Constructor(SafeConstructor):
    """YAML without dates: one is the text that it is written as."""


for tag in ("timestamp", "value"):
    Constructor.add_constructor(f"tag:yaml.org,2002:{tag}", SafeConstructor.construct_yaml_str)


def chunks(text: str) -> Iterator[Chunk]:
    """The documents of a YAML file that hold more than comments."""
    starts = [0, *(found.start() for found in MARKER.finditer(text)), len(text)]
    line = 1
    for start, end in pairwise(starts):
        part = text[start:end]
        body = MARKER.sub("", part, count=1) if start or part.startswith("---") else part
        blank = re.match(r"(?:[ \t]*(?:#[^\n]*|%[^\n]*)?(?:\n|$))*", body)
        skipped = blank.end() if blank else 0
        if skipped < len(body):
            yield Chunk(line + body[:skipped].count("\n"), body[skipped:])
        line += part.count("\n")


def load_yaml(text: str) -> Any:
    """The one document of `text`. Raises BrokenText."""
    yaml = YAML(typ="safe")
    yaml.Constructor = Constructor
    try:
        value = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(str(part) for part in (error.problem, error.context) if part).strip() or "not YAML"
        raise BrokenText(mark.line + 1 if mark else 1, said) from error
    except (YAMLError, ValueError, RecursionError, OverflowError, TypeError, AttributeError, KeyError) as error:
        # the last few: values of explicit tags (!!int x) that the library does not expect
        raise BrokenText(1, str(error).partition("\n")[0] or type(error).__name__) from error
    return plain(value)


def load_settings(text: str) -> Any:
    """The same for the content of a ConfigMap, which is asked for at every change of anything: remembered, so leave it as it is."""
    if len(text) > MAX_SETTINGS:
        raise BrokenText(1, f"longer than {MAX_SETTINGS} characters; shorten it")
    found = _remembered(text)
    if isinstance(found, BrokenText):
        raise BrokenText(found.line, found.message)
    return found


@lru_cache(maxsize=1024)
def _remembered(text: str) -> Any:
    try:
        return load_yaml(text)
    except BrokenText as broken:
        return broken


def load_json(text: str) -> Any:
    """Raises BrokenText."""
    try:
        return plain(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise BrokenText(error.lineno, error.msg) from error


def plain(value: Any) -> Any:
    """`value` if JSON can hold it, with aliases written out; raises BrokenText."""
    left = MAX_NODES

    def copy(node: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise BrokenText(1, "too large once its aliases are written out, or nested too deeply")
        match node:
            case dict():
                for key in node:
                    if not isinstance(key, str):
                        raise BrokenText(1, f"key {key!r:.60} is not text; write it in quotes")
                return {key: copy(item, depth + 1) for key, item in node.items()}
            case list() | tuple():
                return [copy(item, depth + 1) for item in node]
            case float() if not math.isfinite(node):
                raise BrokenText(1, f"the number {node} has no JSON form; write a finite one")
            case str() | bool() | int() | float() | None:
                return node
        raise BrokenText(1, f"a value of type {type(node).__name__} has no JSON form; write text or a number")

    return copy(value, 0)


def line_of(text: str, path: str) -> int:
    """The line, from 1, of the field at `path`, or of the nearest thing around it that exists.

    A path is as in a Problem: spec.rules[0].name, metadata.annotations[example.com/key].
    """
    node, line = composed(text), 1
    while isinstance(node, Node) and path:
        found = step(node, path)
        if found is None:
            break
        line, node, path = found
    return line


@lru_cache(maxsize=1)  # many mistakes in one large document are asked for one after the other
def composed(text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, ValueError, RecursionError):
        return None


def step(node: Node, path: str) -> tuple[int, Node, str] | None:
    """(line, node, rest of the path) one level down; None where the path leads nowhere."""
    if isinstance(node, SequenceNode):
        index = re.match(r"\[(\d{1,9})\]", path)
        if not index or int(index[1]) >= len(node.value):
            return None
        item = node.value[int(index[1])]
        return item.start_mark.line + 1, item, path[index.end() :]
    if not isinstance(node, MappingNode):
        return None
    for key, item in sorted(node.value, key=lambda pair: -len(str(pair[0].value))):  # keys may contain dots
        for written in (f".{key.value}", f"[{key.value}]", str(key.value)):
            rest = path[len(written) :]
            if path.startswith(written) and rest[:1] in ("", ".", "["):
                return key.start_mark.line + 1, item, rest
    return None
