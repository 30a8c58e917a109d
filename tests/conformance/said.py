"""What each test of a Go test binary said: its -test.v output, sorted by test, since tests that run side by side speak in turns."""

import re
from collections.abc import Iterator

_NAME = re.compile(r"=== (?:RUN|CONT|NAME|PAUSE)\s+(\S+)$")
_END = re.compile(r"(\s*)--- (PASS|FAIL|SKIP): (\S+)")
_LINES, _WIDTH = 40, 400  # of one test: whoever asks again and again for half a minute says the same each time


class Said:
    def __init__(self) -> None:
        self._name = ""
        self._lines: dict[str, list[str]] = {}
        self._failed: list[str] = []

    def hear(self, line: str) -> bool:
        """One line; True if it is worth showing at once: a test has ended, or a part of one has failed."""
        if found := _NAME.match(line):
            self._name = found[1]
            return False
        if found := _END.match(line):
            if found[2] == "FAIL":
                self._failed.append(found[3])
            return found[2] == "FAIL" or (found[2] == "PASS" and found[3].count("/") == 1)
        self._lines.setdefault(self._name, []).append(line.rstrip()[:_WIDTH])
        return False

    def failures(self) -> Iterator[str]:
        """Every test that failed, with the first and the last of its lines."""
        for name in self._failed:
            yield f"=== {name}"
            lines = self._lines.get(name, [])
            yield from lines[: _LINES // 2]
            rest = lines[_LINES // 2 :]
            if len(rest) > _LINES // 2:
                yield f"    ... {len(rest) - _LINES // 2} more lines ..."
            yield from rest[-(_LINES // 2) :]
