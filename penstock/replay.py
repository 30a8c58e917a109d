"""Decides the recorded decisions of a file again, and says whether each comes out the same, bit for bit; or what another
configuration would have decided. The file is what `penstock run --decisions FILE` writes, or what /decisions/ID answers.
Exit status 1: some decision differs, or a line cannot be read; 2: there is nothing to decide again.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, quantiles
from typing import BinaryIO

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from penstock.arguments import Parser, scorers_option
from penstock.process import UserError
from picker import own_scorers, ttft
from picker.errors import ConfigError
from picker.explain import Diverged, differences, explanation, outcome, profile_of, replay
from picker.profile import read as read_profile
from picker.record import DecisionRecord
from picker.record_json import Line, read
from picker.stage import Pick, Profile


def options(command: Parser) -> None:
    command.description = __doc__
    command.add_argument("file", metavar="FILE", help="records, one JSON line each; - is standard input")
    command.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="an EndpointPickerConfig: say which picks it would change, and how the predicted time to first token changes",
    )
    command.add_argument("--show", metavar="ID", help="print this record's explanation: filters, scores, predictions")
    scorers_option(command)
    command.set_defaults(act=main)


def main(given: argparse.Namespace) -> int:
    """The exit status."""
    try:
        with _opened(given.file) as stream:
            lines = read(stream)
            if given.show:
                return _show(given.show, lines, given.file)
            if given.config:
                return _compare(lines, given.file, _profile(given.config, given.scorers))
            return _check(lines, given.file)
    except UserError as error:
        print(f"penstock replay: error: {error}", file=sys.stderr)
        return 2


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror}") from None


def _profile(file: Path, scorers: Path | None) -> Profile:
    try:
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    except (OSError, YAMLError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is no EndpointPickerConfig: it must be a mapping")
    try:
        return read_profile(content, own_scorers.own(scorers))
    except ConfigError as error:
        raise UserError(f"{file}: {error}") from None


# --- the same again ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Tally:
    same: int = 0
    differ: int = 0
    unreadable: int = 0
    refused: int = 0  # without a choice: because of what else waited, or because its time was over

    @property
    def found(self) -> int:
        return self.same + self.differ + self.unreadable + self.refused


def _check(lines: Iterator[Line], name: str) -> int:
    tally = _Tally()
    profiles: dict[str, Profile] = {}
    for line in lines:
        record = line.record
        if record is None:
            tally.unreadable += 1
            print(f"{name}:{line.number}: {line.error}")
        elif record.turn is None:
            tally.refused += 1
        elif said := _differences(record, profiles):
            tally.differ += 1
            print(f"{name}:{line.number}: {record.id}: {'; '.join(said)}")
        else:
            tally.same += 1
    _nothing(tally.found, name)
    print(f"{tally.same} decisions are the same, {tally.differ} differ, {tally.unreadable} lines cannot be read")
    if tally.refused:
        print(
            f"{tally.refused} refusals came without a choice, by what else waited or by time: there is nothing to repeat"
        )
    return int(tally.differ > 0 or tally.unreadable > 0)


def _differences(record: DecisionRecord, profiles: dict[str, Profile]) -> list[str]:
    withheld = [f"the header {header} was read, and its value is not recorded" for header in record.request.withheld]
    try:
        profile = profiles.get(record.config.digest)
        if profile is None:
            profile = profiles[record.config.digest] = profile_of(record.config)
        said = differences(record, replay(record, profile))
    except (ConfigError, Diverged, LookupError) as error:
        return [str(error)]
    return [*said, *withheld] if said else []


def _nothing(found: int, name: str) -> None:
    if not found:
        raise UserError(f"{name} has no decision record; `penstock run --decisions FILE` writes them")


def _show(id_: str, lines: Iterator[Line], name: str) -> int:
    for line in lines:
        record = line.record
        if record is not None and record.id == id_:
            try:
                found = explanation(record, profile_of(record.config))
            except (ConfigError, Diverged, LookupError) as error:
                raise UserError(f"{name}:{line.number}: {error}") from None
            print(json.dumps(found, indent=2))
            return 0
    raise UserError(f"{name} has no record {id_!r} that can be read")


# --- another configuration --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Changes:
    picks: int = 0
    first: int = 0  # go elsewhere
    fallbacks: int = 0
    other: int = 0  # would wait or be refused, or would not any more
    unreadable: int = 0
    before: list[float] = field(default_factory=list)  # seconds to the first token, predicted, where both picked
    after: list[float] = field(default_factory=list)


def _compare(lines: Iterator[Line], name: str, profile: Profile) -> int:
    changes = _Changes()
    for line in lines:
        record = line.record
        if record is None:
            changes.unreadable += 1
            print(f"{name}:{line.number}: {line.error}")
        elif record.turn is not None:
            _changed(record, profile, changes)
    _nothing(changes.picks + changes.unreadable, name)
    print(
        f"{changes.picks} decisions: {changes.first} would go elsewhere, {changes.fallbacks} have other fallbacks, "
        f"{changes.other} have another outcome; {changes.unreadable} lines cannot be read"
    )
    if changes.before:
        print(f"predicted time to first token: {_spread(changes.before)} -> {_spread(changes.after)}")
        print("by the loads of then, which the old picks led to; plugins that learn began with the first record")
    return int(changes.unreadable > 0)


def _changed(record: DecisionRecord, profile: Profile, changes: _Changes) -> None:
    changes.picks += 1
    turn = record.turn
    assert turn is not None  # noqa: S101 -- no caller without it
    given = replace(record, turn=replace(turn, limited=profile.limits.enabled))
    was, found = record.picked, replay(given, profile, quoted=False).found
    if not isinstance(found, Pick) or was is None:
        if outcome(found) != outcome(was or record.refused):
            changes.other += 1
            print(f"{record.id}: {outcome(was or record.refused)} -> {outcome(found)}")
        return
    view = record.view()
    expected = dict(zip(view.names, ttft.predict(view), strict=True))
    before, after = expected[was.endpoints[0]], expected[found.endpoints[0]]
    changes.before.append(before)
    changes.after.append(after)
    if found.endpoints[0] != was.endpoints[0]:
        changes.first += 1
        print(
            f"{record.id}: {was.endpoints[0]} -> {found.endpoints[0]}, first token in {before:.3f} s -> {after:.3f} s"
        )
    elif found.endpoints != was.endpoints:
        changes.fallbacks += 1


def _spread(seconds: list[float]) -> str:
    high = quantiles(seconds, n=10, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return f"mean {mean(seconds):.3f} s, p90 {high:.3f} s"
