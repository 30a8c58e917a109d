"""Parameters: the `parameters` of one plugin, or a section of the file: each is read once, with its type.

What nobody read is an error, as llm-d's strict decoding has it. Source of durations: Go `time.ParseDuration`; of quantities:
Kubernetes `resource.Quantity`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import Any

from picker.errors import ConfigError
from picker.limits import duration
from xds_server.model.objects import LabelSelector

MOST = 1e15  # no figure of a configuration is larger: what is computed from it stays finite
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)(Ki|Mi|Gi|Ti|Pi|m|k|M|G|T|P|[eE]\d{1,2})?")
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15} | {
    f"{letter}i": 1024.0 ** (power + 1) for power, letter in enumerate("KMGTP")
}
_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 80, 80


def shown(value: Any) -> str:
    """What stands in the file, as far as a person wants to read it: it may be long, deep, or hold itself."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an integer of more than 4300 digits, which hexadecimals may be
        return "a huge number"


class Parameters:
    """A mapping of the file, and where it stands there."""

    def __init__(self, where: str, values: Any) -> None:
        self.where = where
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(where, "must be a mapping")
        self._values: dict[Any, Any] = dict(values or {})
        self._known: list[str] = []

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def names(self) -> list[str]:
        """Of everything that nobody has read yet; only those that are strings."""
        return [name for name in self._values if isinstance(name, str)]

    def error(self, name: str, message: str) -> ConfigError:
        return ConfigError(f"{self.where}.{name}", message)

    def take(self, name: str, default: Any = None) -> Any:
        """Whatever is there, unread; null counts as absent."""
        self._known.append(name)
        value = self._values.pop(name, None)
        return default if value is None else value

    def number(self, name: str, default: float, low: float = 0.0, high: float = float("inf")) -> float:
        value = self.take(name, default)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= min(high, MOST)
        if not fits:
            raise self.error(name, f"must be a number from {low:g} to {min(high, MOST):g}, not {shown(value)}")
        return float(value)

    def integer(self, name: str, default: int, low: int = 0, high: float = float("inf")) -> int:
        value = self.number(name, default, low, high)
        if value != math.floor(value):
            raise self.error(name, f"must be an integer, not {shown(value)}")
        return int(value)

    def text(self, name: str, default: str = "") -> str:
        value = self.take(name, default)
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, not {shown(value)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.take(name, ())
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
            raise self.error(name, f"must be a list of strings, not {shown(value)}")
        return tuple(value)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, not {shown(value)}")
        return value

    def choice(self, name: str, options: Sequence[str], default: str) -> str:
        value = self.text(name, default)
        if value not in options:
            raise self.error(name, f"must be one of {', '.join(options)}, not {shown(value)}")
        return value

    def duration(self, name: str, default: float) -> float:
        """Seconds."""
        value = self.take(name)
        if value is None:
            return default
        found = duration(value) if isinstance(value, str) and len(value) <= 64 else None
        if found is None:
            raise self.error(name, f"must be a duration such as 250ms, 30s or 1m30s, not {shown(value)}")
        return found

    def quantity(self, name: str, default: int | None) -> int | None:
        """A count, or bytes: 5000, 10Gi, 1G."""
        value = self.take(name)
        if value is None:
            return default
        scalar = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        found = _QUANTITY.fullmatch(str(value)) if scalar and (isinstance(value, str) or value <= MOST) else None
        if found is None:
            raise self.error(name, f"must be a quantity such as 5000, 1G or 10Gi, not {shown(value)}")
        number, unit = float(found[1]), found[2] or ""
        scaled = number * (10.0 ** int(unit[1:]) if unit[:1] in "eE" and unit else _UNITS[unit])
        if scaled > MOST * 1e3:
            raise self.error(name, f"{shown(value)} is too large")
        return int(scaled)

    def child(self, name: str) -> "Parameters":
        """A mapping inside; an absent one is empty. The caller finishes it."""
        return Parameters(f"{self.where}.{name}", self.take(name))

    def children(self, name: str) -> list["Parameters"]:
        """A list of mappings inside."""
        value = self.take(name, ())
        if not isinstance(value, (list, tuple)):
            raise self.error(name, "must be a list")
        return [Parameters(f"{self.where}.{name}[{index}]", one) for index, one in enumerate(value)]

    def selector(self) -> LabelSelector:
        """All of it, as a metav1.LabelSelector."""
        self._known += ["matchLabels", "matchExpressions"]
        try:
            found = self._values.pop("matchLabels", None) or {}
            labels = {str(key): str(value) for key, value in found.items()}
            expressions = tuple(
                (str(one["key"]), str(one["operator"]), tuple(map(str, one.get("values") or ())))
                for one in self._values.pop("matchExpressions", None) or ()
            )
        except (AttributeError, KeyError, TypeError, RecursionError):
            raise ConfigError(self.where, "must be a metav1.LabelSelector: matchLabels, matchExpressions") from None
        for _, operator, _ in expressions:
            if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
                raise ConfigError(
                    self.where, f"the operator {operator!r} is not one of In, NotIn, Exists, DoesNotExist"
                )
        return LabelSelector(labels, expressions)

    def producer(self, *names: str) -> None:
        """Names of producers: there is one index and one count here, whatever they are called."""
        for name in names:
            self.text(name)

    def finish(self) -> None:
        if self._values:
            known = ", ".join(sorted(self._known)) or "none"
            raise ConfigError(
                f"{self.where}.{min(map(str, self._values))}", f"is not known; remove it (known: {known})"
            )
