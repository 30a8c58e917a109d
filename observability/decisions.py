"""Decisions, recorded: which of them, the latest ones for /decisions, and a log that `penstock replay` reads.

A decision is recorded where its client asks by header and may, or where it is in the sample: a share by its id, and at least one a
second. The ring keeps the records as they are, in bounded memory; they become JSON when somebody looks, or in the thread that
writes the log.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO

import orjson
from xxhash import xxh3_64_intdigest

from observability.catalogue import DECISION_RECORDS_DROPPED_TOTAL
from observability.lines import Lines
from observability.log import linked
from picker.ask import Ask
from picker.errors import ConfigError
from picker.explain import Diverged, explanation, profile_of, summary
from picker.record import DecisionRecord, Why
from picker.record_json import config_line, plain, record_line
from xds_server.model.names import EXPLAIN_HEADER

_OFTEN = 1.0  # seconds: so long after the last one the next decision is recorded, whatever its id
_MOST_ASKED = 20  # a second: whoever may ask must not slow down the others, nor empty the ring
_REPEAT = 1000  # lines after which a log says its configurations again: its file may have been cut
_NO = frozenset(("", "0", "false", "no", "off"))


class Decisions:
    """Says which decisions are recorded, and keeps the latest. For one event loop.

    `rate` is the share in [0, 1] that is recorded unasked, 0 for none; `header` lets clients ask. `capacity` is records,
    `candidates` what they have together: a record of a large pool is large.
    """

    def __init__(
        self, rate: float = 0.01, *, header: bool = False, capacity: int = 256, candidates: int = 20_000
    ) -> None:
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate is a share of the decisions, in [0, 1], not {rate}")
        self.rate, self.header = rate, header
        self._below = int(rate * 2**64)
        self._capacity, self._candidates = capacity, candidates
        self._held = 0  # candidates in the ring
        self._ring: OrderedDict[str, DecisionRecord] = OrderedDict()  # oldest first
        self._last = float("-inf")
        self._second, self._asked = float("-inf"), 0
        self.on_record: Callable[[DecisionRecord], None] = lambda _: None

    def wants(self, ask: Ask) -> Why | None:
        """Asked about each request: cheap."""
        if self.header and ask.request.headers.get(EXPLAIN_HEADER, "").lower() not in _NO and self._may_ask(ask.now):
            return "asked"
        if self._below and (ask.now - self._last >= _OFTEN or xxh3_64_intdigest(ask.id.encode()) < self._below):
            self._last = ask.now
            return "sampled"
        return None

    def take(self, record: DecisionRecord) -> None:
        self._ring[record.id] = record
        self._held += len(record.candidates)
        while len(self._ring) > self._capacity or (self._held > self._candidates and len(self._ring) > 1):
            self._held -= len(self._ring.popitem(last=False)[1].candidates)
        self.on_record(record)

    def latest(self, limit: int) -> list[DecisionRecord]:
        """The newest first."""
        return list(islice(reversed(self._ring.values()), limit))

    def get(self, id_: str) -> DecisionRecord | None:
        return self._ring.get(id_)

    def _may_ask(self, now: float) -> bool:
        if now - self._second >= 1.0:
            self._second, self._asked = now, 0
        self._asked += 1
        return self._asked <= _MOST_ASKED


def listed(records: list[DecisionRecord]) -> bytes:
    """What /decisions answers. Pure, so it may run in a thread."""
    return orjson.dumps({"decisions": [summary(one) for one in records]}, option=orjson.OPT_APPEND_NEWLINE)


def explained(record: DecisionRecord) -> bytes:
    """What /decisions/ID answers: one line that `penstock replay` reads, with the explanation beside the record."""
    found: dict[str, Any] = plain(record, inline=True)
    try:
        found["explanation"] = explanation(record, profile_of(record.config))
    except (ConfigError, Diverged, LookupError) as error:
        found["explanation"] = {"error": str(error)}
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


class DecisionLog:
    """Give `offer` to `Decisions.on_record`, and run `lines`. Only making and writing lines is in a thread."""

    def __init__(self, stream: BinaryIO, *, capacity: int = 1024, project: str = "") -> None:
        """`project` makes trace ids links in Cloud Logging."""
        self._project = project
        self._told: dict[str, int] = {}  # digests of configurations -> the line after which they were last written
        self._count = self._lost = 0
        self.lines: Lines[DecisionRecord] = Lines(stream, self._made, capacity, DECISION_RECORDS_DROPPED_TOTAL)
        self.offer = self.lines.offer

    def _made(self, records: list[DecisionRecord]) -> bytes:
        if self.lines.dropped != self._lost:  # perhaps with the configurations that were told
            self._lost = self.lines.dropped
            self._told.clear()
        return b"".join(line for one in records for line in self._lines_of(one))

    def _lines_of(self, record: DecisionRecord) -> Iterator[bytes]:
        digest = record.config.digest
        told = self._told.get(digest)
        if told is None or self._count - told >= _REPEAT:
            self._told[digest] = self._count
            yield config_line(record.config)
        self._count += 1
        yield record_line(record, beside=linked(record.request.trace_id, self._project))
