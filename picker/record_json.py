"""DecisionRecords as JSON: one line each, the same bytes for the same record; and back, so that a record can be made again.

A line is `{"penstock_decision": 1, ...}`. Its configuration is a digest, and the configuration itself comes before it as a line
`{"penstock_config": 1, ...}`, unless the record carries it. Fields are those of the values, by name. One that has its default is
left out if that is 0, empty or unknown: what a later version takes for granted must not change what was seen. Floats are written
such that they are read as the same floats; infinite ones are "inf" and "-inf".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

from picker.record import Config, DecisionRecord

VERSION = 2
DECISION, CONFIG = "penstock_decision", "penstock_config"
_MOST = 1 << 20  # entries of any list: a line is no reason to run out of memory
_LARGEST = 1 << 32  # bytes of a prompt

T = TypeVar("T")


class RecordError(Exception):
    """A line that is no record. `field` names what is wrong in it, "" where all of it is."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


def config_line(config: Config) -> bytes:
    """Newline included; to be written before the first record that has this configuration."""
    return _line({CONFIG: VERSION, "digest": config.digest, "content": config.content})


def record_line(
    record: DecisionRecord, *, inline: bool = False, beside: Mapping[str, Any] = MappingProxyType({})
) -> bytes:
    """Newline included. `inline`: with the configuration; `beside`: what else the reader of a log wants, and `read` passes over."""
    return _line({**beside, **plain(record, inline=inline)})


def plain(record: DecisionRecord, *, inline: bool = False) -> dict[str, Any]:
    """The record as data for JSON."""
    found: dict[str, Any] = {DECISION: VERSION, **_plain(record)}
    config = record.config
    found["config"] = {"digest": config.digest, "content": config.content} if inline else config.digest
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file that is a record, or what is wrong with it."""

    number: int
    record: DecisionRecord | None = None
    error: str = ""


def read(lines: Sequence[bytes] | Iterator[bytes]) -> Iterator[Line]:
    """The records of a file; lines that are something else, such as those of the request log, are passed over."""
    configs: dict[str, Config] = {"default": Config()}
    for number, text in enumerate(lines, 1):
        try:
            content = orjson.loads(text)
        except orjson.JSONDecodeError:
            if DECISION.encode() in text:
                yield Line(number, error="the line is cut off, or no JSON")
            continue
        if not isinstance(content, dict):
            continue
        try:
            if CONFIG in content:
                config = _config(content)
                configs[config.digest] = config
            elif DECISION in content:
                yield Line(number, record(content, configs))
        except RecordError as error:
            yield Line(number, error=str(error))


def record(content: Mapping[str, Any], configs: Mapping[str, Config]) -> DecisionRecord:
    """The record that `plain` made this of. Raises RecordError."""
    _version(content, DECISION)
    given = content.get("config")
    if isinstance(given, Mapping):
        config = _config({CONFIG: VERSION, **given})
    elif isinstance(given, str) and given in configs:
        config = configs[given]
    else:
        raise RecordError(
            "config", f"the configuration {given!r} is not among the lines before this one; keep the whole file"
        )
    found: DecisionRecord = _read(DecisionRecord, {**content, "config": {"digest": config.digest}}, "")
    object.__setattr__(found, "config", config)
    _check(found)
    return found


def _check(found: DecisionRecord) -> None:
    if not 0 <= found.request.prompt_bytes <= _LARGEST:
        raise RecordError("request.prompt_bytes", "is larger than any body")
    if not 0 <= found.request.media <= _MOST:
        raise RecordError("request.media", "is more than any body has")
    if found.turn is not None and not found.candidates:
        raise RecordError("candidates", "must not be empty where there is a turn")
    if found.picked is not None:
        names = {str(one.endpoint) for one in found.candidates}
        if not found.picked.endpoints or not names.issuperset(found.picked.endpoints):
            raise RecordError("picked.endpoints", "must be some of the candidates")


def _line(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _version(content: Mapping[str, Any], kind: str) -> None:
    if content[kind] != VERSION:
        raise RecordError(kind, f"is {content[kind]!r}; this version of Penstock reads {VERSION}")


def _config(content: Mapping[str, Any]) -> Config:
    _version(content, CONFIG)
    digest, found = content.get("digest"), content.get("content")
    if not isinstance(digest, str) or not (found is None or isinstance(found, dict)):
        raise RecordError("config", "must have a digest, and a mapping as its content")
    return Config(digest, found)


# --- values -----------------------------------------------------------------------------------------------------------


@cache
def _fields(kind: type) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(kind)
    return tuple((one, hints[one.name]) for one in fields(kind))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        found = {}
        for one, _ in _fields(type(value)):
            inner = getattr(value, one.name)
            if not (inner == one.default and (not inner or inner in (math.inf, -math.inf))):
                found[one.name] = _plain(inner)
        return found
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    return value


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value` as a `kind`, which is a type as the fields of our values have them."""
    if is_dataclass(kind):
        return _value(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        if value is None and NoneType in inner:
            return None
        return _read(next(one for one in inner if one is not NoneType), value, where)
    if origin is Literal:
        if value not in inner:
            raise RecordError(where, f"must be one of {', '.join(map(repr, inner))}, not {value!r:.80}")
        return value
    if origin in (tuple, frozenset):
        return _sequence(origin, inner, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise RecordError(where, "must be a mapping")
        return {key: _read(inner[1], one, f"{where}.{key}") for key, one in value.items()}
    return _scalar(kind, value, where)


def _value(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RecordError(where, "must be a mapping")
    found = {}
    for one, hint in _fields(kind):
        at = f"{where}.{one.name}" if where else one.name
        if one.name in value:
            found[one.name] = _read(hint, value[one.name], at)
        elif one.default is MISSING and one.default_factory is MISSING:
            raise RecordError(at, "is missing")
    return kind(**found)


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list) or len(value) > _MOST:
        raise RecordError(where, "must be a list")
    if len(inner) == 1 or inner[1:] == (...,):
        return origin(_read(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if len(value) != len(inner):
        raise RecordError(where, f"must have {len(inner)} entries, not {len(value)}")
    return tuple(_read(hint, one, f"{where}[{i}]") for i, (hint, one) in enumerate(zip(inner, value, strict=True)))


def _scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float and value in ("inf", "-inf", "nan"):
        return float(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number if kind in (int, float) else isinstance(value, kind)
    if not fits:
        names = {int: "a number", float: "a number", str: "a string", bool: "true or false"}
        raise RecordError(where, f"must be {names.get(kind, kind.__name__)}, not {value!r:.80}")
    return value  # a float that is written as an integer was one
