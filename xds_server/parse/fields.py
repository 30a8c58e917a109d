"""A cursor over one Kubernetes object: typed readers that know their path, so that every mistake names its field and remedy.

`child` and `each` check for unknown keys once their reader has returned, as the API server's strict field validation does.
Source: Kubernetes API conventions (an absent field and a null one are the same). Cases: tests/xds_server/test_parse.py.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from xds_server.model.objects import InvalidObject, ObjectRef, Problem
from xds_server.parse.forms import DURATION, Form

T = TypeVar("T")
D = TypeVar("D")
LIMIT = 1000  # where the schema sets no maximum of its own
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


@dataclass(slots=True)
class Document:
    """What every cursor into one object shares."""

    ref: ObjectRef | None = None  # None until the identity has been read
    source: str = ""
    line_of: Callable[[str], str] | None = None  # the exact source of a field; only asked for when something is wrong
    strict: bool = True  # unknown keys are mistakes
    private: bool = False  # values are never repeated in a message (Secret)

    def fail(self, field: str, message: str, reason: str = "InvalidObject") -> NoReturn:
        source = self.line_of(field) if self.line_of else self.source
        raise InvalidObject(Problem(self.ref, field, reason, message, source))

    def shown(self, value: object) -> str:
        """A value for a message: short, and only its type where it may be confidential."""
        match value:
            case Mapping():
                return "an object"
            case list() | tuple():
                return "a list"
            case bool() | None if not self.private:
                return {True: "true", False: "false", None: "null"}[value]
            case int() | float() if not self.private and abs(value) < 2**64:
                return repr(value)
            case str() if not self.private:
                return repr(value if len(value) <= 60 else f"{value[:57]}...")
        return f"a value of type {type(value).__name__}"


def seconds(text: str) -> float:
    """Of a text that has the form DURATION."""
    parts = re.findall(r"([0-9]+)(ms|h|m|s)", text)
    return round(sum(int(number) * UNITS[unit] for number, unit in parts), 3)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of `known` that was most likely meant."""
    names = {name.lower(): name for name in known if isinstance(name, str)}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=cutoff)
    return names[found[0]] if found else None


def well_formed(text: str) -> bool:
    """False for lone surrogates, which JSON can write but nothing can encode."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def one_of(options: Iterable[object]) -> str:
    return "one of " + ", ".join(map(str, options))


class Fields:
    """One JSON object of a document. A reader without a default raises InvalidObject where its field is missing."""

    __slots__ = ("_known", "_open", "document", "path", "values")

    def __init__(self, values: Mapping[str, Any], path: str, document: Document) -> None:
        self.values, self.path, self.document = values, path, document
        self._known: set[str] = set()
        self._open = False

    # --- the cursor ---------------------------------------------------------------------------------------------------

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path and name else self.path or name

    def fail(self, name: str, message: str, reason: str = "InvalidObject") -> NoReturn:
        """Refuse field `name`; "" refuses this object."""
        self.document.fail(self.at(name), message, reason)

    def get(self, name: str) -> Any:
        self._known.add(name)
        return self.values.get(name)

    def has(self, name: str) -> bool:
        return self.get(name) is not None

    def ignore(self, *names: str) -> None:
        """Fields of the schema that do not change the gateway."""
        self._known.update(names)

    def open(self) -> None:
        """Unknown keys are no mistake here: a kind of which we read only a few fields."""
        self._open = True

    def done(self) -> None:
        """Refuse the first key that no reader asked for."""
        if self._open or not self.document.strict or self.values.keys() <= self._known:
            return
        unknown = next(key for key in self.values if key not in self._known)
        if not isinstance(unknown, str):
            self.fail("", f"key {self.document.shown(unknown)} must be text; write it in quotes")
        meant = nearest(unknown, self._known - self.values.keys()) or nearest(unknown, self._known)
        remedy = f"did you mean {meant}?" if meant else f"remove it; known here: {', '.join(sorted(self._known))}"
        self.fail(unknown, f"unknown field; {remedy}")

    def missing(self, name: str) -> NoReturn:
        meant = nearest(name, self.values, cutoff=0.75)
        self.fail(name, f"must be set; did you misspell it as {meant}?" if meant else "must be set; add it")

    def _wrong(self, name: str, must: str, value: object, remedy: str, reason: str = "InvalidObject") -> NoReturn:
        self.fail(name, f"must be {must}, got {self.document.shown(value)}; {remedy}", reason)

    # --- scalars ------------------------------------------------------------------------------------------------------

    def text(self, name: str, default: str | None = None, *, form: Form | None = None) -> str:
        value = self.get(name)
        if value is None:
            return self.missing(name) if default is None else default
        return self.checked_text(name, value, form)

    def checked_text(self, name: str, value: object, form: Form | None = None) -> str:
        if not isinstance(value, str):
            quote = "write it in quotes" if isinstance(value, bool | int | float) else "write one text value"
            self._wrong(name, "text", value, quote)
        if not well_formed(value):
            self.fail(name, "must be valid Unicode, got a lone surrogate; remove it")
        if form and len(value) > form.longest:
            self.fail(name, f"must be at most {form.longest} characters, got {len(value)}; shorten it")
        if form and not form.pattern.fullmatch(value):
            self._wrong(name, form.must, value, form.remedy)
        return value

    def integer(self, name: str, default: int | None = None, *, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        value = self.get(name)
        if value is None:
            return self.missing(name) if default is None else default
        return self.checked_integer(name, value, low, high)

    def checked_integer(self, name: str, value: object, low: int, high: int) -> int:
        must = f"an integer from {low} to {high}"
        if isinstance(value, bool) or not isinstance(value, int):
            self._wrong(name, must, value, "write it without quotes" if isinstance(value, str) else "write a number")
        if not low <= value <= high:
            self._wrong(name, must, value, "choose one in that range")
        return value

    def port(self, name: str = "port", default: int | None = None) -> int:
        return self.integer(name, default, low=1, high=65535)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._wrong(name, "true or false", value, "write it without quotes")
        return value

    def choice(self, name: str, options: Iterable[str], default: str | None = None) -> Any:
        """One of an enumeration; typed Any because the caller's field is a Literal of the same words."""
        value = self.text(name, default)
        if value not in options:
            meant = nearest(value, options)
            remedy = f"did you mean {meant}?" if meant else "choose one of them"
            self._wrong(name, one_of(options), value, remedy, "UnsupportedValue")
        return value

    def duration(self, name: str) -> float | None:
        """Seconds, from a GEP-2257 duration; None where absent."""
        if not self.has(name):
            return None
        return seconds(self.text(name, form=DURATION))

    # --- structure ----------------------------------------------------------------------------------------------------

    def child(self, name: str, read: "Callable[[Fields], T]") -> T:
        """What `read` makes of an object; every key in it must be one that `read` asked for."""
        value = self.get(name)
        return self.missing(name) if value is None else self._object(name, value, read)

    def optional(self, name: str, read: "Callable[[Fields], T]", default: D) -> T | D:
        """As `child`, or the default where the object is absent."""
        value = self.get(name)
        return default if value is None else self._object(name, value, read)

    def _object(self, name: str, value: object, read: "Callable[[Fields], T]") -> T:
        if not isinstance(value, Mapping):
            self._wrong(name, "an object", value, "write its fields indented below it")
        inner = Fields(value, self.at(name), self.document)
        found = read(inner)
        inner.done()
        return found

    def items(self, name: str, *, low: int = 0, high: int = LIMIT) -> list[Any]:
        """A list of anything; absent is empty."""
        value = self.get(name)
        if value is None:
            return self.missing(name) if low else []
        if not isinstance(value, list | tuple):
            self._wrong(name, "a list", value, "write each item on a line that starts with '- '")
        if len(value) < low:
            self.fail(name, f"must have at least {low} item, got {len(value)}; add one")
        if len(value) > high:
            self.fail(name, f"must have at most {high} items, got {len(value)}; split the object")
        return list(value)

    def each(
        self, name: str, read: "Callable[[Fields], T]", *, low: int = 0, high: int = LIMIT, unique: str = ""
    ) -> tuple[T, ...]:
        """What `read` makes of each object in a list; the values of the field `unique` must differ."""
        items = self.items(name, low=low, high=high)
        found = tuple(self._object(f"{name}[{index}]", item, read) for index, item in enumerate(items))
        if unique:
            keys = [item.get(unique) for item in items]
            self.distinct([f"{name}[{index}].{unique}" for index in range(len(keys))], keys)
        return found

    def distinct(self, names: Iterable[str], keys: Iterable[object]) -> None:
        """Refuse a key that an earlier item has; None is no key."""
        seen: list[object] = []
        for name, key in zip(names, keys, strict=True):
            if key is not None and key in seen:
                self.fail(name, f"must be unique, got {self.document.shown(key)} again; change or remove it")
            seen.append(key)

    def texts(self, name: str, *, low: int = 0, high: int = LIMIT, form: Form | None = None) -> tuple[str, ...]:
        items = self.items(name, low=low, high=high)
        return tuple(self.checked_text(f"{name}[{index}]", item, form) for index, item in enumerate(items))

    def integers(self, name: str, *, low: int, high: int) -> tuple[int, ...]:
        items = self.items(name)
        return tuple(self.checked_integer(f"{name}[{index}]", item, low, high) for index, item in enumerate(items))

    def strings(self, name: str, *, form: Form | None = None) -> dict[str, str]:
        """A map of text to text, such as labels; a null value is the empty text."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._wrong(name, "an object", value, "write 'key: value' lines indented below it")
        found = {}
        for key, item in value.items():
            if not isinstance(key, str) or not well_formed(key):
                self.fail(name, f"key {self.document.shown(key)} must be text; write it in quotes")
            found[key] = "" if item is None else self.checked_text(f"{name}[{key}]", item, form)
        return found
